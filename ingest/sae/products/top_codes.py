"""Encodes rows to the pairs that are kept, block by block, and reads each block while it is still in cache."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ingest.sae.architecture import block_rows
from ingest.sae.codes import SparseCode, fixed, ragged
from ingest.sae.products.exact_topk import above, exact_topk
from ingest.sae.products.onednn import fusable, fused
from ingest.sae.products.precision import product_format


def pre_activations(x_in: Tensor, encoder: Tensor, bias: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """(rows, x_in[rows] @ encoder.T + bias) block by block; `x_in` [n, d], `encoder` [latents, d].

    Every block may be the same memory: use it before asking for the next one. It may be overwritten. Blocks have the
    format that `precision` says.
    """
    n, latents = len(x_in), len(encoder)
    size = block_rows(latents, x_in.device)
    dtype = product_format(encoder)
    encoder, bias = encoder.to(dtype), bias.to(dtype)
    block = None if fusable(encoder) else x_in.new_empty((min(size, n), latents), dtype=dtype)
    for start in range(0, n, size):
        rows = x_in[start : start + size].to(dtype)
        out = slice(start, start + len(rows))
        if block is None:
            yield out, fused(rows, encoder, bias)
        else:
            yield out, torch.addmm(bias, rows, encoder.T, out=block[: len(rows)])


def sampled_pre_activations(x_in: Tensor, encoder: Tensor, bias: Tensor, rows: int) -> Tensor:
    """Those of about `rows` rows spread over `x_in`, of fewer where a block takes fewer: [sampled, latents]."""
    step = -(-len(x_in) // min(rows, block_rows(len(encoder), x_in.device)))
    return next(pre_activations(x_in[:: max(step, 1)], encoder, bias))[1]


def top_code(x_in: Tensor, encoder: Tensor, bias: Tensor, k: int) -> SparseCode:
    """The k largest of relu(x_in @ encoder.T + bias) per row, exactly; k pairs a row, also of value 0."""
    values = x_in.new_empty((len(x_in), k))
    indices = torch.empty((len(x_in), k), dtype=torch.int64, device=x_in.device)
    for rows, pre in pre_activations(x_in, encoder, bias):
        top, at = exact_topk(pre, k)
        # relu keeps the order, so it is applied to the k kept values alone.
        values[rows] = top.clamp_(min=0)
        indices[rows] = at
    return fixed(values, indices)


def top_matrix(x_in: Tensor, encoder: Tensor, bias: Tensor, k: int) -> Tensor:
    """The same as a matrix [n, latents], for few latents: whatever is not among the k largest is 0."""
    z = x_in.new_empty((len(x_in), len(encoder)))
    for rows, pre in pre_activations(x_in, encoder, bias):
        if k < len(encoder):
            top, at = exact_topk(pre, k)
            z[rows].zero_().scatter_(1, at, top.clamp_(min=0).to(z.dtype))
        else:
            z[rows] = pre.clamp_(min=0)
    return z


def code_above(x_in: Tensor, encoder: Tensor, bias: Tensor, floor: float) -> SparseCode:
    """All of x_in @ encoder.T + bias above `floor`, which must not be negative."""
    if not len(x_in):
        none = torch.empty(0, dtype=torch.int64, device=x_in.device)
        return ragged(x_in.new_empty(0), none, none)
    values, indices, counts = [], [], []
    for _, pre in pre_activations(x_in, encoder, bias):
        found, columns, per_row = above(pre, floor)
        values.append(found.to(x_in.dtype))
        indices.append(columns)
        counts.append(per_row)
    return ragged(torch.cat(values), torch.cat(indices), torch.cat(counts))
