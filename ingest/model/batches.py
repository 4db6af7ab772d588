"""Groups a shard's sequences in batches of like length, so that hardly any padding is computed.

Each sequence stands alone in its row, after its BOS: no document attends to another. Sorting by length, and
ending a batch where lengths fall, leaves 2.0% padding on 120,000 tokens of docstrings (4.4% without the second;
a padded batch in the order of arrival: 45%).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from catalog import Catalog


@dataclass(frozen=True)
class Sequences:
    """The sequences of one shard of a corpus."""

    corpus: str
    shard: int
    ids: npt.NDArray[np.int32]
    """`[tokens]`, all sequences end to end, BOS left out."""
    first: int
    """Position of ids[0]; positions run on without a gap."""
    starts: npt.NDArray[np.int64]
    """`[sequences]`: index of each sequence's first token in ids."""
    lengths: npt.NDArray[np.int64]
    """`[sequences]`: tokens of each, BOS left out."""
    splits: npt.NDArray[np.str_]
    """`[sequences]`: split of each sequence's document."""

    def of_splits(self, *splits: str) -> "Sequences":
        """Those of these splits' documents alone."""
        ours = np.isin(self.splits, splits)
        return replace(self, starts=self.starts[ours], lengths=self.lengths[ours], splits=self.splits[ours])


@dataclass(frozen=True)
class Batch:
    """Rows for the model, and which of their tokens are positions of the corpus."""

    ids: torch.Tensor
    """`[batch, seq]`, BOS first where the model has one, padded on the right with 0."""
    real: torch.Tensor
    """`[batch, seq]` bool: neither BOS nor padding."""
    positions: npt.NDArray[np.int64]
    """`[real tokens]`, in row order."""
    train: npt.NDArray[np.bool_]
    """`[real tokens]`: the token's document is of split train."""
    val: npt.NDArray[np.bool_]
    """`[real tokens]`: of split val."""


def load_sequences(catalog: Catalog, corpus: str, shard: int) -> Sequences:
    """Read one shard's tokens from the catalog."""
    columns = catalog.connection.execute(
        "SELECT position, sequence, token, document FROM tokens WHERE corpus = ? AND shard = ? ORDER BY position",
        [corpus, shard],
    ).fetchnumpy()
    splits = dict(catalog.rows("SELECT document, split FROM documents WHERE corpus = ? AND shard = ?", [corpus, shard]))
    sequence = np.asarray(columns["sequence"])
    starts = np.flatnonzero(np.diff(sequence, prepend=-1))
    lengths = np.diff(np.append(starts, len(sequence)))
    documents = np.asarray(columns["document"])[starts]
    return Sequences(
        corpus,
        shard,
        np.asarray(columns["token"], np.int32),
        int(columns["position"][0]),
        starts,
        lengths,
        np.array([splits[int(d)] for d in documents]),
    )


def batches(sequences: Sequences, bos: int | None, batch_tokens: int) -> Iterator[Batch]:
    """Batches of at most `batch_tokens` tokens (one sequence at least), longest sequences first.

    A batch that is a quarter full ends before a row that would be a tenth padding.
    """
    order = np.argsort(-sequences.lengths, kind="stable")
    lead = int(bos is not None)
    at = 0
    while at < len(order):
        width = int(sequences.lengths[order[at]]) + lead
        rows = order[at : at + max(batch_tokens // width, 1)]
        short = sequences.lengths[rows] + lead < 0.9 * width
        enough = np.arange(len(rows)) * width >= batch_tokens // 4
        rows = rows[: np.argmax(short & enough)] if (short & enough).any() else rows
        at += len(rows)
        lengths = sequences.lengths[rows]
        real = np.arange(width) - lead
        real_mask = (real >= 0) & (real < lengths[:, None])
        index = (sequences.starts[rows][:, None] + real)[real_mask]
        ids = np.zeros((len(rows), width), np.int64)
        ids[real_mask] = sequences.ids[index]
        if bos is not None:
            ids[:, 0] = bos
        splits = np.repeat(sequences.splits[rows], lengths)
        yield Batch(
            torch.from_numpy(ids),
            torch.from_numpy(real_mask),
            sequences.first + index,
            splits == "train",
            splits == "val",
        )


class TextShard(NamedTuple):
    """One shard of a corpus's tokens."""

    corpus: str
    shard: int
    digest: str
    """Of its file."""
    tokens: int


def text_shards(catalog: Catalog, corpora: list[str]) -> list[TextShard]:
    """The corpora's shards, in order."""
    rows = catalog.rows(
        "SELECT corpus, shard, blake2b, rows FROM shards WHERE relation = 'tokens' AND list_contains(?, corpus) "
        "ORDER BY corpus, shard",
        [corpora],
    )
    return [TextShard(*row) for row in rows]
