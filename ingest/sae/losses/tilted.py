"""Joins the losses of a batch's rows to one loss: their mean, or their tilted mean (TERM).

Tilted empirical risk (Li et al. 2020, arXiv 2007.01162, equation 2; Specialized SAEs, section 2.4):

    L(t) = 1/t log( 1/N sum_i exp(t L_i) )        d L(t) / d L_i = softmax(t L)_i

It is the mean as t -> 0, the largest loss as t -> inf, the smallest as t -> -inf.
"""

import torch
from torch import Tensor

from ingest.sae import collectives


def tilted(losses: Tensor, tilt: float) -> tuple[Tensor, Tensor]:
    """(the tilted mean of `losses` [n], its derivative by each of them [n], which sums to 1 over all processes).

    Computed in float64 about the largest exponent, so that neither a tilt of 1e4 overflows nor one of 1e-9 loses
    the digits of the mean: with m the largest of t L, it is (m + log1p(mean(expm1(t L - m)))) / t.
    """
    exact = losses.double()
    n = collectives.count(exact)
    if tilt == 0:
        mean = collectives.total(exact.sum()) / n
        return mean.to(losses.dtype), (1 / n).to(losses.dtype).expand(len(losses))
    extreme = collectives.largest(exact.max() if tilt > 0 else -exact.min())
    extreme = extreme if tilt > 0 else -extreme
    above = tilt * (exact - extreme)
    weights = above.exp()
    mean_above = collectives.total(torch.expm1(above).sum()) / n
    total = collectives.total(weights.sum())
    loss = extreme + torch.log1p(mean_above) / tilt
    return loss.to(losses.dtype), (weights / total).to(losses.dtype)
