"""Rows of half precision, some of which were too large for it, and what is done with rows of either kind."""

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

PART = 1 << 14
"""Rows that are looked at together."""


class ScaledRows:
    """Rows [n, d] of half precision, some of which were too large for it: row i is `halves[i] * 2 ** exponents[i]`.

    What is taken from it is float32.
    """

    ndim, dtype = 2, np.dtype(np.float32)

    def __init__(self, halves: npt.NDArray[np.float16], exponents: npt.NDArray[np.int8]) -> None:
        """`halves` [n, d], `exponents` [n]."""
        self.halves, self.exponents = halves, exponents
        self.shape: tuple[int, ...] = halves.shape

    def __len__(self) -> int:
        return len(self.halves)

    @overload
    def __getitem__(self, at: slice) -> "ScaledRows": ...
    @overload
    def __getitem__(self, at: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]: ...
    def __getitem__(self, at: Any) -> Any:
        """A slice stays on disk; rows by number are read."""
        if isinstance(at, slice):
            return ScaledRows(self.halves[at], self.exponents[at])
        return np.ldexp(self.halves[at].astype(np.float32), self.exponents[at, None])

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        whole = np.ldexp(self.halves.astype(np.float32), self.exponents[:, None])
        return whole.astype(dtype or np.float32, copy=False)


Rows = npt.NDArray[np.float16] | ScaledRows
"""Activations [n, d], an array, a memory map of one, or such rows with exponents."""


def joined(parts: Sequence[Rows]) -> Rows:
    """The rows of one or more parts, end to end, in memory."""
    if any(isinstance(part, ScaledRows) for part in parts):
        halves = np.concatenate([part.halves if isinstance(part, ScaledRows) else part for part in parts])
        said = (part.exponents if isinstance(part, ScaledRows) else np.zeros(len(part), np.int8) for part in parts)
        return ScaledRows(halves, np.concatenate(list(said)))
    return np.concatenate([part for part in parts if not isinstance(part, ScaledRows)])


def row_norms(rows: Rows) -> npt.NDArray[np.float64]:
    """Euclidean norms [n], read a part at a time."""
    parts = (np.asarray(rows[at : at + PART], np.float64) for at in range(0, len(rows), PART))
    return np.concatenate([np.empty(0), *(np.sqrt(np.square(part).sum(1)) for part in parts)])
