"""The number format in which a training step multiplies: float32, or bfloat16, for which GPUs have matrix units.

A product rounds copies of its two factors and, summed in float32, its result (mixed precision, Micikevicius et al.
2018, arXiv 1710.03740); weights, optimiser, and what is summed over products stay in float32. This holds for the
encoder's product, for all products where most pairs are active (`by_blocks`), and for what a GPU's kernels gather, not
for what they sum; on a CPU, sparse products take float32 factors. The loss is that of the rounded code, and its
gradient passes the rounding straight through. Rounded pre-activations are often equal, and BatchTopK keeps all that
equal its boundary: its batches have a little more than k active latents a row.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from catalog.study.terms import Precision
from ingest.sae.products.onednn import fusable, fused

_format: ContextVar[torch.dtype | None] = ContextVar("format", default=None)


@contextmanager
def products_in(name: Precision) -> Iterator[None]:
    """Inside, encoders multiply in this format; `float32` leaves them in the format of their weights."""
    token = _format.set(None if name == "float32" else getattr(torch, name))
    try:
        yield
    finally:
        _format.reset(token)


def product_format(weights: torch.Tensor) -> torch.dtype:
    """What to multiply `weights` in."""
    return _format.get() or weights.dtype


def product(
    left: torch.Tensor, weights: torch.Tensor, out: torch.Tensor, shift: torch.Tensor | None = None
) -> torch.Tensor:
    """left [n, m] @ weights.T [m, k] + shift [k], the factors rounded to the format; in `out` [n, k] or new memory."""
    dtype = product_format(left)
    if dtype != out.dtype:
        out.copy_(torch.mm(left.to(dtype), weights.T.to(dtype)))
        return out if shift is None else out.add_(shift)
    if fusable(weights):
        return fused(left, weights, shift)
    if shift is None:
        return torch.mm(left, weights.T, out=out)
    return torch.addmm(shift, left, weights.T, out=out)


def add_product(sums: torch.Tensor, left: torch.Tensor, right: torch.Tensor, before: float) -> None:
    """Set `sums` [n, k] to before * sums + left @ right, the factors rounded; at 0, `sums` may hold anything."""
    dtype = product_format(left)
    if dtype == sums.dtype:
        sums.addmm_(left, right, beta=before)
    elif before:
        sums.mul_(before).add_(torch.mm(left.to(dtype), right.to(dtype)))
    else:
        sums.copy_(torch.mm(left.to(dtype), right.to(dtype)))
