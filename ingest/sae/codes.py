"""Sparse codes: the (latent, activation) pairs of each row, and the products that need only those.

All products are `embedding_bag`: it gathers, weighs and sums rows in one pass, on a CPU and on CUDA alike.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


class SparseCode(NamedTuple):
    """The pairs of n rows, row after row (CSR): k a row for TopK, any number for the other architectures."""

    values: Tensor
    """Activations [pairs], at least 0. A pair with value 0 is padding: that latent is not active."""
    indices: Tensor
    """Latents [pairs], int64, distinct within a row."""
    offsets: Tensor
    """[n + 1] int64: row i's pairs stand at offsets[i] up to offsets[i + 1]."""

    def rows(self) -> Tensor:
        """The row of each pair, [pairs]."""
        return torch.repeat_interleave(self.offsets.diff(), output_size=len(self.indices))

    def fired(self, latents: int) -> Tensor:
        """Rows on which each latent is active, [latents] int64."""
        return _counted(self.indices, (self.values > 0).long(), latents)


class ByLatent(NamedTuple):
    """A code's pairs sorted by latent: the transpose of the [n, latents] matrix, in CSR form."""

    order: Tensor
    """[pairs]: which pair of the code stands at each place."""
    rows: Tensor
    """[pairs]: the row that the pair belongs to."""
    offsets: Tensor
    """[latents + 1]: latent j's pairs stand at offsets[j] up to offsets[j + 1]."""


def fixed(values: Tensor, indices: Tensor) -> SparseCode:
    """The code with the pairs of `values` and `indices` [n, k], k a row."""
    n, k = indices.shape
    return SparseCode(values.flatten(), indices.flatten(), torch.arange(0, n * k + 1, k, device=indices.device))


def ragged(values: Tensor, indices: Tensor, counts: Tensor) -> SparseCode:
    """The code with `counts` [n] pairs a row, given row after row as `values` and `indices` [pairs]."""
    offsets = torch.zeros(len(counts) + 1, dtype=torch.int64, device=counts.device)
    torch.cumsum(counts, 0, out=offsets[1:])
    return SparseCode(values, indices, offsets)


def nested(code: SparseCode, groups: tuple[int, ...]) -> list[SparseCode]:
    """The pairs that each nested dictionary adds to the one before (Matryoshka); the code itself if there is one.

    Latents keep their numbers.
    """
    if len(groups) <= 1:
        return [code]
    rows, parts, low = code.rows(), [], 0
    for high in groups:
        inside = (code.indices >= low) & (code.indices < high)
        counts = torch.bincount(rows[inside], minlength=len(code.offsets) - 1)
        parts.append(ragged(code.values[inside], code.indices[inside], counts))
        low = high
    return parts


def decode(code: SparseCode, decoder: Tensor) -> Tensor:
    """sum over a row's pairs of value * decoder[latent], without a bias: [n, d] from `decoder` [latents, d]."""
    return embedding_bag(
        code.indices,
        decoder,
        offsets=code.offsets,
        per_sample_weights=code.values,
        mode="sum",
        include_last_offset=True,
    )


def by_latent(code: SparseCode, latents: int) -> ByLatent:
    """Sort a code's pairs by latent, once for all products that need it transposed."""
    # Sorting 16-bit keys is 4 times faster than 64-bit ones.
    keys = code.indices.to(torch.int16) if latents <= 1 << 15 else code.indices
    order = torch.sort(keys, stable=True).indices
    offsets = torch.zeros(latents + 1, dtype=torch.int64, device=keys.device)
    torch.cumsum(_counted(code.indices, torch.ones_like(code.indices), latents), 0, out=offsets[1:])
    return ByLatent(order, code.rows()[order], offsets)


def transposed_product(pairs: ByLatent, values: Tensor, dense: Tensor) -> Tensor:
    """S^T @ dense, [latents, d], for the sparse S [n, latents] with `values` [pairs] at the pairs; dense [n, d]."""
    return embedding_bag(
        pairs.rows,
        dense,
        offsets=pairs.offsets,
        per_sample_weights=values[pairs.order],
        mode="sum",
        include_last_offset=True,
    )


def latent_sums(code: SparseCode, values: Tensor, latents: int) -> Tensor:
    """The sum over rows of `values` [pairs] at each latent: [latents], in the values' dtype."""
    return torch.zeros(latents, dtype=values.dtype, device=values.device).index_add_(0, code.indices, values)


def row_sums(code: SparseCode, values: Tensor) -> Tensor:
    """The sum of `values` [pairs] over each row's pairs: [n], in the values' dtype."""
    sums = torch.zeros(len(code.offsets) - 1, dtype=values.dtype, device=values.device)
    return sums.index_add_(0, code.rows(), values)


def _counted(indices: Tensor, amounts: Tensor, latents: int) -> Tensor:
    """The sum of whole `amounts` at each latent, [latents]; unlike `bincount`, a GPU need not be waited for."""
    return torch.zeros(latents, dtype=torch.int64, device=indices.device).scatter_add_(0, indices, amounts)
