"""Computes the loss of the TopK family from the pairs that were kept: reconstruction, nested dictionaries, AuxK.

With v the batch's mean variance and G nested dictionaries (one, unless it is a Matryoshka SAE), row i loses

    L_i = 1/G sum_g |x_i - x_hat_i^g|^2 / v

where x_hat^g uses the latents of dictionary g alone. The batch loses the (tilted) mean of L_i and the term of `auxk`
(Gao et al. 2024, arXiv 2406.04093, section 2.3; Bussmann et al. 2025, arXiv 2503.17547, for the nested sum).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ingest.sae import collectives
from ingest.sae.architecture import Batch, Outcome, Weights
from ingest.sae.codes import SparseCode, nested
from ingest.sae.losses.auxk import AuxK, revive
from ingest.sae.losses.gradient import Reconstruction, WeightGradients, mean_variance, weight_gradients
from ingest.sae.losses.tilted import tilted


def encoder_input(weights: Weights, x: Tensor, centred: bool) -> Tensor:
    """What the encoder multiplies: `x` [n, d_in], less the decoder bias if the SAE is centred."""
    return x - weights.decoder_bias if centred else x


def decoder_target(weights: Weights, x: Tensor, target: Tensor) -> Tensor:
    """What the decoded code should be: `target` [n, d_out] less b_dec and, where there is one, the skip path of `x`."""
    target = target - weights.decoder_bias
    return target if weights.skip is None else target - x @ weights.skip.T


class Kept(NamedTuple):
    """What a TopK rule kept of a batch."""

    code: SparseCode
    """relu(x_in @ encoder.T + bias) at the kept pairs."""
    x_in: Tensor
    """What the encoder multiplied, [n, d_in]."""
    smallest: Tensor | None = None
    """The smallest activation kept, where one boundary holds for the whole batch."""


def kept_loss(
    weights: Weights,
    batch: Batch,
    kept: Kept,
    *,
    centred: bool,
    aux: AuxK,
    groups: tuple[int, ...] = (),
) -> Outcome:
    """The loss above and its gradient."""
    code, x_in = kept.code, kept.x_in
    latents = len(weights.encoder)
    target = decoder_target(weights, batch.x, batch.target)
    variance = mean_variance(batch.target)
    parts = _decoded(weights, code, groups, target)
    squares = torch.stack([part.left.squares() for part in parts]).sum(0)
    row_losses = squares / (variance * len(parts))
    loss, by_row = tilted(row_losses, batch.tilt)
    share = (-2 / (variance * len(parts)) * by_row).unsqueeze(1)

    # A latent of dictionary g helps every dictionary from g on: its steps add up from the last one back.
    last = parts[-1].left
    step = last.error * share
    gradients = [_gradient(parts[-1], last.back_error(share), step, x_in)]
    for part in parts[-2::-1]:
        step = step + part.left.error * share
        gradients.append(_gradient(part, part.left.back(step), step, x_in))
    encoder, bias, decoder = (torch.cat(t[::-1]) if len(t) > 1 else t[0] for t in zip(*gradients, strict=True))
    # The decoder bias moves every dictionary's reconstruction, and through the encoder's input the code.
    decoder_bias = step.sum(0) - (bias @ weights.encoder if centred else 0)
    skip = step.T @ batch.x if weights.skip is not None else None
    gradient = Weights(encoder, bias, decoder, decoder_bias, skip=skip)

    relative_error = collectives.total(last.squares().sum()) / (variance * collectives.count(target))
    revived = torch.nonzero(batch.dead).flatten()
    if aux.k and len(revived):
        loss = loss + revive(weights, gradient, revived, x_in, last.error, aux, centred)
    return Outcome(loss, 1 - relative_error, code.fired(latents), gradient, row_losses, kept.smallest)


class _Part(NamedTuple):
    """What one dictionary adds to those nested in it."""

    code: SparseCode
    """Its latents are numbered from 0."""
    latents: int
    left: Reconstruction
    """Of what the dictionaries before it left over."""


def _decoded(weights: Weights, code: SparseCode, groups: tuple[int, ...], target: Tensor) -> list[_Part]:
    """The nested dictionaries' parts of a code, one by one decoded; all of it, if there is but one dictionary."""
    if len(groups) <= 1:
        return [_Part(code, len(weights.decoder), Reconstruction(code, weights.decoder, target))]
    parts: list[_Part] = []
    for low, high, part in zip((0, *groups), groups, nested(code, groups), strict=False):
        own = part._replace(indices=part.indices - low)
        left = parts[-1].left.error if parts else target
        parts.append(_Part(own, high - low, Reconstruction(own, weights.decoder[low:high], left)))
    return parts


def _gradient(part: _Part, by_value: Tensor, step: Tensor, x_in: Tensor) -> WeightGradients:
    """The gradients of a part's pairs, given d/d value [pairs] and d/d decoded `step` [n, d]; of its latents alone."""
    return weight_gradients(part.code, by_value * (part.code.values > 0), x_in, step, part.latents)
