"""Gathers the sparse activations of SAEs on one shard while its rows come by, and registers them: sort -> Parquet.

Rows come from the model or from a cache of them, in the same batches: an SAE that was trained on rounded rows has the
same activations either way.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from catalog import Catalog
from catalog.digest import digest, digest_of_text
from catalog.store.shards import register_shard
from ingest.activations.activation_file import write_activations
from ingest.activations.half_rows import rounded
from ingest.model.batches import Batch, Sequences, TextShard
from ingest.model.language_model import LanguageModel
from ingest.sae.codes import SparseCode
from ingest.stored.reader import Reader


@dataclass
class HarvestReport:
    """Counts and seconds of a harvest."""

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
        return found is None or found not in (inputs_of(*asked), _earlier_inputs(*asked))

    return [[reader for reader in readers if stale(reader, shard)] for shard in shards]


def inputs_of(model: LanguageModel, reader: Reader, text: str) -> str:
    """The digest of all that decides the activations of an SAE on a shard, whose own digest is `text`."""
    said = {"text": text, "model": model.digest, "dtype": str(model.dtype), "hookpoint": reader.hookpoint}
    if reader.rounded:
        said["rows"] = str(reader.rows)
    return digest({**said, "sae": reader.identity})


def _earlier_inputs(model: LanguageModel, reader: Reader, text: str) -> str | None:
    """The digest that older catalogs hold in place of `inputs_of`: it counts neither k, centring nor groups.

    It is as good as that: the commit that changes one of those of an SAE takes the SAE's activations away.
    """
    if reader.rounded:
        return None
    return digest_of_text("|".join((text, model.digest, str(model.dtype), reader.hookpoint, reader.digest)))


class ShardHarvest:
    """The activations of several SAEs on one shard."""

    def __init__(self, readers: list[Reader], sequences: Sequences) -> None:
        self.readers = readers
        self._sequences = sequences
        self._codes = {r.name: _Codes(sequences.first, len(sequences.ids)) for r in readers}
        self.hookpoints = list(dict.fromkeys(r.hookpoint for r in readers))
        self.full = {r.hookpoint for r in readers if not r.rounded}
        """Hookpoints of which some SAE reads rows as the model gives them: a cache of rounded rows is not enough."""
        self.seconds = 0.0
        """Of encoding."""

    @torch.inference_mode()
    def take(self, batch: Batch, rows: Mapping[str, Tensor]) -> None:
        """Encode the rows of a batch, `[real tokens, d]` in float32 by hookpoint.

        Raises InputError for rows of another width than an SAE's.
        """
        begun = time.perf_counter()
        halves: dict[str, Tensor] = {}
        for reader in self.readers:
            x = reader.fitting(rows[reader.hookpoint], reader.hookpoint, reader.sae.config.d_in)
            if reader.rounded:
                if reader.hookpoint not in halves:
                    halves[reader.hookpoint] = rounded(x)
                x = halves[reader.hookpoint]
            self._codes[reader.name].put(reader.sae.encode(x), batch.positions)
        self.seconds += time.perf_counter() - begun

    def register(self, catalog: Catalog, model: LanguageModel, shard: TextShard, report: HarvestReport) -> None:
        """Write a file for each SAE and put it into the catalog, in a commit of its own, in place of an earlier one.

        Raises InputError for an activation that is not finite, with its place.
        """
        begun = time.perf_counter()
        report.seconds["encode"] += self.seconds
        report.tokens += len(self._sequences.ids)
        report.shards += 1
        for reader in self.readers:
            file = write_activations(
                catalog.data / "main" / "activations",
                reader.name,
                shard.corpus,
                shard.shard,
                *self._codes.pop(reader.name).columns(),
            )
            report.activations += file.rows
            report.bytes += file.size
            place = [reader.name, shard.corpus, shard.shard]
            inputs = inputs_of(model, reader, shard.digest)
            with catalog.write(f"harvest {reader.name}: {shard.corpus} shard {shard.shard}", rows=file.rows) as tx:
                mine = "sae = ? AND corpus = ? AND shard = ?"
                if tx.rows(f"SELECT 1 FROM lake.shards WHERE relation = 'activations' AND {mine}", place):
                    tx.execute(f"DELETE FROM lake.activations WHERE {mine}", place)
                    tx.execute(f"DELETE FROM lake.shards WHERE relation = 'activations' AND {mine}", place)
                register_shard(tx, "activations", file, shard.corpus, reader.name, shard.shard, inputs)
        report.seconds["write"] += time.perf_counter() - begun


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
