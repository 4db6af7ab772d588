"""Rows of the residual stream on disk, drawn in batches whose order follows from a seed and a step alone.

No state is kept between batches, so a resumed run draws what the interrupted one would have drawn.
"""

import hashlib

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from catalog.errors import InputError

Rows = npt.NDArray[np.float16]
"""Activations [n, d], an array or a memory map of one."""

BUFFER_ROWS = 1 << 17
"""Rows held in memory and mixed: 64 MB at d 256."""
BLOCK = 64
"""Neighbouring rows that are read in one go: whole pages, even of a file that does not fit in memory."""
SAMPLE = 1 << 14


def check_rows(rows: Rows, d_in: int, batch: int) -> None:
    """Raises InputError if `rows` is not [n, d_in] of floats with at least one batch."""
    if rows.ndim != 2 or rows.shape[1] != d_in or not np.issubdtype(rows.dtype, np.floating):
        raise InputError(f"rows have shape {rows.shape} and type {rows.dtype}, but must be floats [n, {d_in}]")
    if len(rows) < batch:
        raise InputError(f"{len(rows)} rows do not fill one batch of {batch}: harvest more text, or lower the batch")


def check_finite(x: Tensor, numbers: range | npt.NDArray[np.int64]) -> None:
    """Raises InputError naming the first row of `x` [n, d] that holds NaN or infinity; `numbers` [n] are its rows."""
    bad = torch.nonzero(~x.isfinite().all(1)).flatten()
    if len(bad):
        raise InputError(
            f"row {numbers[int(bad[0])]} of the activations holds NaN or infinity: harvest them again, and if the "
            f"model overflows in half precision, scale its activations down"
        )


def as_tensor(rows: Rows) -> Tensor:
    """The rows as a new float32 tensor."""
    return torch.from_numpy(np.asarray(rows, dtype=np.float32, copy=True))


def sample_rows(rows: Rows) -> Tensor:
    """Up to SAMPLE rows spread evenly over the file, float32. Raises InputError if one is not finite."""
    at = np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(np.int64)
    sample = as_tensor(rows[at])
    check_finite(sample, at)
    return sample


def fingerprint(rows: Rows) -> str:
    """A digest of the shape and of 64 rows spread over the file: tells one set of rows from another."""
    at = np.linspace(0, len(rows) - 1, 64).astype(np.int64)
    return hashlib.blake2b(repr(rows.shape).encode() + rows[at].tobytes(), digest_size=16).hexdigest()


class RowSampler:
    """Every epoch is a permutation: of blocks over the whole file, then of the rows of a buffer of blocks."""

    def __init__(self, rows: Rows, batch: int, seed: int) -> None:
        self._rows, self._batch, self._seed = rows, batch, seed
        self._block = BLOCK if len(rows) >= BUFFER_ROWS else 1
        usable = len(rows) // self._block * self._block
        self._batches = usable // batch
        # Whole batches per buffer, so that no batch spans two.
        self._buffered = max(BUFFER_ROWS // batch, 1)
        self._place: tuple[int, int] | None = None
        self._numbers = self._mixed = np.empty(0, np.int64)
        self._buffer = np.empty((0, rows.shape[1]), np.float16)

    def batch(self, step: int) -> Tensor:
        """The rows of a step, [batch, d] float32. Rows that fill no whole batch change from epoch to epoch."""
        epoch, at = divmod(step, self._batches)
        place = (epoch, at // self._buffered)
        if place != self._place:
            self._fill(*place)
        return as_tensor(self._buffer[self._mixed[self._slice(step)]])

    def row_numbers(self, step: int) -> npt.NDArray[np.int64]:
        """Where the rows of the step that was drawn last stand in the file, [batch]."""
        return self._numbers[self._mixed[self._slice(step)]]

    def _slice(self, step: int) -> slice:
        start = step % self._batches % self._buffered * self._batch
        return slice(start, start + self._batch)

    def _fill(self, epoch: int, part: int) -> None:
        """Read a buffer: rows in the order of the file, since neighbours on disk are fast, then mixed in memory."""
        order = np.random.default_rng([self._seed, epoch])
        blocks = order.permutation(len(self._rows) // self._block)
        # A shifted start gives the rows behind the last whole block their turn in another epoch.
        shift = int(order.integers(len(self._rows) % self._block + 1))
        start = part * self._buffered * self._batch
        stop = min(start + self._buffered * self._batch, self._batches * self._batch)
        first = start // self._block
        chosen = blocks[first : -(-stop // self._block)] * self._block + shift
        numbers = (chosen[:, None] + np.arange(self._block)).ravel()
        # A buffer may begin inside a block, whose other rows the buffer before had.
        self._numbers = np.sort(numbers[start - first * self._block :][: stop - start])
        self._buffer = np.asarray(self._rows[self._numbers])
        self._mixed = np.random.default_rng([self._seed, epoch, part + 1]).permutation(len(self._numbers))
        self._place = (epoch, part)
