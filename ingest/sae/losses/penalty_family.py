"""Computes code and loss of SAEs with a sparsity penalty, from their elementwise definition.

The batch loses the (tilted) mean of the rows' losses, which `elementwise` defines. Two paths lead to the same gradient:
`by_blocks` computes with whole blocks of pre-activations, `by_pairs` with the pairs that matter.
"""

import torch
from torch import Tensor

from ingest.sae import collectives
from ingest.sae.architecture import Batch, Outcome, Weights
from ingest.sae.codes import SparseCode, ragged
from ingest.sae.losses.by_blocks import by_blocks
from ingest.sae.losses.by_pairs import by_pairs
from ingest.sae.losses.elementwise import Elementwise, Task, at_pairs
from ingest.sae.losses.gradient import mean_variance
from ingest.sae.losses.topk_family import decoder_target, encoder_input
from ingest.sae.products.top_codes import code_above, sampled_pre_activations

SPARSE_BELOW = 0.05
"""Share of pairs that matter below which the pairwise path is the faster one. ReLU, d 256, 8,192 latents, one core, in
encoder products: 1.9 by pairs and 5.3 by blocks at a share of 1%, 4.9 and 5.4 at 5%, 6.7 and 5.5 at 8%."""
SAMPLE_ROWS = 64
"""Rows of a batch from which that share is estimated: 1.5% of a batch of 4,096, to within a few percent of it."""


def encode(rule: Elementwise, weights: Weights, x: Tensor) -> SparseCode:
    """The code of rows `x` [n, d_in]: every active latent, values above 0."""
    x_in = encoder_input(weights, x, rule.centred)
    code = code_above(x_in, weights.encoder, rule.shift(weights), 0.0)
    z = rule.forward(code.values, *at_pairs(rule.parameters(weights), code)).z
    active = z > 0
    if bool(active.all()):
        return code._replace(values=z)
    counts = torch.bincount(code.rows()[active], minlength=len(x))
    return ragged(z[active], code.indices[active], counts)


def density(rule: Elementwise, weights: Weights, x_in: Tensor) -> float:
    """The share of (row, latent) pairs that matter, from rows spread over the batch."""
    shifted = sampled_pre_activations(x_in, weights.encoder, rule.shift(weights), SAMPLE_ROWS)
    return int((shifted > 0).count_nonzero()) / max(shifted.numel(), 1)


@torch.no_grad()
def penalised_loss(rule: Elementwise, weights: Weights, batch: Batch) -> Outcome:
    """The loss above and its gradient, by the path that is faster at this batch's density."""
    x_in = encoder_input(weights, batch.x, rule.centred)
    target = decoder_target(weights, batch.x, batch.target)
    path = by_pairs if density(rule, weights, x_in) < SPARSE_BELOW else by_blocks
    found = path(rule, weights, Task(x_in, target, batch.sparsity, batch.tilt))
    step = found.error * (-2 * found.by_row).unsqueeze(1)
    gradient = Weights(
        found.encoder,
        found.others.pop("encoder_bias", found.by_pre),
        found.decoder,
        # The decoder bias moves the reconstruction, and through the encoder's input the code.
        step.sum(0) - (found.by_pre @ weights.encoder if rule.centred else 0),
        skip=step.T @ batch.x if weights.skip is not None else None,
        **found.others,
    )
    variance = mean_variance(batch.target) * collectives.count(target)
    relative_error = collectives.total(found.error.square().sum()) / variance
    return Outcome(found.loss, 1 - relative_error, found.fired, gradient, found.row_losses)
