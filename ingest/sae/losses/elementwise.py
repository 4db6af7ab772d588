"""Defines SAEs whose code is an elementwise function of their pre-activations: ReLU, JumpReLU, Gated.

With p = x_in W_enc^T + b_enc and z = f(p), row i loses

    L_i = |x_hat_i - x_i|^2 + sparsity * sum_j penalty(p_ij)    (+ |x_aux_i - x_i|^2: Gated)

An architecture says what f, the penalty and their derivatives are, once, for matrices [rows, latents] and for lists of
pairs alike; `penalty_family` makes a loss of it.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ingest.sae.architecture import Weights
from ingest.sae.codes import SparseCode


class Activations(NamedTuple):
    """What follows from pre-activations, all [rows, latents] or all [pairs]."""

    shifted: Tensor
    """The pre-activations as given, if `back` needs them, else anything."""
    z: Tensor
    """The code, at least 0."""
    penalty: Tensor
    """Its sum over a row's latents is the row's sparsity penalty."""
    auxiliary: Tensor | None = None
    """A second code, reconstructing by itself through a decoder and biases held constant."""


class Slopes(NamedTuple):
    """Derivatives of the loss, all [rows, latents] or all [pairs]."""

    pre: Tensor
    """With respect to x_in W_enc^T, and to the encoder bias unless `others` has an entry for it."""
    others: dict[str, Tensor]
    """With respect to each latent's entry in further tensors of `Weights`, by field name. The sum over rows is the
    gradient of the tensor."""


class Elementwise(Protocol):
    """An architecture as both paths see it. Whatever is not positive when shifted matters to neither code nor loss."""

    @property
    def centred(self) -> bool:
        """Whether b_dec is subtracted from the input."""
        ...

    def shift(self, weights: Weights) -> Tensor:
        """[latents]: what is added to x_in W_enc^T so that only pairs above 0 have a value or a gradient."""
        ...

    def parameters(self, weights: Weights) -> tuple[Tensor, ...]:
        """[latents] each: what `forward` and `back` need to know of a latent."""
        ...

    def forward(self, shifted: Tensor, *parameters: Tensor) -> Activations:
        """The code of shifted pre-activations, which may be overwritten; parameters [latents] or [pairs]."""
        ...

    def back(
        self, seen: Activations, by_z: Tensor, by_auxiliary: Tensor | None, by_penalty: Tensor, *parameters: Tensor
    ) -> Slopes:
        """Derivatives, given those by both codes and by `penalty` ([rows, 1] or [pairs]); any but those may be lost.

        `seen` has forgotten how strong activations were: its z is 1 where a latent is active, else 0.
        """
        ...


class Task(NamedTuple):
    """One batch as both paths see it."""

    x_in: Tensor
    """[n, d_in]: what the encoder multiplies."""
    target: Tensor
    """[n, d_out]: what the decoded code should be, b_dec and the skip path subtracted."""
    sparsity: float
    tilt: float


class Found(NamedTuple):
    """What a path finds; from it follow the gradients of the decoder bias and of the skip path."""

    loss: Tensor
    """Scalar: the tilted mean of row_losses over all processes."""
    row_losses: Tensor
    """[n]."""
    by_row: Tensor
    """[n]: derivative of `loss` by each of them."""
    error: Tensor
    """[n, d_out]: target minus decoded."""
    fired: Tensor
    """[latents] int64."""
    encoder: Tensor
    decoder: Tensor
    by_pre: Tensor
    """[latents]: the derivatives by pre-activations, summed over rows."""
    others: dict[str, Tensor]
    """[latents] each: gradients by name."""


def at_pairs(parameters: tuple[Tensor, ...], code: SparseCode) -> tuple[Tensor, ...]:
    """Per-latent `parameters` [latents] at a code's pairs [pairs]."""
    return tuple(parameter[code.indices] for parameter in parameters)


def exceeds(x: Tensor, floor: Tensor | float) -> Tensor:
    """1 where x > floor, else 0, in the dtype of `x`: booleans cost several times as much to sum and multiply by."""
    return torch.gt(x, floor, out=torch.empty_like(x))  # type: ignore[call-overload, no-any-return]
