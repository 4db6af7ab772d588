"""Gated SAE (Rajamanoharan et al. 2024, arXiv 2404.16014): one path says which latents are active, one how strongly.

    g = (x - b_dec) W_gate      pi = g + b_gate      m = exp(r_mag) g + b_mag      z = H(pi) relu(m)

with the loss (equation 8, per row)

    L = |x - x_hat(z)|^2 + sparsity * |relu(pi)|_1 + |x - x_hat_frozen(relu(pi))|^2

where x_hat_frozen holds the decoder, its bias and a skip path constant: the last term teaches the gate alone.
"""

from dataclasses import dataclass

from torch import Tensor

from ingest.sae.architecture import Batch, Outcome, Weights
from ingest.sae.codes import SparseCode
from ingest.sae.losses import penalty_family
from ingest.sae.losses.elementwise import Activations, Slopes, exceeds


@dataclass(frozen=True)
class Gated:
    """A latent is active where its gate and its magnitude are both positive."""

    centred: bool = True
    """Whether b_dec is subtracted from the input."""

    def encode(self, weights: Weights, x: Tensor) -> SparseCode:
        """The code of rows `x` [n, d_in]: every active latent."""
        return penalty_family.encode(self, weights, x)

    def loss(self, weights: Weights, batch: Batch) -> Outcome:
        """The loss and its gradient."""
        return penalty_family.penalised_loss(self, weights, batch)

    def shift(self, weights: Weights) -> Tensor:
        """[latents]: b_gate; where the gate is shut, nothing else matters."""
        return weights.encoder_bias

    def parameters(self, weights: Weights) -> tuple[Tensor, ...]:
        """(exp(r_mag), b_gate, b_mag) [latents]."""
        if weights.magnitude is None or weights.magnitude_bias is None:
            raise ValueError("a gated SAE needs a magnitude and a magnitude_bias for each latent")
        return weights.magnitude.exp(), weights.encoder_bias, weights.magnitude_bias

    def forward(self, shifted: Tensor, *parameters: Tensor) -> Activations:
        """z, and relu(pi) both as penalty and as the code that reconstructs by itself."""
        factor, gate_bias, magnitude_bias = parameters
        z = (shifted - gate_bias).mul_(factor).add_(magnitude_bias).clamp_(min=0).mul_(exceeds(shifted, 0))
        open_gate = shifted.clamp_(min=0)
        return Activations(open_gate, z, open_gate, open_gate)

    def back(
        self, seen: Activations, by_z: Tensor, by_auxiliary: Tensor | None, by_penalty: Tensor, *parameters: Tensor
    ) -> Slopes:
        """d/d g through both paths, and d/d r_mag, d/d b_gate, d/d b_mag."""
        factor, gate_bias, _ = parameters
        by_gate = by_penalty if by_auxiliary is None else by_auxiliary.add_(by_penalty)
        by_gate = by_gate * exceeds(seen.shifted, 0)
        by_magnitude = by_z.mul_(seen.z)
        scaled = by_magnitude * factor
        others = {
            "encoder_bias": by_gate,
            "magnitude_bias": by_magnitude,
            "magnitude": (seen.shifted - gate_bias).mul_(scaled),
        }
        return Slopes(scaled.add_(by_gate), others)
