"""Computes the gradient of a squared reconstruction error through a sparse code, from its pairs alone.

Every architecture whose code is a list of pairs shares it: only the choice of pairs, and what lies between a
pre-activation and an activation, differ. With e = target - decoded, s_i the weight of row i, z the code:

    step = -2 s e                     d/d decoder = z^T step       d/d z = step decoder^T, at the pairs
    d/d encoder = (d/d pre)^T x_in    d/d bias = sum over rows of d/d pre
    d/d b_dec = sum over rows of step, less (d/d bias) encoder where b_dec is subtracted from the input

On a CPU these are `embedding_bag` and its derivative, on a GPU the fused products of `triton_sums`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ingest.sae import collectives
from ingest.sae.codes import SparseCode, by_latent, decode, latent_sums, transposed_product
from ingest.sae.products.precision import product_format
from ingest.sae.products.triton_use import use_kernels

SMALLEST_VARIANCE = 1e-12
"""A batch of equal rows has no variance to normalise by."""


def mean_variance(rows: Tensor) -> Tensor:
    """sum |row - mean|^2 / n over the rows [n, d] of all processes, at least SMALLEST_VARIANCE: a scalar."""
    n = collectives.count(rows)
    mean = collectives.total(rows.sum(0)) / n
    return collectives.total((rows - mean).square().sum()).div_(n).clamp_(min=SMALLEST_VARIANCE)


class Reconstruction:
    """A code decoded and compared with its target; `back` and `back_error` give the gradient at the pairs."""

    def __init__(self, code: SparseCode, decoder: Tensor, target: Tensor) -> None:
        """`decoder` [latents, d], `target` [n, d]: for a nested dictionary, what those before it left over."""
        self._code, self._decoder = code, decoder
        if use_kernels(decoder):
            from ingest.sae.products import triton_sums

            self._decoder = decoder.to(product_format(decoder))
            error, self._by_error = triton_sums.decode_and_compare(code, self._decoder, target)
        else:
            with torch.enable_grad():
                # autograd only for the product step decoder^T at the pairs: embedding_bag's backward gathers no copy.
                self._values = code.values.detach().requires_grad_()
                self._decoded = decode(code._replace(values=self._values), decoder)
            error = target - self._decoded.detach()
        self.error = error
        """[n, d]: target minus decoded."""

    def squares(self) -> Tensor:
        """The squared error of each row, [n]."""
        return self.error.square().sum(1)

    def back(self, step: Tensor) -> Tensor:
        """d/d value [pairs] of a loss whose gradient at the decoded rows is `step` [n, d]; also at pairs of value 0."""
        if use_kernels(self._decoder):
            from ingest.sae.products import triton_sums

            return triton_sums.products_at_pairs(self._code, self._decoder, step)
        (by_value,) = torch.autograd.grad(self._decoded, self._values, step)
        return by_value

    def back_error(self, share: Tensor) -> Tensor:
        """As `back`, for the step `share` [n, 1] times the error."""
        if use_kernels(self._decoder):
            # The kernel that decoded has these products already: they need every decoder row a second time.
            return self._by_error * share.flatten()[self._code.rows()]
        return self.back(self.error * share)


class WeightGradients(NamedTuple):
    """Of one code, summed over its rows."""

    encoder: Tensor
    """[latents, d_in]."""
    encoder_bias: Tensor
    """[latents]."""
    decoder: Tensor
    """[latents, d_out]."""


def weight_gradients(code: SparseCode, by_pre: Tensor, x_in: Tensor, step: Tensor, latents: int) -> WeightGradients:
    """The gradients above, from d/d pre-activation `by_pre` [pairs], `x_in` [n, d_in] and `step` [n, d_out]."""
    pairs = by_latent(code, latents)
    if use_kernels(x_in):
        from ingest.sae.products import triton_sums

        dtype = product_format(x_in)
        return WeightGradients(*triton_sums.latent_products(pairs, by_pre, x_in.to(dtype), code.values, step.to(dtype)))
    encoder = transposed_product(pairs, by_pre, x_in)
    decoder = transposed_product(pairs, code.values, step)
    return WeightGradients(encoder, latent_sums(code, by_pre, latents), decoder)
