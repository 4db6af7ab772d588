"""Makes the weights that training begins with, and changes their units when rows are scaled."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from catalog.errors import InputError
from ingest.sae.architecture import Weights
from ingest.sae.config import SAEConfig

NORM_ROUNDING = 2e-3
"""By what share norms may differ: rows of norm 1 and width 256, kept as bfloat16, have 0.9992 to 1.0007."""
FIRST_THRESHOLD = 0.001
"""JumpReLU's, in scaled activations (Rajamanoharan et al. 2024, arXiv 2407.14435)."""


def row_scale(sample: Tensor) -> float:
    """The factor that gives the rows [n, d] a mean norm of sqrt(d)."""
    return math.sqrt(sample.shape[1]) / max(float(sample.norm(dim=1).mean()), 1e-12)


def initial_weights(config: SAEConfig, seed: int, sample: Tensor, target: Tensor) -> Weights:
    """Random unit decoder rows, the encoder their copy, no encoder bias, the decoder bias the mean of the target.

    `sample` [rows, d_in] and `target` [rows, d_out] are scaled as the rows will be. A copy of the decoder as encoder
    leaves few latents dead (Gao et al. 2024, section 2.4); a transcoder's encoder is drawn by itself.
    """
    seeded = torch.Generator().manual_seed(seed)

    def unit_rows(d: int) -> Tensor:
        rows = torch.randn(config.width, d, generator=seeded)
        return rows.div_(rows.norm(dim=1, keepdim=True))

    decoder = unit_rows(config.out)
    encoder = decoder.clone() if config.target_hookpoint is None else unit_rows(config.d_in)
    latents = config.width
    weights = Weights(encoder, torch.zeros(latents), decoder, target.mean(0))
    match config.architecture:
        case "jumprelu":
            return replace(weights, threshold=torch.full((latents,), FIRST_THRESHOLD))
        case "batchtopk" | "matryoshka":
            return replace(weights, threshold=torch.tensor(-1.0))
        case "gated":
            return replace(weights, magnitude=torch.zeros(latents), magnitude_bias=torch.zeros(latents))
    return weights


def unscaled(weights: Weights, scale: float, target_scale: float | None = None) -> Weights:
    """The weights for rows x, given those for scale * x, with the decoder rows as they are.

    With t the scale of the target (s itself unless it is a transcoder), from y_hat = (z W_dec + b_dec) / t follow
    z' = z / t and b_dec' = b_dec / t; since every activation function here commutes with a positive factor once its
    threshold is divided too, z' = f(x (s / t) W_enc + b_enc / t).
    """
    t = scale if target_scale is None else target_scale

    def divided(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor / t

    return Weights(
        encoder=weights.encoder * (scale / t),
        encoder_bias=weights.encoder_bias / t,
        decoder=weights.decoder,
        decoder_bias=weights.decoder_bias / t,
        threshold=divided(weights.threshold),
        magnitude=weights.magnitude,
        magnitude_bias=divided(weights.magnitude_bias),
        skip=None if weights.skip is None else weights.skip * (scale / t),
    )


def scaled(weights: Weights, scale: float, target_scale: float | None = None) -> Weights:
    """The inverse of `unscaled`, with decoder rows brought to unit norm: their norms move into the activations."""
    t = scale if target_scale is None else target_scale
    found = unscaled(weights, 1 / scale, 1 / t)
    return unit_decoder(found)


def unit_decoder(weights: Weights) -> Weights:
    """Decoder rows of norm 1, each activation multiplied by its row's norm: n relu(p) = relu(n p).

    The same function wherever an activation follows from its own pre-activation. Where the k largest are kept, or
    those above one threshold, it is the same only if all rows have one norm: see `check_one_norm`.
    """
    norm = weights.decoder.norm(dim=1)
    # A row of 0 adds nothing, but its latent may take another's place among the k.
    safe = torch.where(norm > 0, norm, norm.max() if norm.any() else 1)
    if bool((safe == 1).all()):
        return weights
    threshold = weights.threshold
    if threshold is not None:
        threshold = threshold * (safe if threshold.ndim else safe.mean())
    return replace(
        weights,
        encoder=weights.encoder * safe.unsqueeze(1),
        encoder_bias=weights.encoder_bias * safe,
        decoder=weights.decoder / safe.unsqueeze(1),
        threshold=threshold,
        magnitude_bias=None if weights.magnitude_bias is None else weights.magnitude_bias * safe,
    )


def check_one_norm(weights: Weights, architecture: str) -> None:
    """Raises InputError if decoder rows differ in norm, for an SAE that is to go on as `architecture`, which keeps k.

    Training keeps rows at norm 1, and no encoder gives both the pre-activations by which latents were chosen and
    activations that are larger by as many factors as there are norms. Rows of 0 do not count.
    """
    norms = weights.decoder.norm(dim=1)
    norms = norms[norms > 0]
    if len(norms) and float(norms.max()) > float(norms.min()) * (1 + NORM_ROUNDING):
        raise InputError(
            f"the parent's decoder rows (W_dec) have norms from {float(norms.min()):.4g} to {float(norms.max()):.4g}, "
            f"and {architecture!r} cannot begin with them: it trains rows of norm 1, and once the norms are moved into "
            "the activations, other latents are the largest, so that it would not begin as its parent does. Name a "
            "parent whose rows have one norm, leave `parent` out, or set an architecture without k (relu, jumprelu, "
            "gated)"
        )
