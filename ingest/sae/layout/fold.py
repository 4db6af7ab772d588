"""Changes an SAE's weights and not its output, or moves into them a factor or a centring that stood outside."""

from dataclasses import replace

import torch

from ingest.sae.architecture import Weights


def fold_factor(weights: Weights, factor: float) -> Weights:
    """The weights for rows x, given those for factor * x; activations stay in the units of training.

    From (f x - b_dec) W_enc = (x - b_dec / f) (f W_enc) the encoder is multiplied, and what adds up to the
    reconstruction is divided.
    """
    return replace(
        weights,
        encoder=weights.encoder * factor,
        decoder=weights.decoder / factor,
        decoder_bias=weights.decoder_bias / factor,
    )


def fold_decoder_norms(weights: Weights) -> Weights:
    """Decoder rows of norm 1, given activations that are multiplied by the rows' norms before and after selection.

    A latent whose row is 0 has activation 0, so its encoder becomes 0 too.
    """
    norms = weights.decoder.norm(dim=1)
    return replace(
        weights,
        encoder=weights.encoder * norms.unsqueeze(1),
        encoder_bias=weights.encoder_bias * norms,
        decoder=weights.decoder / torch.where(norms > 0, norms, 1).unsqueeze(1),
    )


def fold_mean(weights: Weights, centred: bool) -> Weights:
    """The weights for rows x, given those for x less its mean over the columns; `centred` SAEs subtract b_dec.

    From w (x - mean(x) - b_dec) = (w - mean(w)) (x - b_dec) - mean(w) sum(b_dec). The code is that of the subtracted
    rows; the reconstruction is theirs too, without the mean, which a model with LayerNorm subtracts by itself.
    """
    means = weights.encoder.mean(dim=1)
    shift = -means * weights.decoder_bias.sum() if centred else torch.zeros_like(means)
    magnitude_bias = weights.magnitude_bias
    if magnitude_bias is not None and weights.magnitude is not None:
        magnitude_bias = magnitude_bias + weights.magnitude.exp() * shift
    return replace(
        weights,
        encoder=weights.encoder - means.unsqueeze(1),
        encoder_bias=weights.encoder_bias + shift,
        magnitude_bias=magnitude_bias,
        skip=None if weights.skip is None else weights.skip - weights.skip.mean(dim=1, keepdim=True),
    )


def with_centring(weights: Weights, now: bool, wanted: bool) -> Weights:
    """The same function of an SAE that subtracts b_dec from its input (`now`) and one that does or not (`wanted`).

    From (x - b_dec) W + b = x W + (b - b_dec W); a gate's magnitude has exp(r_mag) W instead.
    """
    if now == wanted:
        return weights
    shift = weights.encoder @ weights.decoder_bias
    shift = -shift if now else shift
    magnitude_bias = weights.magnitude_bias
    if magnitude_bias is not None and weights.magnitude is not None:
        magnitude_bias = magnitude_bias + weights.magnitude.exp() * shift
    return replace(weights, encoder_bias=weights.encoder_bias + shift, magnitude_bias=magnitude_bias)
