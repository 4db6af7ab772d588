"""BatchTopK SAE (Bussmann et al. 2024, arXiv 2412.06410): the n k largest pre-activations of a batch of n rows.

In training a row may use more latents than another; `losses/topk_family` computes the loss. At inference rows must not
depend on each other: a pre-activation counts above a threshold, the running mean of the smallest activation that
batches kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ingest.sae import collectives
from ingest.sae.architecture import Batch, Outcome, Weights
from ingest.sae.codes import SparseCode, ragged
from ingest.sae.losses.auxk import AuxK
from ingest.sae.losses.topk_family import Kept, encoder_input, kept_loss
from ingest.sae.products.top_codes import code_above, sampled_pre_activations

SAMPLE_ROWS = 128
MARGIN = 1.4
"""How many more pairs than asked are collected, so that those asked are among them."""
HALVINGS = 8
"""How often the boundary of the sample is halved before all positive pre-activations are collected."""


@dataclass(frozen=True)
class BatchTopK:
    """Keep the n k largest positive pre-activations of n rows; with `groups`, of nested dictionaries (Matryoshka)."""

    k: int
    """Active latents per row on average."""
    centred: bool = True
    """Whether b_dec is subtracted from the input."""
    k_aux: int = 0
    """Dead latents per row that reconstruct the error in training."""
    aux_coefficient: float = 1 / 32
    """Weight of the AuxK term."""
    groups: tuple[int, ...] = ()
    """Latents of each nested dictionary, ascending up to the width; none for one dictionary."""

    def encode(self, weights: Weights, x: Tensor) -> SparseCode:
        """The code of rows `x` [n, d_in]: every pre-activation above the threshold, and above 0."""
        floor = 0.0 if weights.threshold is None else max(float(weights.threshold), 0.0)
        return code_above(encoder_input(weights, x, self.centred), weights.encoder, weights.encoder_bias, floor)

    @torch.no_grad()
    def loss(self, weights: Weights, batch: Batch) -> Outcome:
        """The loss and its gradient; `smallest` is the smallest activation kept."""
        x_in = encoder_input(weights, batch.x, self.centred)
        code, smallest = batch_code(x_in, weights.encoder, weights.encoder_bias, self.k)
        kept, aux = Kept(code, x_in, smallest), AuxK(self.k_aux, self.aux_coefficient)
        return kept_loss(weights, batch, kept, centred=self.centred, aux=aux, groups=self.groups)


def batch_code(x_in: Tensor, encoder: Tensor, bias: Tensor, k: int) -> tuple[SparseCode, Tensor]:
    """(the k * n largest positive of x_in @ encoder.T + bias over all n rows of all processes, the smallest of them).

    A few rows tell roughly where the boundary lies; what exceeds that is collected, and the exact boundary sought
    among it. Rows of huge norm among those few may have put it too high: then it is lowered step by step, since above
    0 there may lie half of all pre-activations. Equal values at the boundary are all kept.
    """
    wanted = int(collectives.count(x_in)) * k
    for floor in _floors(_rough_boundary(x_in, encoder, bias, k)):
        code = code_above(x_in, encoder, bias, floor)
        candidates = collectives.joined(code.values)
        if len(candidates) >= wanted:
            break
    if not len(candidates):
        return code, torch.zeros((), dtype=x_in.dtype, device=x_in.device)
    if len(candidates) <= wanted:
        return code, candidates.min()
    boundary = candidates.kthvalue(len(candidates) - wanted + 1).values
    kept = code.values >= boundary
    counts = torch.bincount(code.rows()[kept], minlength=len(x_in))
    return ragged(code.values[kept], code.indices[kept], counts), boundary


def _floors(first: float) -> Iterator[float]:
    """Ever lower boundaries to collect from, the last of them 0."""
    if first > 0:
        yield from (first / 2**i for i in range(HALVINGS))
    yield 0.0


def _rough_boundary(x_in: Tensor, encoder: Tensor, bias: Tensor, k: int) -> float:
    """A value that somewhat more than k pre-activations per row exceed, from rows spread over the batch."""
    pre = sampled_pre_activations(x_in, encoder, bias, SAMPLE_ROWS)
    wanted = min(int(MARGIN * k * len(pre)), pre.numel())
    boundary = pre.flatten().topk(wanted, sorted=False).values.min()
    # Processes must agree whether they collected enough, so they collect from one boundary.
    return max(float(-collectives.largest(-boundary)), 0.0)
