"""Cached rows of one hookpoint: which token each is of, and those of a shard in the order of the model's batches."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ingest.model.batches import Batch, Sequences, batches
from ingest.sae.training.rows import RowNumbers, as_tensor
from ingest.sae.training.scaled_rows import Rows


@dataclass(frozen=True)
class Residuals:
    """The cached activations of one hookpoint."""

    train: Rows
    """`[train tokens, d]`, memory-mapped."""
    val: Rows
    """`[val tokens, d]`, memory-mapped."""
    digest: str
    """Of the model, the hookpoint and the text that they come from."""
    train_positions: npt.NDArray[np.int64]
    """`[train tokens]`: position in its corpus of each row, memory-mapped."""
    val_positions: npt.NDArray[np.int64]
    """`[val tokens]`: likewise."""
    shards: list[tuple[str, int, int, int]]
    """(corpus, shard, train rows, val rows) in the order of the files."""

    def shard_rows(self, sequences: Sequences, bos: int | None, batch_tokens: int) -> "ShardRows | None":
        """The rows of a shard's train and val sequences, batch by batch; None if the cache lacks or mixes some."""
        at = {"train": 0, "val": 0}
        for corpus, shard, train, val in self.shards:
            if (corpus, shard) == (sequences.corpus, sequences.shard):
                break
            at["train"], at["val"] = at["train"] + train, at["val"] + val
        else:
            return None
        found = ShardRows(self.train[at["train"] : at["train"] + train], self.val[at["val"] : at["val"] + val])
        order = [(b.positions[b.train], b.positions[b.val]) for b in batches(sequences, bos, batch_tokens)]
        for split, rows, positions in (("train", train, self.train_positions), ("val", val, self.val_positions)):
            expected = [part[split == "val"] for part in order]
            mine = positions[at[split] : at[split] + rows]
            if not np.array_equal(np.concatenate([*expected, np.empty(0, np.int64)]), mine):
                return None
        return found

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


class ShardRows:
    """The cached rows of one shard in the order in which the model read them."""

    def __init__(self, train: Rows, val: Rows) -> None:
        self._rows = {"train": train, "val": val}
        self._at = {"train": 0, "val": 0}

    def next(self, batch: Batch) -> torch.Tensor:
        """The rows of the next batch, `[real tokens, d]` in float32."""
        rows = torch.empty(len(batch.positions), self._rows["train"].shape[1])
        for split, mask in (("train", batch.train), ("val", batch.val)):
            count = int(mask.sum())
            part = self._rows[split][self._at[split] : self._at[split] + count]
            rows[torch.from_numpy(mask)] = as_tensor(part)
            self._at[split] += count
        return rows
