"""JumpReLU SAE (Rajamanoharan et al. 2024, arXiv 2407.14435): pre-activations count from a learned threshold on.

    p = (x - b_dec) W_enc + b_enc      z = p H(p - theta)      x_hat = z W_dec + b_dec

with theta >= 0 of each latent and H the step function, and as penalty of a row

    'step':  sum_j H(p_j - theta_j), the number of active latents (equation 9)
    'tanh':  sum_j tanh(4 z_j / max(theta_j, SMALLEST_THRESHOLD)), which also pulls weak activations down
             (Anthropic, January 2025 update, Dictionary learning optimization techniques, with its c = 4)

The step has no useful derivative by theta; it is given that of a ramp of width `bandwidth` (equations 11 and 12):

    d H(p - theta) / d theta := - K / bandwidth       d z / d theta := - theta K / bandwidth
    K = 1 where p > 0 and |p - theta| < bandwidth / 2, else 0

and d z / d p = H(p - theta), d H / d p = 0 as they are. The tanh is differentiated by z and by its denominator.
Pairs with p <= 0 are outside K: otherwise every silent latent would raise a threshold below half the bandwidth.
"""

from dataclasses import dataclass, replace

from torch import Tensor

from catalog.study.terms import Penalty
from ingest.sae.architecture import Batch, Outcome, Weights
from ingest.sae.codes import SparseCode
from ingest.sae.losses import penalty_family
from ingest.sae.losses.elementwise import Activations, Slopes, exceeds

STEEPNESS = 4.0
"""c of tanh(c z / theta)."""
SMALLEST_THRESHOLD = 1e-3
"""Where the tanh penalty stops growing steeper, in scaled activations; it would have no slope at a threshold of 0."""


@dataclass(frozen=True)
class JumpReLU:
    """Every pre-activation above its latent's threshold is an activation."""

    centred: bool = True
    """Whether b_dec is subtracted from the input."""
    penalty: Penalty = "step"
    """What a row pays for."""
    bandwidth: float = 0.05
    """Width of the kernel, in scaled activations: 0 at inference, where thresholds stand."""

    def encode(self, weights: Weights, x: Tensor) -> SparseCode:
        """The code of rows `x` [n, d_in]: every active latent."""
        # Pairs below the threshold matter to its gradient alone.
        return penalty_family.encode(replace(self, bandwidth=0.0), weights, x)

    def loss(self, weights: Weights, batch: Batch) -> Outcome:
        """The loss and its gradient."""
        return penalty_family.penalised_loss(self, weights, batch)

    def shift(self, weights: Weights) -> Tensor:
        """[latents]: the encoder bias, less where the kernel begins."""
        return weights.encoder_bias - self._floor(_threshold(weights))

    def parameters(self, weights: Weights) -> tuple[Tensor, ...]:
        """(where the kernel begins, the threshold) [latents]."""
        threshold = _threshold(weights)
        return self._floor(threshold), threshold

    def _floor(self, threshold: Tensor) -> Tensor:
        return (threshold - self.bandwidth / 2).clamp_(min=0)

    def forward(self, shifted: Tensor, *parameters: Tensor) -> Activations:
        """z = p where above the threshold, and its penalty."""
        floor, threshold = parameters
        active = exceeds(shifted, threshold - floor)
        z = (shifted + floor).mul_(active)
        return Activations(shifted, z, active if self.penalty == "step" else (z * _slope(threshold)).tanh_())

    def back(
        self, seen: Activations, by_z: Tensor, by_auxiliary: Tensor | None, by_penalty: Tensor, *parameters: Tensor
    ) -> Slopes:
        """d/d p at active pairs, d/d threshold near it."""
        floor, threshold = parameters
        # Of those that are positive when shifted, K leaves out what lies above it.
        near = exceeds(seen.shifted, 0).sub_(exceeds(seen.shifted, threshold - floor + self.bandwidth / 2))
        if self.penalty == "step":
            by_threshold = (by_z * threshold).add_(by_penalty).mul_(near).div_(-self.bandwidth)
            return Slopes(by_z.mul_(seen.z), {"threshold": by_threshold})
        flat = (1 - seen.penalty.square()).mul_(by_penalty)
        slope = _slope(threshold)
        by_z.add_(flat * slope)
        by_threshold = (by_z * threshold).mul_(near).div_(-self.bandwidth)
        # Through the denominator: d tanh(c z / theta) / d theta = -(1 - tanh^2) c z / theta^2.
        shrinking = slope.square().div_(-STEEPNESS).mul_(threshold > SMALLEST_THRESHOLD)
        by_threshold.add_(flat.mul_(seen.shifted + floor).mul_(seen.z).mul_(shrinking))
        return Slopes(by_z.mul_(seen.z), {"threshold": by_threshold})


def _slope(threshold: Tensor) -> Tensor:
    """What activations are multiplied by within the tanh."""
    return STEEPNESS / threshold.clamp(min=SMALLEST_THRESHOLD)


def _threshold(weights: Weights) -> Tensor:
    if weights.threshold is None:
        raise ValueError("a JumpReLU SAE needs a threshold for each latent")
    return weights.threshold.clamp(min=0)
