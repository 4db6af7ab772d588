"""Keeps residual activations for training in a memory-mapped half-precision cache, written as the model runs.

One folder holds, for one hookpoint, `train.f16` and `val.f16` (rows `[tokens, d]`), the positions of those rows
in their corpus (`train.pos`, `val.pos`, int64) and `state.json`, which says how many rows of each are whole and
which shards they come from. After a crash the files are cut back to that, and the pass goes on at the next shard.
Test documents are never cached.
"""

import os
import shutil
from collections.abc import Callable, Mapping
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
from ingest.activations.finite import checked, default_batch, in_half
from ingest.model.batches import Batch, batches, load_sequences, text_shards
from ingest.model.language_model import LanguageModel
from ingest.sae.training.rows import RowNumbers

STATE_FILE = "state.json"
SPLITS = ("train", "val")


@dataclass(frozen=True)
class Residuals:
    """The cached activations of one hookpoint."""

    train: npt.NDArray[np.float16]
    """`[train tokens, d]`, memory-mapped."""
    val: npt.NDArray[np.float16]
    """`[val tokens, d]`, memory-mapped."""
    digest: str
    """Of the model, the hookpoint and the text that they come from."""
    train_positions: npt.NDArray[np.int64]
    """`[train tokens]`: position in its corpus of each row, memory-mapped."""
    val_positions: npt.NDArray[np.int64]
    """`[val tokens]`: likewise."""
    shards: list[tuple[str, int, int, int]]
    """(corpus, shard, train rows, val rows) in the order of the files."""

    def val_without(self, left_out: dict[str, npt.NDArray[np.int64]]) -> RowNumbers:
        """Numbers of the val rows, ascending, whose position is none of those left out of its corpus."""
        found, at = [np.empty(0, np.int64)], 0
        for corpus, _, _, rows in self.shards:
            positions = self.val_positions[at : at + rows]
            found.append(np.flatnonzero(~np.isin(positions, left_out.get(corpus, []))) + at)
            at += rows
        return np.concatenate(found)

    def rows_of(self, wanted: dict[str, npt.NDArray[np.int64]]) -> RowNumbers:
        """Numbers of the train rows, ascending, whose position lies in one of the ranges `[n, 2]` of its corpus.

        `wanted` has ranges (first position, one past the last), ascending and apart, per corpus.
        """
        found, at = [np.empty(0, np.int64)], 0
        for corpus, _, rows, _ in self.shards:
            ranges = wanted.get(corpus)
            if ranges is not None and len(ranges):
                positions = self.train_positions[at : at + rows]
                place = np.searchsorted(ranges[:, 0], positions, side="right") - 1
                inside = (place >= 0) & (positions < ranges[place, 1])
                found.append(np.flatnonzero(inside) + at)
            at += rows
        return np.concatenate(found)


def cache_residuals(
    catalog: Catalog,
    model: LanguageModel,
    hookpoints: list[str],
    corpora: list[str],
    max_train_tokens: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> dict[str, Residuals]:
    """Activations of several hookpoints in one pass over the corpora; what is cached is not computed again.

    Raises InputError if a value is not finite or beyond half precision, naming hookpoint and sequence, and for a cache
    that another model or revision left under this one's name.
    """
    shards = text_shards(catalog, corpora)
    total = sum(rows for *_, rows in shards)
    files = {}
    for name in dict.fromkeys(hookpoints):
        digest = residuals_digest(catalog, model, name, corpora, max_train_tokens)
        made = {"model": model.digest, "dtype": str(model.dtype), "hookpoint": name}
        files[name] = _CacheFolder(catalog, name, digest, max_train_tokens, made)
    seen = 0
    try:
        for number, (corpus, shard, _, rows) in enumerate(shards):
            seen += rows
            open_files = [file for file in files.values() if len(file.done) <= number]
            if not open_files or all(file.full for file in open_files):
                continue
            sequences = load_sequences(catalog, corpus, shard)
            for batch in batches(sequences, model.bos, default_batch(model)):
                outputs = model.read(batch.ids, [file.hookpoint for file in open_files])
                for file in open_files:
                    file.append(checked(outputs[file.hookpoint], batch, sequences, file.hookpoint), batch)
            for file in open_files:
                file.finish_shard(corpus, shard)
            if progress:
                progress(seen, total)
    finally:
        for file in files.values():
            file.close()
    return {name: file.mapped() for name, file in files.items()}


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
        for split in SPLITS:
            for suffix, size in (("f16", (self._d or 0) * 2), ("pos", 8)):
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
        halves = in_half(rows, self.hookpoint)
        for split, mask in (("train", batch.train), ("val", batch.val)):
            part, positions = halves[mask], batch.positions[mask]
            if split == "train" and self._limit is not None:
                left = max(self._limit - self._rows["train"], 0)
                part, positions = part[:left], positions[:left]
            self._files[split, "f16"].write(part.tobytes())
            self._files[split, "pos"].write(positions.tobytes())
            self._rows[split] += len(part)

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
        parts, positions = {}, dict[str, npt.NDArray[np.int64]]()
        for split in SPLITS:
            n, d = self._rows[split], int(self._d or 0)
            path = self.folder / f"{split}.f16"
            parts[split] = np.memmap(path, np.float16, "r", shape=(n, d)) if n else np.zeros((0, d), np.float16)
            path = self.folder / f"{split}.pos"
            positions[split] = np.memmap(path, np.int64, "r", shape=(n,)) if n else np.empty(0, np.int64)
        return Residuals(parts["train"], parts["val"], self.digest, positions["train"], positions["val"], self.done)
