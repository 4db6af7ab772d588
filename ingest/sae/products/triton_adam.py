"""The optimiser's step of encoder and decoder as Triton kernels, which hold a row while all is done to it.

Adam as torch has it follows four passes over the gradients (projection, norm, scale) and is followed by two over the
decoder (norms, division): at d 4,096 and 65,536 latents, by count, 28 GB are moved of which
18 GB are needed; nobody has timed it. Here one pass finds
what the projection takes away and what norm is left, and one does all the rest of a row while it is in registers.
"""

# mypy: disable-error-code="no-untyped-def"

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit  # type: ignore[untyped-decorator]
def _unit_parts(weight, slope, along, squares, d, COLUMNS: tl.constexpr):  # fmt: skip
    """Of one row: the part of its gradient along the unit row, and the squared norm of the rest."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, COLUMNS)
    inside = columns < d
    w = tl.load(weight + row * d + columns, mask=inside, other=0.0)
    g = tl.load(slope + row * d + columns, mask=inside, other=0.0)
    part = tl.sum(w * g, 0)
    rest = g - part * w
    tl.store(along + row, part)
    tl.store(squares + row, tl.sum(rest * rest, 0))


@triton.jit  # type: ignore[untyped-decorator]
def _adam(
    weight, slope, mean, square, along, factor, d, rate, first, second, correction, epsilon,
    UNIT: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One row's step, with UNIT orthogonal to the row and back to norm 1."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, COLUMNS)
    inside = columns < d
    at = row * d + columns
    w = tl.load(weight + at, mask=inside, other=0.0)
    g = tl.load(slope + at, mask=inside, other=0.0)
    if UNIT:
        g -= tl.load(along + row) * w
    g *= tl.load(factor)
    m = tl.load(mean + at, mask=inside, other=0.0)
    v = tl.load(square + at, mask=inside, other=0.0)
    m += (g - m) * first
    v += (g * g - v) * second
    w -= rate * m / (tl.sqrt(v) * correction + epsilon)
    if UNIT:
        norm = tl.sqrt(tl.sum(w * w, 0))
        w /= tl.where(norm > 0, norm, 1.0)
    tl.store(weight + at, w, mask=inside)
    tl.store(mean + at, m, mask=inside)
    tl.store(square + at, v, mask=inside)


def squared_rest(decoder: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """([latents]: the gradient's part along each unit row of `decoder` [latents, d]; the squared norm of the rest)."""
    latents, d = decoder.shape
    along, squares = torch.empty(2, latents, dtype=torch.float32, device=decoder.device)
    _unit_parts[(latents,)](decoder, gradient, along, squares, d, COLUMNS=triton.next_power_of_2(d), num_warps=8)
    return along, squares.sum()


class Rates(NamedTuple):
    """Adam's numbers of one step."""

    learning_rate: float
    betas: tuple[float, float]
    epsilon: float


def step_rows(
    weight: Tensor,
    gradient: Tensor,
    state: dict[str, Tensor],
    along: Tensor | None,
    factor: Tensor,
    rates: Rates,
) -> None:
    """Adam's step of `weight` [rows, d] down `factor` times `gradient`, in place, as also `state`'s moments and count.

    With `along` [rows], of `squared_rest`, that part of the gradient is left out, and rows come back to norm 1.
    """
    rows, d = weight.shape
    # On the host, also after a checkpoint was read: nothing waits for the device.
    state["step"] = state["step"].cpu() + 1
    count = int(state["step"])
    betas = rates.betas
    first, second = (1 - beta for beta in betas)
    rate, correction = rates.learning_rate / (1 - betas[0] ** count), (1 - betas[1] ** count) ** -0.5
    _adam[(rows,)](
        weight, gradient.contiguous(), state["exp_avg"], state["exp_avg_sq"], factor if along is None else along,
        factor, d, rate, first, second, correction, rates.epsilon,
        UNIT=along is not None, COLUMNS=triton.next_power_of_2(d), num_warps=8,
    )  # fmt: skip
