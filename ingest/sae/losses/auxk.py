"""AuxK: dead latents reconstruct what the living ones leave over (Gao et al. 2024, arXiv 2406.04093, appendix A.2).

    aux_coefficient * sum |e - e_hat|^2 / sum |e - mean(e)|^2,   e = x - x_hat held constant,

where e_hat = z_dead W_dec, and z_dead are the k_aux largest activations of dead latents in each row. Where there are
not many more dead latents than that, plain matrices of all of them are faster than the chosen pairs.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ingest.sae import collectives
from ingest.sae.architecture import Weights
from ingest.sae.losses.gradient import Reconstruction, WeightGradients, mean_variance, weight_gradients
from ingest.sae.products.top_codes import top_code, top_matrix
from ingest.sae.products.triton_use import use_kernels

MATRICES_BELOW = 3
"""Dead latents per k_aux below which matrices are used. n 4,096, d 256, k_aux 128, one core: 18 ms against 67 at 128
dead latents, 64 against 88 at 384, 86 against 97 at 512, 156 against 124 at 819; with k_aux 64 even at 300."""


class AuxK(NamedTuple):
    """How dead latents are revived."""

    k: int = 0
    """Dead latents per row that reconstruct the error; 0 leaves dead latents dead."""
    coefficient: float = 1 / 32
    """Weight of the term."""


def revive(
    weights: Weights, gradient: Weights, dead: Tensor, x_in: Tensor, error: Tensor, aux: AuxK, centred: bool
) -> Tensor:
    """The term above for the latents `dead` [dead] int64; its gradient is added to `gradient` in place.

    `x_in` [n, d_in] is what the encoder multiplies, `error` [n, d_out] what the latents left over.
    """
    encoder, bias, decoder = weights.encoder[dead], weights.encoder_bias[dead], weights.decoder[dead]
    scale = aux.coefficient / (mean_variance(error) * collectives.count(error))
    matrices = len(dead) < MATRICES_BELOW * aux.k and not use_kernels(decoder)
    path = _by_matrices if matrices else _by_pairs
    squares, found = path(encoder, bias, decoder, x_in, error, min(aux.k, len(dead)), -2 * scale)
    gradient.encoder.index_add_(0, dead, found.encoder)
    gradient.encoder_bias.index_add_(0, dead, found.encoder_bias)
    gradient.decoder.index_add_(0, dead, found.decoder)
    if centred:
        # The error is held constant, so b_dec moves this term through the encoder's input alone.
        gradient.decoder_bias.sub_(found.encoder_bias @ encoder)
    return scale * collectives.total(squares)


def _by_pairs(
    encoder: Tensor, bias: Tensor, decoder: Tensor, x_in: Tensor, error: Tensor, k: int, share: Tensor
) -> tuple[Tensor, WeightGradients]:
    """(sum |e - e_hat|^2, its gradients times `share` / -2) by the k pairs of each row."""
    code = top_code(x_in, encoder, bias, k)
    left = Reconstruction(code, decoder, error)
    by_pre = left.back_error(share.expand(len(error), 1)) * (code.values > 0)
    return left.squares().sum(), weight_gradients(code, by_pre, x_in, left.error * share, len(encoder))


def _by_matrices(
    encoder: Tensor, bias: Tensor, decoder: Tensor, x_in: Tensor, error: Tensor, k: int, share: Tensor
) -> tuple[Tensor, WeightGradients]:
    """The same by products of whole matrices [n, dead]."""
    z = top_matrix(x_in, encoder, bias, k)
    left = torch.addmm(error, z, decoder, alpha=-1)
    squares = left.square().sum()
    step = left.mul_(share)
    by_decoder = z.T @ step
    by_pre = (step @ decoder.T).mul_(z.sign_())
    return squares, WeightGradients(by_pre.T @ x_in, by_pre.sum(0), by_decoder)
