"""Harvests sparse activations of SAEs over whole corpora: rows -> encode -> sort -> Parquet, a shard at a time.

Rows of train and val text come from the training cache where it holds the shard whole and an SAE reads them so, and
from the model else: a token that was read for training is not read again.

Memory does not grow with the corpus: one shard's activations are held, written, registered, dropped.
A shard that is whole (same text, model and SAE) is skipped, so that an interrupted run goes on.
"""

import json
import time

import torch

from catalog import Catalog
from ingest.activations.finite import checked, default_batch
from ingest.activations.residual_cache import CACHED_SPLITS, open_cache
from ingest.activations.residuals import Residuals, ShardRows
from ingest.activations.shard_harvest import HarvestReport, ShardHarvest, stale_readers
from ingest.callbacks import Counted
from ingest.model.batches import Sequences, TextShard, batches, load_sequences, text_shards
from ingest.model.language_model import LanguageModel
from ingest.stored.reader import Reader


def harvest(
    catalog: Catalog,
    model: LanguageModel,
    readers: list[Reader],
    corpora: list[str],
    batch_tokens: int | None = None,
    progress: Counted | None = None,
) -> HarvestReport:
    """Bring `activations` up to date for every SAE on every shard of the corpora, one pass for all SAEs.

    Raises InputError for activations that are not finite, with the place, and for rows of another width than an SAE's.
    """
    report = HarvestReport()
    shards = text_shards(catalog, corpora)
    stale = stale_readers(catalog, model, readers, shards)
    total = sum(shard.tokens for shard, ours in zip(shards, stale, strict=True) if ours)
    run = _Run(catalog, model, readers, default_batch(model, batch_tokens), report, total, progress)
    for shard, ours in zip(shards, stale, strict=True):
        if ours:
            run.shard(shard, ours)
        else:
            report.skipped += 1
    return report


class _Run:
    """One pass over the shards of some corpora."""

    def __init__(
        self,
        catalog: Catalog,
        model: LanguageModel,
        readers: list[Reader],
        batch_tokens: int,
        report: HarvestReport,
        total: int,
        progress: Counted | None,
    ) -> None:
        self._catalog, self._model, self._readers = catalog, model, readers
        self._size, self._report = batch_tokens, report
        self._total, self._seen, self._progress = total, 0, progress
        self._caches: dict[str, list[Residuals]] = {}

    def shard(self, shard: TextShard, readers: list[Reader]) -> None:
        sequences = load_sequences(self._catalog, shard.corpus, shard.shard)
        one = ShardHarvest(readers, sequences)
        trained = sequences.of_splits(*CACHED_SPLITS)
        cached: dict[str, ShardRows] = {}
        for name in one.hookpoints:
            rows = None if name in one.full else self._cached(name, trained)
            if rows is not None:
                cached[name] = rows
        self._read(one, trained, cached)
        self._read(one, sequences.of_splits("test"), {})
        one.register(self._catalog, self._model, shard, self._report)

    def _read(self, one: ShardHarvest, sequences: Sequences, cached: dict[str, ShardRows]) -> None:
        """Give the harvest the rows of these sequences."""
        from_model = [name for name in one.hookpoints if name not in cached]
        for batch in batches(sequences, self._model.bos, self._size):
            begun = time.perf_counter()
            rows = {name: part.next(batch).to(self._model.device) for name, part in cached.items()}
            if from_model:
                outputs = self._model.read(batch.ids, from_model)
                with torch.inference_mode():
                    rows |= {name: checked(outputs[name], batch, sequences, name) for name in from_model}
            self._report.seconds["forward"] += time.perf_counter() - begun
            one.take(batch, rows)
            self._seen += len(batch.positions)
            if self._progress:
                self._progress(self._seen, self._total)

    def _cached(self, hookpoint: str, sequences: Sequences) -> ShardRows | None:
        """The cached rows of these sequences in the order of their batches; None if no cache holds them all."""
        if hookpoint not in self._caches:
            names = [reader.name for reader in self._readers if reader.hookpoint == hookpoint]
            said = self._catalog.rows("SELECT config FROM saes WHERE list_contains(?, sae)", [names])
            inputs = [json.loads(config).get("inputs") for (config,) in said]
            digests = dict.fromkeys(str(one["rows"]) for one in inputs if isinstance(one, dict) and "rows" in one)
            found = (open_cache(self._catalog, self._model, hookpoint, digest) for digest in digests)
            self._caches[hookpoint] = [cache for cache in found if cache is not None]
        for cache in self._caches[hookpoint]:
            rows = cache.shard_rows(sequences, self._model.bos, self._size)
            if rows is not None:
                return rows
        return None
