"""The sparse products of a training step as Triton kernels, each reading every gathered row once.

A step that keeps k latents of n rows gathers n k rows of width d for each product: 8.6 GB in bfloat16 at d 4,096, k 64
and n 16,384, so that memory, not arithmetic, sets its time. Products that need the same rows are therefore one kernel:

- `decode_and_compare`: a tile of decoder rows gives its columns of the error, and with them at once the error's
  products with those rows, of which the gradient by the activations is made;
- `latent_products`: a latent's rows of x and of the step are gathered side by side, for both weight gradients.

Programs go through a row's columns in stretches, all rows of one stretch before the next: a stretch of the gathered
matrix then stays in the GPU's cache. Factors may be bfloat16; sums are float32, in an order that the shapes alone
decide: the same input gives the same bits.
"""

# mypy: disable-error-code="no-untyped-def"

import torch
import triton
import triton.language as tl
from torch import Tensor

from ingest.sae.codes import ByLatent, SparseCode

PAIRS, COLUMNS = 64, 128
"""A tile of `decode_and_compare`: pairs of a row, columns of their decoder rows."""
LATENT_PAIRS, LATENT_COLUMNS = 16, 512
"""A tile of `latent_products`."""
PARTIAL_SUMS = 1 << 28
"""Partial products that are held at a time; codes with more pairs leave the columns of a row to one program."""


@triton.jit  # type: ignore[untyped-decorator]
def _decode_and_compare(
    values, indices, offsets, decoder, target, error, products, d, pairs, span,
    COMPARE: tl.constexpr, PAIRS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One row's columns from `span` times the program's second number on; that is also the row of its products.

    With COMPARE, the error is target - decoded, and is written; without, rows are compared with `target` itself.
    """
    row = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * span
    begin = tl.load(offsets + row)
    end = tl.load(offsets + row + 1)
    products += tl.program_id(1).to(tl.int64) * pairs
    for start in range(first, tl.minimum(first + span, d), COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        inside = columns < d
        compared = tl.load(target + row * d + columns, mask=inside, other=0.0).to(tl.float32)
        if COMPARE:
            for at in range(begin, end, PAIRS):
                place = at + tl.arange(0, PAIRS)
                here = place < end
                latent = tl.load(indices + place, mask=here, other=0)
                value = tl.load(values + place, mask=here, other=0.0)
                mask = here[:, None] & inside[None, :]
                tile = tl.load(decoder + latent[:, None] * d + columns[None, :], mask=mask, other=0.0).to(tl.float32)
                compared -= tl.sum(tile * value[:, None], 0)
            tl.store(error + row * d + columns, compared, mask=inside)
        # Where a row has one tile of pairs, this reads it again from the cache next to the processor.
        for at in range(begin, end, PAIRS):
            place = at + tl.arange(0, PAIRS)
            here = place < end
            latent = tl.load(indices + place, mask=here, other=0)
            mask = here[:, None] & inside[None, :]
            tile = tl.load(decoder + latent[:, None] * d + columns[None, :], mask=mask, other=0.0).to(tl.float32)
            found = tl.sum(tile * compared[None, :], 1)
            if start > first:
                # What another thread of this program has stored.
                tl.debug_barrier()
                found += tl.load(products + place, mask=here, other=0.0)
            tl.store(products + place, found, mask=here)


@triton.jit  # type: ignore[untyped-decorator]
def _latent_products(
    turn, order, rows, offsets, by_pre, x_in, values, step, encoder, bias, decoder, d_in, d_out,
    PAIRS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One latent's columns of both gradients; the first columns' program also sums the bias's."""
    latent = tl.load(turn + tl.program_id(0))
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    read, written = columns < d_in, columns < d_out
    by_encoder = tl.zeros([COLUMNS], tl.float32)
    by_decoder = tl.zeros([COLUMNS], tl.float32)
    by_bias = tl.zeros([PAIRS], tl.float32)
    for at in range(tl.load(offsets + latent), tl.load(offsets + latent + 1), PAIRS):
        place = at + tl.arange(0, PAIRS)
        here = place < tl.load(offsets + latent + 1)
        pair = tl.load(order + place, mask=here, other=0)
        row = tl.load(rows + place, mask=here, other=0)
        slope = tl.load(by_pre + pair, mask=here, other=0.0)
        value = tl.load(values + pair, mask=here, other=0.0)
        mask = here[:, None] & read[None, :]
        x = tl.load(x_in + row[:, None] * d_in + columns[None, :], mask=mask, other=0.0).to(tl.float32)
        by_encoder += tl.sum(x * slope[:, None], 0)
        mask = here[:, None] & written[None, :]
        s = tl.load(step + row[:, None] * d_out + columns[None, :], mask=mask, other=0.0).to(tl.float32)
        by_decoder += tl.sum(s * value[:, None], 0)
        by_bias += slope
    tl.store(encoder + latent * d_in + columns, by_encoder, mask=read)
    tl.store(decoder + latent * d_out + columns, by_decoder, mask=written)
    if tl.program_id(1) == 0:
        tl.store(bias + latent, tl.sum(by_bias, 0))


def decode_and_compare(code: SparseCode, decoder: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(target - decoded [n, d], the product of each row of it with the decoder rows of that row's pairs [pairs]).

    `decoder` [latents, d] is float32 or bfloat16, `target` [n, d] float32; the results are float32.
    """
    error = torch.empty_like(target)
    return error, _compare(code, decoder, target, error)


def products_at_pairs(code: SparseCode, decoder: Tensor, step: Tensor) -> Tensor:
    """step decoder^T at the pairs, [pairs], from `decoder` [latents, d] and `step` [n, d]."""
    return _compare(code, decoder, step, None)


def _compare(code: SparseCode, decoder: Tensor, target: Tensor, error: Tensor | None) -> Tensor:
    n, d = target.shape
    stretches = triton.cdiv(d, COLUMNS)
    if stretches * len(code.values) > PARTIAL_SUMS:
        stretches = 1
    products = torch.zeros(stretches, len(code.values), dtype=torch.float32, device=target.device)
    if n:
        span = triton.cdiv(d, stretches * COLUMNS) * COLUMNS
        _decode_and_compare[(n, stretches)](
            code.values, code.indices, code.offsets, decoder.contiguous(), target.contiguous(),
            target if error is None else error, products, d, len(code.values), span,
            COMPARE=error is not None, PAIRS=PAIRS, COLUMNS=COLUMNS, num_warps=4,
        )  # fmt: skip
    return products.sum(0)


def latent_products(
    pairs: ByLatent, by_pre: Tensor, x_in: Tensor, values: Tensor, step: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(P^T x_in [latents, d_in], the sums of P's columns [latents], Z^T step [latents, d_out]), float32.

    P and Z are the sparse [n, latents] with `by_pre` and `values` [pairs] at the pairs; `x_in` [n, d_in] and `step`
    [n, d_out] are float32 or bfloat16.
    """
    latents, (_, d_in), (_, d_out) = len(pairs.offsets) - 1, x_in.shape, step.shape
    encoder, decoder = (torch.empty(latents, d, dtype=torch.float32, device=x_in.device) for d in (d_in, d_out))
    bias = torch.empty(latents, dtype=torch.float32, device=x_in.device)
    # Those with most rows first, so that none of them is left over at the end.
    turn = pairs.offsets.diff().argsort(descending=True, stable=True)
    _latent_products[(latents, triton.cdiv(max(d_in, d_out), LATENT_COLUMNS))](
        turn, pairs.order, pairs.rows, pairs.offsets, by_pre, x_in.contiguous(), values, step.contiguous(),
        encoder, bias, decoder, d_in, d_out, PAIRS=LATENT_PAIRS, COLUMNS=LATENT_COLUMNS, num_warps=8,
    )  # fmt: skip
    return encoder, bias, decoder
