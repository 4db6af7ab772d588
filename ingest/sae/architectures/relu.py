"""ReLU SAE with an L1 penalty (Specialized SAEs, equation 1; Bricken et al. 2023, Towards Monosemanticity).

    z = relu((x - b_dec) W_enc + b_enc)      x_hat = z W_dec + b_dec      L = |x - x_hat|^2 + sparsity * |z|_1

Decoder rows have unit norm, which the optimiser sees to: the penalty could otherwise be evaded by growing them.
"""

from dataclasses import dataclass

from torch import Tensor

from ingest.sae.architecture import Batch, Outcome, Weights
from ingest.sae.codes import SparseCode
from ingest.sae.losses import penalty_family
from ingest.sae.losses.elementwise import Activations, Slopes


@dataclass(frozen=True)
class ReLU:
    """Every positive pre-activation is an activation."""

    centred: bool = True
    """Whether b_dec is subtracted from the input."""

    def encode(self, weights: Weights, x: Tensor) -> SparseCode:
        """The code of rows `x` [n, d_in]: every active latent."""
        return penalty_family.encode(self, weights, x)

    def loss(self, weights: Weights, batch: Batch) -> Outcome:
        """The loss and its gradient."""
        return penalty_family.penalised_loss(self, weights, batch)

    def shift(self, weights: Weights) -> Tensor:
        """[latents]: the encoder bias."""
        return weights.encoder_bias

    def parameters(self, weights: Weights) -> tuple[Tensor, ...]:
        """None."""
        return ()

    def forward(self, shifted: Tensor, *parameters: Tensor) -> Activations:
        """z = relu(p), in place, which is also the penalty."""
        z = shifted.clamp_(min=0)
        return Activations(z, z, z)

    def back(
        self, seen: Activations, by_z: Tensor, by_auxiliary: Tensor | None, by_penalty: Tensor, *parameters: Tensor
    ) -> Slopes:
        """d/d p = d/d z + d/d penalty, at active pairs."""
        return Slopes(by_z.add_(by_penalty).mul_(seen.z), {})
