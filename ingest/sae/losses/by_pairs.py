"""Computes the loss of an elementwise architecture and its gradient from active pairs: only the encoder is dense."""

from ingest.sae.architecture import Weights
from ingest.sae.codes import latent_sums, row_sums
from ingest.sae.losses.elementwise import Elementwise, Found, Task, at_pairs
from ingest.sae.losses.gradient import Reconstruction, weight_gradients
from ingest.sae.losses.tilted import tilted
from ingest.sae.products.top_codes import code_above


def by_pairs(rule: Elementwise, weights: Weights, task: Task) -> Found:
    """The loss, and the gradients that depend on the code."""
    latents = len(weights.encoder)
    code = code_above(task.x_in, weights.encoder, rule.shift(weights), 0.0)
    parameters = at_pairs(rule.parameters(weights), code)
    seen = rule.forward(code.values, *parameters)
    code = code._replace(values=seen.z)
    reconstruction = Reconstruction(code, weights.decoder, task.target)
    row_losses = reconstruction.squares() + task.sparsity * row_sums(code, seen.penalty)
    auxiliary = None
    if seen.auxiliary is not None:
        auxiliary = Reconstruction(code._replace(values=seen.auxiliary), weights.decoder, task.target)
        row_losses += auxiliary.squares()

    loss, by_row = tilted(row_losses, task.tilt)
    share = (-2 * by_row).unsqueeze(1)
    by_auxiliary = None if auxiliary is None else auxiliary.back_error(share)
    by_penalty = (task.sparsity * by_row)[code.rows()]
    by_z = reconstruction.back_error(share)
    slopes = rule.back(seen._replace(z=seen.z.sign()), by_z, by_auxiliary, by_penalty, *parameters)
    by_encoder, by_pre, by_decoder = weight_gradients(
        code, slopes.pre, task.x_in, reconstruction.error * share, latents
    )
    others = {name: latent_sums(code, slope, latents) for name, slope in slopes.others.items()}
    fired = code.fired(latents)
    return Found(loss, row_losses, by_row, reconstruction.error, fired, by_encoder, by_decoder, by_pre, others)
