"""Gives the residual rows of chosen documents as the model reads them: one batch in memory, nothing on disk."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from catalog import Catalog
from ingest.activations.finite import checked, default_batch
from ingest.model.batches import batches, load_sequences
from ingest.model.language_model import LanguageModel
from ingest.selection.documents import Documents

DocumentRows = Iterator[tuple[torch.Tensor, npt.NDArray[np.int64]]]
"""(rows `[n, d]`, for each the place of its document `[n]`)."""


def document_rows(catalog: Catalog, model: LanguageModel, hookpoint: str, documents: Documents) -> DocumentRows:
    """The rows of every token of the documents, BOS left out, shard by shard; a document's rows may come in parts.

    Raises InputError for a value that is not finite, naming its place.
    """
    columns = catalog.connection.execute(
        "SELECT document, shard, start FROM documents WHERE corpus = ? ORDER BY start", [documents.corpus]
    ).fetchnumpy()
    numbers, starts, shards = (np.asarray(columns[name], np.int64) for name in ("document", "start", "shard"))
    place = np.full(int(numbers.max()) + 1, -1, np.int64)
    place[documents.numbers] = np.arange(len(documents))
    for shard in np.unique(shards[place[numbers] >= 0]):
        sequences = load_sequences(catalog, documents.corpus, int(shard))
        wanted = place[numbers[_holding(starts, sequences.first + sequences.starts)]] >= 0
        chosen = replace(
            sequences,
            starts=sequences.starts[wanted],
            lengths=sequences.lengths[wanted],
            splits=sequences.splits[wanted],
        )
        for batch in batches(chosen, model.bos, default_batch(model)):
            rows = checked(model.read(batch.ids, [hookpoint])[hookpoint], batch, chosen, hookpoint)
            yield rows, place[numbers[_holding(starts, batch.positions)]]


def _holding(starts: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Which of the documents that begin at `starts`, ascending, each position lies in."""
    return np.searchsorted(starts, positions, side="right") - 1
