"""Dead latents of a ReLU SAE begin anew where the reconstruction fails (Bricken et al. 2023, appendix on resampling).

A dead latent takes a row of the batch, drawn with probability proportional to the square of that row's loss: its
decoder row becomes the row's direction, its encoder row the same at a fifth of the mean norm of the living encoders,
its bias 0, and the optimiser forgets it.
"""

import torch
from torch import Tensor

from ingest.sae import world
from ingest.sae.architecture import Weights
from ingest.sae.optimiser import UnitDecoderAdam

ENCODER_SHARE = 0.2


@torch.no_grad()
def resample(
    weights: Weights, optimiser: UnitDecoderAdam, dead: Tensor, x_in: Tensor, row_losses: Tensor, seed: int
) -> int:
    """Give the latents of `dead` [latents] bool new weights in place; how many there were.

    `x_in` [n, d] is what the encoder read, `row_losses` [n] the loss of each row. Where rows are fewer than dead
    latents, a row serves several.
    """
    latents = torch.nonzero(dead).flatten()
    if not len(latents):
        return 0
    odds = world.joined(row_losses.square().clamp(min=1e-12)).cpu()
    rows = world.joined(x_in.flatten()).view(-1, x_in.shape[1])
    drawn = torch.multinomial(
        odds, len(latents), replacement=len(latents) > len(odds), generator=torch.Generator().manual_seed(seed)
    )
    directions = rows[drawn.to(rows.device)]
    directions = directions / directions.norm(dim=1, keepdim=True).clamp(min=1e-12)
    alive = ~dead
    norm = weights.encoder[alive].norm(dim=1).mean() if bool(alive.any()) else torch.ones((), device=rows.device)
    weights.decoder[latents] = directions
    weights.encoder[latents] = directions * (ENCODER_SHARE * norm)
    weights.encoder_bias[latents] = 0
    optimiser.forget(latents)
    return len(latents)
