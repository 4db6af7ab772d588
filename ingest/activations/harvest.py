"""Harvests sparse activations of SAEs over whole corpora: forward -> encode -> sort -> Parquet, a shard at a time.

Memory does not grow with the corpus: one shard's activations are held, written, registered, dropped.
A shard that is whole (same text, model and SAE) is skipped, so that an interrupted run goes on.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from catalog import Catalog
from catalog.digest import digest, digest_of_text
from catalog.store.shards import register_shard
from ingest.activations.activation_file import write_activations
from ingest.activations.finite import checked, default_batch
from ingest.model.batches import TextShard, batches, load_sequences, text_shards
from ingest.model.language_model import LanguageModel
from ingest.sae.codes import SparseCode
from ingest.stored.reader import Reader


@dataclass
class HarvestReport:
    """What a harvest did, and where its time went."""

    tokens: int = 0
    activations: int = 0
    bytes: int = 0
    shards: int = 0
    skipped: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"forward": 0.0, "encode": 0.0, "write": 0.0})

    def add(self, part: "HarvestReport") -> None:
        """Count what another harvest did as well."""
        for name in ("tokens", "activations", "bytes", "shards", "skipped"):
            setattr(self, name, getattr(self, name) + getattr(part, name))
        for name, seconds in part.seconds.items():
            self.seconds[name] += seconds


def harvest(
    catalog: Catalog,
    model: LanguageModel,
    readers: list[Reader],
    corpora: list[str],
    batch_tokens: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> HarvestReport:
    """Bring `activations` up to date for every SAE on every shard of the corpora, one pass for all SAEs.

    Raises InputError for activations that are not finite or beyond half precision, with the place, and for rows of
    another width than an SAE's.
    """
    report = HarvestReport()
    size = default_batch(model, batch_tokens)
    shards = text_shards(catalog, corpora)
    total, seen = sum(shard.tokens for shard in shards), 0
    for shard, stale in zip(shards, stale_readers(catalog, model, readers, shards), strict=True):
        seen += shard.tokens
        if not stale:
            report.skipped += 1
            continue
        _harvest_shard(catalog, model, stale, shard, size, report)
        if progress:
            progress(seen, total)
    return report


def stale_readers(
    catalog: Catalog, model: LanguageModel, readers: list[Reader], shards: list[TextShard]
) -> list[list[Reader]]:
    """For each shard the SAEs whose activations on it are not there, or were made from something else."""
    there = {
        (sae, corpus, shard): inputs
        for sae, corpus, shard, inputs in catalog.rows(
            "SELECT sae, corpus, shard, inputs FROM shards WHERE relation = 'activations'"
        )
    }

    def stale(reader: Reader, shard: TextShard) -> bool:
        found = there.get((reader.name, shard.corpus, shard.shard))
        asked = (model, reader, shard.digest)
        return found not in (inputs_of(*asked), _earlier_inputs(*asked))

    return [[reader for reader in readers if stale(reader, shard)] for shard in shards]


def inputs_of(model: LanguageModel, reader: Reader, text: str) -> str:
    """The digest of all that decides the activations of an SAE on a shard, whose own digest is `text`."""
    said = {"text": text, "model": model.digest, "dtype": str(model.dtype), "hookpoint": reader.hookpoint}
    return digest({**said, "sae": reader.identity})


def _earlier_inputs(model: LanguageModel, reader: Reader, text: str) -> str:
    """The digest that older catalogs hold in place of `inputs_of`: it counts neither k, centring nor groups.

    It is as good as that: the commit that changes one of those of an SAE takes the SAE's activations away.
    """
    return digest_of_text("|".join((text, model.digest, str(model.dtype), reader.hookpoint, reader.digest)))


class _Codes:
    """The codes of one SAE on one shard, gathered batch by batch in any order."""

    def __init__(self, first: int, tokens: int):
        self._first = first
        self._counts = np.zeros(tokens, np.int64)
        self._parts: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.float32]]] = []

    def put(self, code: SparseCode, positions: npt.NDArray[np.int64]) -> None:
        """Keep the active pairs of these positions."""
        # NaN counts as active here, so that the writer refuses it with its place.
        active = ~(code.values <= 0)
        rows = code.rows()[active]
        counts = torch.bincount(rows, minlength=len(positions)).cpu().numpy()
        at = positions - self._first
        self._counts[at] = counts
        latents = code.indices[active].to(torch.int32).cpu().numpy()
        self._parts.append((at, latents, code.values[active].float().cpu().numpy()))

    def columns(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """(features, positions, activations) of what is active, positions ascending."""
        starts = np.concatenate([[0], np.cumsum(self._counts)])
        latents = np.empty(starts[-1], np.int32)
        values = np.empty(starts[-1], np.float32)
        for at, part_latents, part_values in self._parts:
            counts = self._counts[at]
            before = np.cumsum(counts) - counts
            place = np.repeat(starts[at] - before, counts) + np.arange(len(part_latents))
            latents[place], values[place] = part_latents, part_values
        positions = np.repeat(np.arange(self._first, self._first + len(self._counts)), self._counts)
        return latents, positions, values


def _harvest_shard(
    catalog: Catalog,
    model: LanguageModel,
    readers: list[Reader],
    shard: TextShard,
    batch_tokens: int,
    report: HarvestReport,
) -> None:
    sequences = load_sequences(catalog, shard.corpus, shard.shard)
    codes = {r.name: _Codes(sequences.first, len(sequences.ids)) for r in readers}
    hookpoints = list(dict.fromkeys(r.hookpoint for r in readers))
    with torch.inference_mode():
        for batch in batches(sequences, model.bos, batch_tokens):
            begun = time.perf_counter()
            outputs = model.read(batch.ids, hookpoints)
            rows = {name: checked(outputs[name], batch, sequences, name) for name in hookpoints}
            encoding = time.perf_counter()
            for reader in readers:
                x = reader.fitting(rows[reader.hookpoint], reader.hookpoint, reader.sae.config.d_in)
                codes[reader.name].put(reader.sae.encode(x), batch.positions)
            report.seconds["forward"] += encoding - begun
            report.seconds["encode"] += time.perf_counter() - encoding
    begun = time.perf_counter()
    report.tokens += len(sequences.ids)
    report.shards += 1
    for reader in readers:
        file = write_activations(
            catalog.data / "main" / "activations",
            reader.name,
            sequences.corpus,
            sequences.shard,
            *codes.pop(reader.name).columns(),
        )
        report.activations += file.rows
        report.bytes += file.size
        place = [reader.name, sequences.corpus, sequences.shard]
        inputs = inputs_of(model, reader, shard.digest)
        with catalog.write(f"harvest {reader.name}: {sequences.corpus} shard {sequences.shard}", rows=file.rows) as tx:
            mine = "sae = ? AND corpus = ? AND shard = ?"
            if tx.rows(f"SELECT 1 FROM lake.shards WHERE relation = 'activations' AND {mine}", place):
                tx.execute(f"DELETE FROM lake.activations WHERE {mine}", place)
                tx.execute(f"DELETE FROM lake.shards WHERE relation = 'activations' AND {mine}", place)
            register_shard(tx, "activations", file, sequences.corpus, reader.name, sequences.shard, inputs)
    report.seconds["write"] += time.perf_counter() - begun
