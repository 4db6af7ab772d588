"""The loss of the TopK family, given which pairs were kept: reconstruction, nested dictionaries, AuxK.

With v the batch's mean variance and G nested dictionaries (one, unless it is a Matryoshka SAE), row i loses

    L_i = 1/G sum_g |x_i - x_hat_i^g|^2 / v

where x_hat^g uses the latents of dictionary g alone. The batch loses the (tilted) mean of L_i, and

    aux_coefficient * sum |e - e_hat|^2 / sum |e - mean(e)|^2,   e = x - x_hat held constant,

where e_hat = z_dead W_dec reconstructs the error from the k_aux largest activations of dead latents (Gao et al. 2024,
arXiv 2406.04093, section 2.3 and appendix A.2; Bussmann et al. 2025, arXiv 2503.17547, for the nested sum).
"""

import torch
from torch import Tensor

from ingest.sae import world
from ingest.sae.architecture import Batch, Outcome, Weights
from ingest.sae.codes import SparseCode, nested
from ingest.sae.gradient import Reconstruction, WeightGradients, mean_variance, weight_gradients
from ingest.sae.risk import tilted
from ingest.sae.topcode import top_code


def encoder_input(weights: Weights, x: Tensor, centred: bool) -> Tensor:
    """What the encoder multiplies: `x` [n, d_in], less the decoder bias if the SAE is centred."""
    return x - weights.decoder_bias if centred else x


def kept_loss(
    weights: Weights,
    batch: Batch,
    code: SparseCode,
    x_in: Tensor,
    *,
    centred: bool,
    k_aux: int,
    aux_coefficient: float,
    groups: tuple[int, ...] = (),
    smallest: Tensor | None = None,
) -> Outcome:
    """The loss above and its gradient; `code` holds relu(x_in @ encoder.T + bias) at the kept pairs."""
    latents = len(weights.encoder)
    target = batch.target - weights.decoder_bias
    if weights.skip is not None:
        target = target - batch.x @ weights.skip.T
    variance = mean_variance(batch.target)
    parts = nested(code, groups)
    reconstructions: list[Reconstruction] = []
    squares = torch.zeros(len(target), dtype=target.dtype, device=target.device)
    for part in parts:
        left = reconstructions[-1].error if reconstructions else target
        reconstructions.append(Reconstruction(part, weights.decoder, left))
        squares += reconstructions[-1].squares()
    row_losses = squares / (variance * len(parts))
    loss, by_row = tilted(row_losses, batch.tilt)
    share = (-2 / (variance * len(parts)) * by_row).unsqueeze(1)

    # A latent of dictionary g helps every dictionary from g on: its steps add up from the last one back.
    last = reconstructions[-1]
    step = last.error * share
    gradients = [_part_gradient(parts[-1], last.back_error(share), step, x_in, latents)]
    for part, reconstruction in zip(parts[-2::-1], reconstructions[-2::-1], strict=True):
        step = step + reconstruction.error * share
        gradients.append(_part_gradient(part, reconstruction.back(step), step, x_in, latents))
    encoder, bias, decoder = (torch.stack(t).sum(0) if len(t) > 1 else t[0] for t in zip(*gradients, strict=True))
    # The decoder bias moves every dictionary's reconstruction, and through the encoder's input the code.
    decoder_bias = step.sum(0) - (bias @ weights.encoder if centred else 0)
    skip = step.T @ batch.x if weights.skip is not None else None
    gradient = Weights(encoder, bias, decoder, decoder_bias, skip=skip)

    relative_error = world.total(last.squares().sum()) / (variance * world.count(target))
    revived = torch.nonzero(batch.dead).flatten()
    if k_aux and len(revived):
        loss = loss + _revive(weights, gradient, revived, x_in, last.error, k_aux, aux_coefficient, centred)
    return Outcome(loss, 1 - relative_error, code.fired(latents), gradient, row_losses, smallest)


def _part_gradient(code: SparseCode, by_value: Tensor, step: Tensor, x_in: Tensor, latents: int) -> WeightGradients:
    """The gradients of one dictionary's pairs, given d/d value [pairs] and d/d decoded `step` [n, d]."""
    return weight_gradients(code, by_value * (code.values > 0), x_in, step, latents)


def _revive(
    weights: Weights,
    gradient: Weights,
    revived: Tensor,
    x_in: Tensor,
    error: Tensor,
    k_aux: int,
    coefficient: float,
    centred: bool,
) -> Tensor:
    """The AuxK term; its gradient is added to `gradient` in place."""
    encoder, decoder = weights.encoder[revived], weights.decoder[revived]
    code = top_code(x_in, encoder, weights.encoder_bias[revived], min(k_aux, len(revived)))
    reconstruction = Reconstruction(code, decoder, error)
    scale = coefficient / (mean_variance(error) * world.count(error))
    share = (-2 * scale).expand(len(error), 1)
    by_value = reconstruction.back_error(share)
    found = _part_gradient(code, by_value, reconstruction.error * share, x_in, len(revived))
    gradient.encoder.index_add_(0, revived, found.encoder)
    gradient.encoder_bias.index_add_(0, revived, found.encoder_bias)
    gradient.decoder.index_add_(0, revived, found.decoder)
    if centred:
        # The error is held constant, so b_dec moves this term through the encoder's input alone.
        gradient.decoder_bias.sub_(found.encoder_bias @ encoder)
    return scale * world.total(reconstruction.squares().sum())
