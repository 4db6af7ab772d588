"""The weights that training begins with, and their change of units when rows are scaled."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from ingest.sae.architecture import Weights
from ingest.sae.config import SAEConfig

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
    """The same function with decoder rows of norm 1: relu(n u) = n relu(u), so each latent takes its row's norm."""
    norm = weights.decoder.norm(dim=1)
    safe = torch.where(norm > 0, norm, 1)
    if bool((safe == 1).all()):
        return weights
    threshold = weights.threshold
    if threshold is not None and threshold.ndim:
        threshold = threshold * safe
    return replace(
        weights,
        encoder=weights.encoder * safe.unsqueeze(1),
        encoder_bias=weights.encoder_bias * safe,
        decoder=weights.decoder / safe.unsqueeze(1),
        threshold=threshold,
        magnitude_bias=None if weights.magnitude_bias is None else weights.magnitude_bias * safe,
    )
