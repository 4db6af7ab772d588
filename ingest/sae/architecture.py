"""Defines what an SAE architecture offers, so that saving, training and evaluating need to know only this."""

from dataclasses import dataclass, fields
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ingest.sae.codes import SparseCode, decode


@dataclass(frozen=True)
class Weights:
    """An SAE's tensors. The matrices hold one latent per row, the layout in which every product here is fast.

    For an SAE d_in = d_out; a transcoder reads one hookpoint and writes another.
    """

    encoder: Tensor
    """[latents, d_in]: the transpose of SAELens' W_enc. Gated: W_gate."""
    encoder_bias: Tensor
    """[latents]. Gated: b_gate."""
    decoder: Tensor
    """[latents, d_out]: W_dec, one decoder direction per row."""
    decoder_bias: Tensor
    """[d_out]: added to the output and, where the configuration says `centred`, subtracted from the input."""
    threshold: Tensor | None = None
    """JumpReLU: [latents], above which a pre-activation counts. BatchTopK, Matryoshka: scalar [], estimated in
    training; negative until it was, and then the code is a plain relu."""
    magnitude: Tensor | None = None
    """Gated: r_mag [latents]; the magnitude's encoder is exp(r_mag) times the gate's."""
    magnitude_bias: Tensor | None = None
    """Gated: b_mag [latents]."""
    skip: Tensor | None = None
    """Transcoder: [d_out, d_in], a linear path beside the latents."""

    def named(self) -> dict[str, Tensor]:
        """The tensors that there are, by field name, in a fixed order."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in found.items() if tensor is not None}


class Batch(NamedTuple):
    """What one training step sees. With several processes, this one's part of the batch."""

    x: Tensor
    """[n, d_in]: rows to encode."""
    target: Tensor
    """[n, d_out]: rows to reconstruct; `x` itself unless it is a transcoder."""
    dead: Tensor
    """[latents] bool: latents to revive."""
    sparsity: float = 0.0
    """Coefficient of the sparsity penalty; architectures that fix the number of active latents have none."""
    tilt: float = 0.0
    """t of the tilted loss (TERM); 0 is the mean over rows."""


class Outcome(NamedTuple):
    """One batch's loss with its gradient, and what the progress line and the dead-latent count need."""

    loss: Tensor
    """Scalar: what is minimised, all terms included."""
    fve: Tensor
    """Scalar: 1 - squared error / variance, of this batch."""
    fired: Tensor
    """[latents] int64: rows of the batch on which each latent was active."""
    gradient: Weights
    """Of the loss; a tensor without a gradient (an estimated threshold) is None here."""
    row_losses: Tensor
    """[n]: the loss of each row, for resampling and for whoever asks which rows are hard."""
    smallest: Tensor | None = None
    """Scalar, BatchTopK: the smallest activation that was kept, from which the threshold is estimated."""


class Architecture(Protocol):
    """One way from pre-activations to a sparse code, with the loss that trains it.

    An implementation is a frozen dataclass of its hyperparameters. `loss` sums over all processes what is
    normalised, tilted or selected over the batch (see `collectives`), and leaves its gradient as this process's share.
    """

    def encode(self, weights: Weights, x: Tensor) -> SparseCode:
        """The code of rows `x` [n, d_in], as at inference."""
        ...

    def loss(self, weights: Weights, batch: Batch) -> Outcome:
        """The loss and its gradient on a batch, as in training."""
        ...


def reconstruct(weights: Weights, code: SparseCode, x: Tensor | None = None) -> Tensor:
    """A code's reconstruction [n, d_out]: its decoder directions, weighed by the activations, plus the bias.

    `x` [n, d_in] is needed by a transcoder with a linear skip path alone.
    """
    found = decode(code, weights.decoder) + weights.decoder_bias
    if weights.skip is not None:
        if x is None:
            raise ValueError("a transcoder with a skip path reconstructs from its input as well")
        found = found + x @ weights.skip.T
    return found


def block_rows(latents: int, device: torch.device) -> int:
    """Rows whose pre-activations are held at a time: 8 MB of them on a CPU, 1 GB on a GPU.

    4,096 rows encoded by 8,192 latents, k 32, one core: 217 to 225 ms in blocks of 8 MB, 219 to 242 in blocks of 2 MB,
    248 in blocks of 16 MB, 276 in blocks of 32 MB: with them the memory is new each time.
    """
    return max(16, (1 << (21 if device.type == "cpu" else 28)) // latents)
