"""Draws the next batch while the GPU computes: reading and mixing rows takes as long as a step there."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ingest.sae.training.rows import Sampler

Drawn = tuple[Tensor, Tensor, npt.NDArray[np.int64]]


class Ahead:
    """A sampler of the same batches as `sampler`, the next of which a thread of its own draws meanwhile."""

    def __init__(self, sampler: Sampler, last: int) -> None:
        """`last` is the last step that is asked for."""
        self._sampler, self._last = sampler, last
        self._thread = ThreadPoolExecutor(1, "rows")
        self._next: tuple[int, Future[Drawn]] | None = None
        self._numbers: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The rows of a step, in memory that a GPU copies from by itself; raises what the sampler raises there."""
        coming = self._next[1] if self._next and self._next[0] == step else self._thread.submit(self._draw, step)
        x, target, self._numbers = coming.result()
        self._next = (step + 1, self._thread.submit(self._draw, step + 1)) if step < self._last else None
        return x, target

    def row_numbers(self, step: int) -> npt.NDArray[np.int64]:
        """What identifies the rows of the step that was drawn last, [batch]."""
        return self._numbers

    def close(self) -> None:
        """Draw no more."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _draw(self, step: int) -> Drawn:
        x, target = self._sampler.batch(step)
        pinned = _pinned(x)
        return pinned, pinned if target is x else _pinned(target), self._sampler.row_numbers(step)


def _pinned(rows: Tensor) -> Tensor:
    return rows.pin_memory() if torch.cuda.is_available() else rows
