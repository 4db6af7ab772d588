"""Gives dead latents of a ReLU SAE a new beginning where the reconstruction fails (Bricken et al. 2023, appendix).

A dead latent takes a row of the batch, drawn with probability proportional to the square of that row's loss: its
encoder row becomes the direction of what the encoder reads there, at a fifth of the mean norm of the living encoders,
its decoder row the direction of what is to be decoded (for an SAE the same, for a transcoder another module's output),
its bias 0, and the optimiser forgets it.
"""

import torch
from torch import Tensor

from ingest.sae import collectives
from ingest.sae.architecture import Weights
from ingest.sae.training.adam import UnitDecoderAdam

ENCODER_SHARE = 0.2


@torch.no_grad()
def resample(
    weights: Weights,
    optimiser: UnitDecoderAdam,
    dead: Tensor,
    x_in: Tensor,
    target: Tensor,
    row_losses: Tensor,
    seed: int,
) -> int:
    """Give the latents of `dead` [latents] bool new weights in place; how many there were.

    `x_in` [n, d_in] is what the encoder read, `target` [n, d_out] what its code should have been decoded to (see
    `decoder_target`), `row_losses` [n] the loss of each row. Where rows are fewer than dead latents, a row serves
    several.
    """
    latents = torch.nonzero(dead).flatten()
    if not len(latents):
        return 0
    odds = collectives.joined(row_losses.square().clamp(min=1e-12)).cpu()
    drawn = torch.multinomial(
        odds, len(latents), replacement=len(latents) > len(odds), generator=torch.Generator().manual_seed(seed)
    )
    alive = ~dead
    norm = weights.encoder[alive].norm(dim=1).mean() if bool(alive.any()) else torch.ones((), device=x_in.device)
    weights.decoder[latents] = _directions(target, drawn)
    weights.encoder[latents] = _directions(x_in, drawn) * (ENCODER_SHARE * norm)
    weights.encoder_bias[latents] = 0
    optimiser.forget(latents)
    return len(latents)


def _directions(rows: Tensor, drawn: Tensor) -> Tensor:
    """Of the rows [n, d] of all processes, those `drawn`, at norm 1."""
    joined = collectives.joined(rows.flatten()).view(-1, rows.shape[1])
    return torch.nn.functional.normalize(joined[drawn.to(rows.device)], dim=1)
