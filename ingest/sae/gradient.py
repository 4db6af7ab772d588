"""The gradient of a squared reconstruction error through a sparse code, from its pairs alone.

Every architecture whose code is a list of pairs shares it: only the choice of pairs, and what lies between a
pre-activation and an activation, differ. With r = decoded - target, s_i the weight of row i, z the code:

    step = 2 s r                      d/d decoder = z^T step       d/d z = step decoder^T, at the pairs
    d/d encoder = (d/d pre)^T x_in    d/d bias = sum over rows of d/d pre
    d/d b_dec = sum over rows of step, less (d/d bias) encoder where b_dec is subtracted from the input
"""

import torch
from torch import Tensor

from ingest.sae import world
from ingest.sae.codes import ByLatent, SparseCode, decode, latent_sums, transposed_product

SMALLEST_VARIANCE = 1e-12
"""A batch of equal rows has no variance to normalise by."""


def mean_variance(rows: Tensor) -> Tensor:
    """sum |row - mean|^2 / n over the rows [n, d] of all processes, at least SMALLEST_VARIANCE: a scalar."""
    n = world.total(torch.tensor(float(len(rows)), dtype=rows.dtype, device=rows.device))
    mean = world.total(rows.sum(0)) / n
    return world.total((rows - mean).square().sum()).div_(n).clamp_(min=SMALLEST_VARIANCE)


class Reconstruction:
    """A code decoded and compared with its target; `back` gives the gradient at the pairs."""

    def __init__(self, code: SparseCode, decoder: Tensor, target: Tensor, onto: Tensor | None = None) -> None:
        """`decoder` [latents, d], `target` [n, d]; `onto` [n, d] is what the decoded code is added to, if anything."""
        with torch.enable_grad():
            # autograd only for the product step decoder^T at the pairs: embedding_bag's backward gathers no copy.
            self._values = code.values.detach().requires_grad_()
            self._decoded = decode(code._replace(values=self._values), decoder)
        self.decoded = self._decoded.detach() if onto is None else onto + self._decoded.detach()
        self.residual = self.decoded - target
        """[n, d]: decoded minus target."""

    def squares(self) -> Tensor:
        """The squared error of each row, [n]."""
        return self.residual.square().sum(1)

    def back(self, step: Tensor) -> Tensor:
        """d/d value [pairs] of a loss whose gradient at `decoded` is `step` [n, d]; also at pairs of value 0."""
        (by_value,) = torch.autograd.grad(self._decoded, self._values, step)
        return by_value


def encoder_gradient(
    code: SparseCode, pairs: ByLatent, by_pre: Tensor, x_in: Tensor, latents: int
) -> tuple[Tensor, Tensor]:
    """(d/d encoder [latents, d], d/d bias [latents]) from d/d pre-activation [pairs] at the code's pairs."""
    return transposed_product(pairs, by_pre, x_in), latent_sums(code, by_pre, latents)
