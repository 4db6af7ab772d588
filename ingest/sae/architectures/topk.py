"""TopK SAE (Gao et al. 2024, arXiv 2406.04093): the k largest pre-activations of a row are kept.

    z = TopK(relu((x - b_dec) W_enc + b_enc))          x_hat = z W_dec + b_dec

`losses/topk_family` computes the loss and, from the kept pairs alone, its gradient. The encoder's
product is the only dense work.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ingest.sae.architecture import Batch, Outcome, Weights
from ingest.sae.codes import SparseCode
from ingest.sae.losses.auxk import AuxK
from ingest.sae.losses.topk_family import Kept, encoder_input, kept_loss
from ingest.sae.products.top_codes import top_code


@dataclass(frozen=True)
class TopK:
    """Keep the k largest positive pre-activations of each row."""

    k: int
    """Active latents per row, at most."""
    centred: bool = True
    """Whether b_dec is subtracted from the input."""
    k_aux: int = 0
    """Dead latents per row that reconstruct the error in training; 0 leaves dead latents dead."""
    aux_coefficient: float = 1 / 32
    """Weight of the AuxK term."""

    def encode(self, weights: Weights, x: Tensor) -> SparseCode:
        """The code of rows `x` [n, d_in]: k pairs a row, in no order, also of value 0."""
        x_in = encoder_input(weights, x, self.centred)
        return top_code(x_in, weights.encoder, weights.encoder_bias, self.k)

    @torch.no_grad()
    def loss(self, weights: Weights, batch: Batch) -> Outcome:
        """The loss and its gradient."""
        x_in = encoder_input(weights, batch.x, self.centred)
        code = top_code(x_in, weights.encoder, weights.encoder_bias, self.k)
        aux = AuxK(self.k_aux, self.aux_coefficient)
        return kept_loss(weights, batch, Kept(code, x_in), centred=self.centred, aux=aux)
