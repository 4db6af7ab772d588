"""Rounds rows of the residual stream to half precision, whatever their size.

A row that half precision cannot hold is first divided by the least power of two that brings it in range, and keeps
that exponent: a row's rounding follows from the row alone, and all of its values keep 11 bits where they did before.
Rows within range, which is nearly every row of nearly every model, are stored as they are.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ingest.activations.activation_file import HALF_MAX


class Halves(NamedTuple):
    """Rounded rows as they are stored: row i is `halves[i] * 2 ** exponents[i]`."""

    halves: npt.NDArray[np.float16]
    """`[rows, d]`."""
    exponents: npt.NDArray[np.int8]
    """`[rows]`, 0 for a row within range."""


def in_half(rows: Tensor) -> Halves:
    """The finite rows `[rows, d]` in float32, rounded."""
    exponents = _exponents(rows)
    halves = torch.ldexp(rows, -exponents[:, None]) if bool(exponents.any()) else rows
    return Halves(halves.half().cpu().numpy(), exponents.to(torch.int8).cpu().numpy())


def rounded(rows: Tensor) -> Tensor:
    """The finite rows `[rows, d]` in float32 as `in_half` keeps them, in float32 again."""
    exponents = _exponents(rows)
    if not bool(exponents.any()):
        return rows.half().float()
    return torch.ldexp(torch.ldexp(rows, -exponents[:, None]).half().float(), exponents[:, None])


def _exponents(rows: Tensor) -> Tensor:
    """By row the exponent that brings its largest value below 2^15; 0 where half precision holds the row."""
    largest = rows.abs().amax(1) if len(rows) else rows.new_zeros(0)
    # largest = m 2^e with m in [1/2, 1).
    exponents = torch.frexp(largest).exponent - 15
    return torch.where(largest > HALF_MAX, exponents, torch.zeros_like(exponents))
