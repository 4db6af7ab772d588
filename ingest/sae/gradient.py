"""The gradient of a squared reconstruction error through a sparse code, from the kept pairs alone.

Every architecture whose code is (values, indices) shares it: only the choice of pairs differs.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ingest.sae.architecture import Weights
from ingest.sae.codes import SparseCode, by_latent, decode, latent_sums, transposed_product

SMALLEST_VARIANCE = 1e-12
"""A batch of equal rows has no variance to normalise by."""


class Term(NamedTuple):
    """A squared-error term before scaling, its residual, and its gradient after scaling."""

    squared: Tensor
    """Scalar: sum of squares of the residual."""
    residual: Tensor
    """[n, d]: decoded minus target."""
    gradient: Weights
    """Of scale * squared; the target is held constant, and the decoder bias moves the encoder's input alone."""


def total_variance(x: Tensor) -> Tensor:
    """sum |x - mean(x)|^2 over the rows of `x` [n, d], at least SMALLEST_VARIANCE: a scalar."""
    return (x - x.mean(0)).square().sum().clamp_(min=SMALLEST_VARIANCE)


def squared_error_gradient(
    code: SparseCode, target: Tensor, centred: Tensor, encoder: Tensor, decoder: Tensor, scale: Tensor
) -> Term:
    """The term scale * sum |code @ decoder - target|^2 and its gradient.

    `code` holds relu(centred @ encoder.T + bias) at the kept pairs. `target` and `centred` are [n, d] with
    centred = x - b_dec, `encoder` and `decoder` [latents, d], `scale` a scalar. With r the residual:

        d/d decoder = 2 scale z^T r        d/d z = 2 scale r decoder^T, at active pairs
        d/d encoder = (d/d z)^T centred    d/d bias = sum over rows of d/d z    d/d b_dec = -(d/d bias) encoder
    """
    latents = len(encoder)
    with torch.enable_grad():
        # autograd only for the product r decoder^T at the pairs: embedding_bag's backward gathers no copy.
        values = code.values.detach().requires_grad_()
        decoded = decode(SparseCode(values, code.indices), decoder)
    residual = decoded.detach() - target
    step = 2 * scale * residual
    (by_value,) = torch.autograd.grad(decoded, values, step)
    by_value = by_value * (code.values > 0)
    pairs = by_latent(code, latents)
    by_bias = latent_sums(code, by_value, latents)
    gradient = Weights(
        encoder=transposed_product(pairs, by_value, centred),
        encoder_bias=by_bias,
        decoder=transposed_product(pairs, code.values, step),
        decoder_bias=-(by_bias @ encoder),
    )
    return Term(residual.square().sum(), residual, gradient)
