"""The number format of the encoder's product, the one dense product of a sparse step.

GPUs have matrix units for bfloat16. The product rounds copies of its two factors
(mixed precision, Micikevicius et al. 2018, arXiv 1710.03740); weights, optimiser, gradients and the decoder's sums stay
in float32. What it gives is the code: the loss is that of the rounded code, and its gradient passes the rounding
straight through. Where most pairs are active (`blockwise`) a step is all dense products, and those stay in float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_format: ContextVar[torch.dtype | None] = ContextVar("format", default=None)


@contextmanager
def products_in(name: str) -> Iterator[None]:
    """Inside, encoders multiply in this format; `float32` leaves them in the format of their weights."""
    token = _format.set(None if name == "float32" else FORMATS[name])
    try:
        yield
    finally:
        _format.reset(token)


def product_format(weights: torch.Tensor) -> torch.dtype:
    """What to multiply `weights` in."""
    return _format.get() or weights.dtype
