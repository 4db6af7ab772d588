"""Keeps residual activations for training in a memory-mapped half-precision cache, written as the model runs.

One folder holds, for one hookpoint, `train.f16` and `val.f16` (rows `[tokens, d]`), each row's exponent (`.exp`, int8,
see `half_rows`) and its position in its corpus (`.pos`, int64), and `state.json`, which says how many rows of each are
whole and which shards they come from. After a crash the files are cut back to that, and the pass goes on at the next
shard. Test documents are never cached, and read only for SAEs that are harvested on the way.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, NonNegativeInt, ValidationError

from catalog import Catalog
from catalog.digest import digest
from catalog.errors import InputError
from catalog.store.atomic_files import remove_partials, write_whole
from ingest.activations.finite import checked, default_batch
from ingest.activations.half_rows import in_half
from ingest.activations.residuals import Residuals
from ingest.activations.shard_harvest import HarvestReport, ShardHarvest, stale_readers
from ingest.callbacks import Counted
from ingest.model.batches import Batch, batches, load_sequences, text_shards
from ingest.model.language_model import LanguageModel
from ingest.sae.training.scaled_rows import Rows, ScaledRows
from ingest.stored.reader import Reader

STATE_FILE = "state.json"
CACHED_SPLITS = ("train", "val")


@dataclass(frozen=True)
class Riders:
    """SAEs that are harvested while text is read for the training of others."""

    readers: Mapping[str, list[Reader]]
    """By corpus, those whose activations on it are kept."""
    report: HarvestReport
    """Counts what is made of them."""


def cache_residuals(
    catalog: Catalog,
    model: LanguageModel,
    hookpoints: list[str],
    corpora: list[str],
    max_train_tokens: int | None = None,
    progress: Counted | None = None,
    riders: Riders | None = None,
) -> dict[str, Residuals]:
    """Activations of several hookpoints in one pass over the corpora; what is cached is not computed again.

    On each shard that is read here, stale activations of `riders` are made from the same pass.

    Raises InputError if a value is not finite, naming hookpoint and sequence, and for a cache that another model or
    revision left under this one's name.
    """
    shards = text_shards(catalog, corpora)
    files: list[_CacheFolder] = []
    for name in dict.fromkeys(hookpoints):
        digest = residuals_digest(catalog, model, name, corpora, max_train_tokens)
        files.append(_CacheFolder(catalog, name, digest, max_train_tokens, _made_by(model, name)))
    work = [(shard, [file for file in files if len(file.done) <= number]) for number, shard in enumerate(shards)]
    seen, total = 0, sum(shard.tokens for shard, missing in work if missing)
    try:
        for shard, missing in work:
            if not missing or all(file.full for file in missing):
                continue
            ours = riders.readers.get(shard.corpus, []) if riders else []
            stale = stale_readers(catalog, model, ours, [shard])[0]
            sequences = load_sequences(catalog, shard.corpus, shard.shard)
            one = ShardHarvest(stale, sequences) if stale else None
            for part, writing in ((sequences.of_splits(*CACHED_SPLITS), missing), (sequences.of_splits("test"), [])):
                places = list(dict.fromkeys([*(file.hookpoint for file in writing), *(one.hookpoints if one else [])]))
                for batch in batches(part, model.bos, default_batch(model)) if places else ():
                    outputs = model.read(batch.ids, places)
                    rows = {name: checked(outputs[name], batch, part, name) for name in places}
                    for file in writing:
                        file.append(rows[file.hookpoint], batch)
                    if one:
                        one.take(batch, rows)
                    if progress:
                        progress(seen := seen + len(batch.positions), total)
            for file in missing:
                file.finish_shard(shard.corpus, shard.shard)
            if one and riders:
                one.register(catalog, model, shard, riders.report)
    finally:
        for file in files:
            file.close()
    return {file.hookpoint: file.mapped() for file in files}


def open_cache(catalog: Catalog, model: LanguageModel, hookpoint: str, digest: str) -> Residuals | None:
    """The cache of that digest as it stands, without reading any text; None if there is none that can be used."""
    folder = catalog.cache / "residuals" / digest
    state = _State.read(folder / STATE_FILE) if (folder / STATE_FILE).is_file() else None
    if state is None or state.made != _made_by(model, hookpoint) or not state.rows.train or not state.whole(folder):
        return None
    file = _CacheFolder(catalog, hookpoint, digest, None, state.made)
    file.close()
    return file.mapped()


def _made_by(model: LanguageModel, hookpoint: str) -> dict[str, str]:
    """The model, dtype and hookpoint that a cache names as its own."""
    return {"model": model.digest, "dtype": str(model.dtype), "hookpoint": hookpoint}


def residuals_digest(
    catalog: Catalog,
    model: LanguageModel,
    hookpoint: str,
    corpora: list[str],
    max_train_tokens: int | None,
    shards: Mapping[str, int] | None = None,
) -> str:
    """What identifies a cache: BLAKE2b-128 of model, dtype, hookpoint and text.

    `shards` says how many shards of each corpus count, as when the corpora had no more.
    """
    text = text_shards(catalog, corpora)
    if shards is not None:
        text = [row for row in text if row[1] < shards.get(row[0], 0)]
    said = [model.digest, str(model.dtype), hookpoint, text, max_train_tokens]
    return digest(said)


def no_train_text(hookpoint: str) -> InputError:
    """The error of a training without text."""
    return InputError(f"hookpoint {hookpoint!r}: no train tokens to cache; add text")


class _Counts(BaseModel):
    """Rows of each split."""

    train: NonNegativeInt = 0
    val: NonNegativeInt = 0


class _State(BaseModel):
    """What of a cache is whole, as `state.json` has it."""

    done: list[tuple[str, int, int, int]] = []
    """(corpus, shard, train rows, val rows) in the order of the files."""
    d: int | None = None
    rows: _Counts = _Counts()
    made: dict[str, str] = {}
    """Model, dtype and hookpoint."""

    @classmethod
    def read(cls, path: Path) -> "_State | None":
        """The state in `path`; None if the file is empty or damaged."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError:
            return None

    def whole(self, folder: Path) -> bool:
        """Whether the files hold the rows that are counted."""
        sizes = {"f16": (self.d or 0) * 2, "pos": 8}
        files = [(folder / f"{split}.{suffix}", n * size) for split, n in self.rows for suffix, size in sizes.items()]
        return all(path.exists() and path.stat().st_size >= size for path, size in files)


class _CacheFolder:
    """The files of one hookpoint while they grow."""

    def __init__(
        self, catalog: Catalog, hookpoint: str, digest: str, max_train_tokens: int | None, made: dict[str, str]
    ):
        self.hookpoint, self._made = hookpoint, made
        self._limit = max_train_tokens
        self.digest = digest
        self.folder = catalog.cache / "residuals" / self.digest
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_partials(self.folder)
        state = self._state()
        self.done, self._d = state.done, state.d
        self._rows = state.rows.model_dump()
        self._files = {}
        for split in CACHED_SPLITS:
            # A cache that is older than the exponents gets zeros for them: its rows were all within range.
            for suffix, size in (("f16", (self._d or 0) * 2), ("exp", 1), ("pos", 8)):
                path = self.folder / f"{split}.{suffix}"
                path.touch()
                os.truncate(path, self._rows[split] * size)
                self._files[split, suffix] = path.open("ab")

    @property
    def full(self) -> bool:
        """Whether as many train tokens are cached as were asked for."""
        return self._limit is not None and self._rows["train"] >= self._limit

    def _state(self) -> "_State":
        """What the folder holds; nothing if its state is missing, cannot be read, or counts rows that are not there."""
        path = self.folder / STATE_FILE
        if path.exists():
            state = _State.read(path)
            # A cache that does not say what made it is older than the positions beside it: it is made again.
            made = state.made if state else {}
            for name, value in self._made.items() if made else ():
                if made.get(name) != value:
                    raise InputError(
                        f"the cache {self.folder} was made with {name} {made.get(name)!r}, and this study has "
                        f"{value!r}: it was copied from elsewhere; remove that folder"
                    )
            if state and made and state.whole(self.folder):
                return state
            shutil.rmtree(self.folder)
            self.folder.mkdir(parents=True)
        return _State(made=self._made)

    def append(self, rows: torch.Tensor, batch: Batch) -> None:
        self._d = rows.shape[1]
        kept = in_half(rows)
        for split, mask in (("train", batch.train), ("val", batch.val)):
            ours = np.flatnonzero(mask)
            if split == "train" and self._limit is not None:
                ours = ours[: max(self._limit - self._rows["train"], 0)]
            self._files[split, "f16"].write(kept.halves[ours].tobytes())
            self._files[split, "exp"].write(kept.exponents[ours].tobytes())
            self._files[split, "pos"].write(batch.positions[ours].tobytes())
            self._rows[split] += len(ours)

    def finish_shard(self, corpus: str, shard: int) -> None:
        """Make the shard's rows part of the cache: bytes first, then the state that counts them."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        train = sum(rows for _, _, rows, _ in self.done)
        val = sum(rows for *_, rows in self.done)
        self.done.append((corpus, shard, self._rows["train"] - train, self._rows["val"] - val))
        state = _State(done=self.done, d=self._d, rows=_Counts(**self._rows), made=self._made)
        write_whole(self.folder / STATE_FILE, state.model_dump_json().encode())

    def close(self) -> None:
        """Close the files; rows of a shard that was not finished do not count."""
        for file in self._files.values():
            file.close()

    def mapped(self) -> Residuals:
        """Map the finished files."""
        if not self._rows["train"]:
            raise no_train_text(self.hookpoint)
        parts, positions = dict[str, Rows](), dict[str, npt.NDArray[np.int64]]()
        for split in CACHED_SPLITS:
            n, d = self._rows[split], int(self._d or 0)
            at = self.folder / split
            if not n:
                parts[split], positions[split] = np.zeros((0, d), np.float16), np.empty(0, np.int64)
                continue
            halves = np.memmap(at.with_suffix(".f16"), np.float16, "r", shape=(n, d))
            exponents = np.memmap(at.with_suffix(".exp"), np.int8, "r", shape=(n,))
            parts[split] = ScaledRows(halves, exponents) if exponents.any() else halves
            positions[split] = np.memmap(at.with_suffix(".pos"), np.int64, "r", shape=(n,))
        return Residuals(parts["train"], parts["val"], self.digest, positions["train"], positions["val"], self.done)
