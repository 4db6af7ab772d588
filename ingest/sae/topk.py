"""TopK SAE (Gao et al. 2024, arXiv 2406.04093): the k largest pre-activations of a row are kept.

    z = TopK(relu((x - b_dec) W_enc + b_enc))          x_hat = z W_dec + b_dec

Loss (their section 2.3 and appendix A.2, with e = x - x_hat held constant in the second term):

    sum |x - x_hat|^2 / sum |x - mean(x)|^2  +  aux_coefficient * sum |e - e_hat|^2 / sum |e - mean(e)|^2

where e_hat = z_dead W_dec reconstructs the error from the k_aux largest activations of dead latents.
The gradient is written by hand from the kept pairs alone: dense work is one product, the encoder's.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ingest.sae.architecture import Outcome, Weights, block_rows
from ingest.sae.codes import SparseCode
from ingest.sae.gradient import squared_error_gradient, total_variance
from ingest.sae.select import exact_topk


@dataclass(frozen=True)
class TopK:
    """Keep the k largest positive pre-activations of each row."""

    k: int
    """Active latents per row, at most."""
    k_aux: int = 0
    """Dead latents per row that reconstruct the error in training; 0 leaves dead latents dead."""
    aux_coefficient: float = 1 / 32
    """Weight of the second term of the loss."""

    def encode(self, weights: Weights, x: Tensor) -> SparseCode:
        """The code of rows `x` [n, d]: values and latents [n, k], in no order within a row."""
        return top_code(x - weights.decoder_bias, weights.encoder, weights.encoder_bias, self.k)

    @torch.no_grad()
    def loss(self, weights: Weights, x: Tensor, dead: Tensor) -> Outcome:
        """The loss above and its gradient on rows `x` [n, d]; `dead` [latents] bool marks the dead latents."""
        latents = len(weights.encoder)
        # x_hat - x is also the code's own product minus the centred rows: b_dec cancels.
        centred = x - weights.decoder_bias
        code = top_code(centred, weights.encoder, weights.encoder_bias, self.k)
        variance = total_variance(x)
        main = squared_error_gradient(code, centred, centred, weights.encoder, weights.decoder, 1 / variance)
        gradient = main.gradient
        gradient.decoder_bias.add_(2 / variance * main.residual.sum(0))
        relative_error = loss = main.squared / variance
        revived = torch.nonzero(dead).flatten()
        if self.k_aux and len(revived):
            error = -main.residual
            encoder, bias = weights.encoder[revived], weights.encoder_bias[revived]
            aux_code = top_code(centred, encoder, bias, min(self.k_aux, len(revived)))
            scale = self.aux_coefficient / total_variance(error)
            aux = squared_error_gradient(aux_code, error, centred, encoder, weights.decoder[revived], scale)
            loss = loss + scale * aux.squared
            gradient.encoder.index_add_(0, revived, aux.gradient.encoder)
            gradient.encoder_bias.index_add_(0, revived, aux.gradient.encoder_bias)
            gradient.decoder.index_add_(0, revived, aux.gradient.decoder)
            # The error is held constant, so b_dec moves this term through the encoder's input alone.
            gradient.decoder_bias.add_(aux.gradient.decoder_bias)
        fired = torch.bincount(code.indices[code.values > 0], minlength=latents)
        return Outcome(loss, 1 - relative_error, fired, gradient)


def top_code(centred: Tensor, encoder: Tensor, bias: Tensor, k: int) -> SparseCode:
    """The k largest of relu(centred @ encoder.T + bias) per row, exactly; `centred` [n, d], `encoder` [latents, d].

    Rows go through in blocks, so that a block's pre-activations are still in cache when the top k are sought.
    """
    n, latents = len(centred), len(encoder)
    values = centred.new_empty((n, k))
    indices = torch.empty((n, k), dtype=torch.int64, device=centred.device)
    step = block_rows(latents, centred.device)
    block = centred.new_empty((min(step, n), latents))
    for start in range(0, n, step):
        rows = centred[start : start + step]
        pre = torch.addmm(bias, rows, encoder.T, out=block[: len(rows)])
        top, at = exact_topk(pre, k)
        # relu keeps the order, so it is applied to the k kept values alone.
        values[start : start + step] = top.clamp_(min=0)
        indices[start : start + step] = at
    return SparseCode(values, indices)
