"""What an SAE architecture must offer, so that saving, training and evaluating need to know only this."""

from dataclasses import dataclass, fields
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ingest.sae.codes import SparseCode, decode


@dataclass(frozen=True)
class Weights:
    """An SAE's tensors. Both matrices hold one latent per row, the layout in which every product here is fast."""

    encoder: Tensor
    """[latents, d]: the transpose of SAELens' W_enc."""
    encoder_bias: Tensor
    """[latents]"""
    decoder: Tensor
    """[latents, d]: W_dec, one decoder direction per row."""
    decoder_bias: Tensor
    """[d]: subtracted from the input, added to the output."""

    def named(self) -> dict[str, Tensor]:
        """The tensors by field name, in a fixed order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


class Outcome(NamedTuple):
    """One batch's loss with its gradient, and what the progress line and the dead-latent count need."""

    loss: Tensor
    """Scalar: what is minimised, all terms included."""
    fve: Tensor
    """Scalar: 1 - squared error / variance, of this batch."""
    fired: Tensor
    """[latents] int64: rows of the batch on which each latent was active."""
    gradient: Weights


class Architecture(Protocol):
    """One way from pre-activations to a sparse code, with the loss that trains it."""

    def encode(self, weights: Weights, x: Tensor) -> SparseCode:
        """The code of rows `x` [n, d]."""
        ...

    def loss(self, weights: Weights, x: Tensor, dead: Tensor) -> Outcome:
        """The loss and its gradient on rows `x` [n, d]; `dead` [latents] bool marks the latents to revive."""
        ...


def reconstruct(weights: Weights, code: SparseCode) -> Tensor:
    """A code's reconstruction [n, d]: its decoder directions, weighed by the activations, plus the bias."""
    return decode(code, weights.decoder) + weights.decoder_bias


def block_rows(latents: int, device: torch.device) -> int:
    """Rows whose pre-activations are held at a time: 16 MB of them on a CPU (cache), 1 GB on a GPU."""
    return max(16, (1 << (22 if device.type == "cpu" else 28)) // latents)
