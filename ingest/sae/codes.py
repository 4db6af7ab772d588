"""Sparse codes: the (latent, activation) pairs kept for each row, and the products that need only those.

All products are `embedding_bag`: it gathers, weighs and sums rows in one pass, on a CPU and on CUDA alike.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


class SparseCode(NamedTuple):
    """The kept pairs of n rows: k per row for TopK, else as many as the fullest row has."""

    values: Tensor
    """Activations [n, k], at least 0. A pair with value 0 is padding: that latent is not active."""
    indices: Tensor
    """Latents [n, k], int64, distinct within a row."""


class ByLatent(NamedTuple):
    """A code's pairs sorted by latent: the transpose of the [n, latents] matrix, in CSR form."""

    order: Tensor
    """[n * k]: which pair, in row-major order, stands at each place."""
    rows: Tensor
    """[n * k]: the row that the pair belongs to."""
    offsets: Tensor
    """[latents + 1]: latent j's pairs stand at offsets[j] up to offsets[j + 1]."""


def decode(code: SparseCode, decoder: Tensor) -> Tensor:
    """sum_j values[i, j] * decoder[indices[i, j]], without a bias: [n, d] from `decoder` [latents, d]."""
    return embedding_bag(code.indices, decoder, per_sample_weights=code.values, mode="sum")


def by_latent(code: SparseCode, latents: int) -> ByLatent:
    """Sort a code's pairs by latent, once for all products that need it transposed."""
    flat = code.indices.flatten()
    # Sorting 16-bit keys is 4 times faster than 64-bit ones.
    keys = flat.to(torch.int16) if latents <= 1 << 15 else flat
    order = torch.sort(keys, stable=True).indices
    offsets = torch.zeros(latents + 1, dtype=torch.int64, device=flat.device)
    torch.cumsum(torch.bincount(flat, minlength=latents), 0, out=offsets[1:])
    return ByLatent(order, order // code.indices.shape[1], offsets)


def transposed_product(pairs: ByLatent, values: Tensor, dense: Tensor) -> Tensor:
    """S^T @ dense, [latents, d], for the sparse S [n, latents] with `values` [n, k] at the pairs; dense [n, d]."""
    return embedding_bag(
        pairs.rows,
        dense,
        offsets=pairs.offsets,
        per_sample_weights=values.flatten()[pairs.order],
        mode="sum",
        include_last_offset=True,
    )


def latent_sums(code: SparseCode, values: Tensor, latents: int) -> Tensor:
    """The sum over rows of `values` [n, k] at each latent: [latents], in the values' dtype."""
    return torch.zeros(latents, dtype=values.dtype, device=values.device).index_add_(
        0, code.indices.flatten(), values.flatten()
    )
