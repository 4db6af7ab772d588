"""Multiplies by oneDNN and adds a bias on the way, where torch is built with it.

torch multiplies float32 matrices on a CPU with MKL, after a copy of the bias into every row. oneDNN's product takes
170 ms where that takes 203 (4,096 rows, d 256, 8,192 latents, one core of an AMD processor), with errors of the same
size (6e-5 and 4e-5 at most, on sums of 256 products of standard normals). Its name in torch is one that only torch's
own compiler uses; where a build lacks it, nothing changes but the time.
"""

import torch
from torch import Tensor

SMALLEST = 1 << 17
"""Entries of a weight matrix from which oneDNN wins: (rows, latents, d) of (4096, 1024, 128) take 0.86 of the time,
(1024, 512, 64) 1.03, (64, 48, 16) four times as long."""


def fusable(weights: Tensor) -> bool:
    """Whether torch has `fused`, faster for this matrix [m, d]; `torch.backends.mkldnn.flags` can forbid it."""
    return _there() and weights.dtype == torch.float32 and weights.device.type == "cpu" and weights.numel() >= SMALLEST


def _there() -> bool:
    enabled, built = torch.backends.mkldnn.enabled, torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(enabled and built and hasattr(torch.ops.mkldnn, "_linear_pointwise"))


def fused(x: Tensor, weights: Tensor, bias: Tensor | None) -> Tensor:
    """x [n, d] @ weights.T [d, m] + bias [m], a new tensor; only where `fusable`."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weights, bias, "none", [], "")
    return product
