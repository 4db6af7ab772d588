"""Trains interpolated Kneser-Ney n-gram models: the baseline that the embedded model must beat.

p_n(w|h) = max(c(hw) - D, 0) / c(h) + D N1+(h.) / c(h) p_{n-1}(w|h'), with lower orders over
continuation counts (Chen & Goodman 1999, eq. 24) and D = n1 / (n1 + 2 n2) for each order (1/2 if n1 is 0).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]


class _Counts:
    """Sorted keys with their counts; `look_up` gives 0 for a key that was never seen."""

    def __init__(self, keys: Ids, counts: npt.NDArray[np.float64]):
        self.keys, self.counts = keys, counts

    def look_up(self, keys: Ids) -> npt.NDArray[np.float64]:
        at = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return np.where(self.keys[at] == keys, self.counts[at], 0.0)


class KneserNey:
    """An interpolated model of `order` tokens over ids below `vocab_size` (at most 2^15, order 4)."""

    def __init__(self, streams: Sequence[npt.NDArray[np.integer]], order: int, vocab_size: int):
        """`streams` are documents, each beginning with its BOS; n-grams do not cross documents."""
        self.order, self.vocab_size = order, vocab_size
        self._levels: list[tuple[_Counts, _Counts, _Counts, float]] = []
        grams = np.concatenate([self._grams(s, order) for s in streams])
        keys, counts = np.unique(grams, return_counts=True)
        for level in range(order, 0, -1):
            self._levels.insert(0, self._level(keys, counts))
            if level > 1:
                # A lower order counts in how many contexts a gram was seen, not how often.
                shorter = keys % self.vocab_size ** (level - 1)
                keys, counts = np.unique(shorter, return_counts=True)

    def _grams(self, stream: npt.NDArray[np.integer], order: int) -> Ids:
        """One key per token but the first; a history that is too short is padded with the first token."""
        padded = np.concatenate([np.repeat(stream[:1], order - 2), stream]).astype(np.int64)
        n = len(padded) - order + 1
        keys = np.zeros(max(n, 0), np.int64)
        for i in range(order):
            keys = keys * self.vocab_size + padded[i : i + n]
        return keys

    def _level(self, keys: Ids, counts: Ids) -> tuple[_Counts, _Counts, _Counts, float]:
        once, twice = float((counts == 1).sum()), float((counts == 2).sum())
        # Where nothing was seen just once the formula gives 0, and a token that was never seen would get no share.
        discount = once / (once + 2 * twice) if once else 0.5
        histories, first = np.unique(keys // self.vocab_size, return_index=True)
        totals = np.add.reduceat(counts, first).astype(float)
        kinds = np.diff(np.append(first, len(keys))).astype(float)
        return (
            _Counts(keys, counts.astype(float)),
            _Counts(histories, totals),
            _Counts(histories, kinds),
            discount,
        )

    def nats(self, stream: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
        """-log p of each token of a document but its BOS: `[len(stream) - 1]`, nats."""
        grams = self._grams(stream, self.order)
        probability = np.full(len(grams), 1.0 / self.vocab_size)
        for level, (seen, totals, kinds, discount) in enumerate(self._levels, start=1):
            keys = grams % self.vocab_size**level
            total = totals.look_up(keys // self.vocab_size)
            spread = discount * kinds.look_up(keys // self.vocab_size)
            found = np.maximum(seen.look_up(keys) - discount, 0.0)
            backed = (found + spread * probability) / np.maximum(total, 1.0)
            probability = np.where(total > 0, backed, probability)
        nats: npt.NDArray[np.float64] = -np.log(probability)
        return nats
