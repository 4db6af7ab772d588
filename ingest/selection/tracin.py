"""Scores documents by TracIn: how far a step on one would lower an SAE's loss on the seed set (Pruthi et al. 2020).

    TracIn(z, z') = grad L_w(z) . grad L_w(z')        (Specialized SAEs, section 2.3; w: the parent's weights)

z' is the seed set, with the mean gradient G over its tokens; a document's score is the mean over its tokens. No
example's gradient is ever built: a token with code z, s = dL/d(decoded) and p_j = dL/d(pre-activation j) has

    d/d W_dec[j] = z_j s      d/d W_enc[j] = p_j x_in      d/d b_enc[j] = p_j
    d/d b_dec = s, less sum_j p_j W_enc[j] if centred

so that its product with G needs only the rows of G at its active latents, each sum one gathered product:

    s . (sum_j z_j G_dec[j]) + x_in . (sum_j p_j G_enc[j]) + sum_j p_j (G_benc[j] - W_enc[j] . G_bdec) + s . G_bdec

The loss of a token is the parent's own with the codes of inference: |x - x_hat|^2, over nested dictionaries their
mean (Matryoshka), for relu plus lambda |z|_1 (equation 1). A training batch divides it by the batch's variance,
one factor for all tokens, which no ranking sees. JumpReLU: its threshold's gradient is an estimate for training
(straight-through) and is left out.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from catalog.errors import InputError
from ingest.sae.architecture import Weights
from ingest.sae.codes import SparseCode, decode, nested, row_sums
from ingest.sae.config import SAEConfig
from ingest.sae.losses.gradient import Reconstruction, weight_gradients
from ingest.sae.losses.topk_family import encoder_input
from ingest.sae.model import SAE

CHUNK = 4096
"""Rows at a time, which bounds what is held: 8 MB of codes at k 64."""

SUPPORTED = ("topk", "batchtopk", "matryoshka", "relu", "jumprelu")


class Part(NamedTuple):
    """The pairs of one dictionary, with the loss's derivatives there."""

    code: SparseCode
    step: Tensor
    """[n, d]: derivative by what this dictionary decodes to."""
    by_pre: Tensor
    """[pairs]: derivative by the pre-activations."""


def check_supported(config: SAEConfig) -> None:
    """Raises InputError for a parent whose loss is not a sum over the active pairs of its rows."""
    if config.d_out is not None:
        raise InputError("TracIn compares rows of one hookpoint, and a transcoder's loss needs those of two: use dense")
    if config.architecture not in SUPPORTED:
        raise InputError(
            f"TracIn has no gradient for architecture {config.architecture!r}: its loss has terms beside the active "
            f"pairs (gated: the auxiliary reconstruction). It has one for {', '.join(SUPPORTED)}; or use dense"
        )


def row_parts(sae: SAE, x: Tensor, sparsity: float) -> list[Part]:
    """The derivatives of each row's loss, `x` [n, d], in the form above; one part per nested dictionary."""
    weights, groups = sae.weights, sae.config.groups
    with torch.no_grad():
        code = sae.architecture.encode(weights, x)
        codes = nested(code, groups)
        target = x - weights.decoder_bias
        found: list[Reconstruction] = []
        for part in codes:
            found.append(Reconstruction(part, weights.decoder, found[-1].error if found else target))
        penalty = sparsity if sae.config.architecture == "relu" else 0.0
        parts, step = [], torch.zeros_like(target)
        # A latent of an inner dictionary helps every larger one: its steps add up from the largest back.
        for part, one in zip(reversed(codes), reversed(found), strict=True):
            step = step - one.error * (2 / len(codes))
            by_pre = (one.back(step) + penalty) * (part.values > 0)
            parts.append(Part(part, step, by_pre))
        return parts[::-1]


def seed_gradient(sae: SAE, rows: Iterable[Tensor], sparsity: float = 0.0) -> Weights:
    """The mean over all rows of the gradient of their loss, from batches of rows [n, d]; at least one row."""
    weights, centred = sae.weights, sae.config.centred
    latents = len(weights.encoder)
    total: list[Tensor] | None = None
    count = 0
    for x in _chunks(rows):
        x_in = encoder_input(weights, x, centred)
        parts = row_parts(sae, x, sparsity)
        sums = [torch.zeros_like(w) for w in (weights.encoder, weights.encoder_bias, weights.decoder)]
        for part in parts:
            found = weight_gradients(part.code, part.by_pre, x_in, part.step, latents)
            for one, more in zip(sums, found, strict=True):
                one += more
        sums.append(parts[0].step.sum(0) - (sums[1] @ weights.encoder if centred else 0))
        # In float64: the seed set may be large, and the gradients of its tokens nearly cancel.
        doubled = [one.double() for one in sums]
        total = doubled if total is None else [a + b for a, b in zip(total, doubled, strict=True)]
        count += len(x)
    if total is None:
        raise InputError("the seed set has no token to take a gradient of: add text")
    return Weights(*((one / count).to(weights.encoder.dtype) for one in total))


def row_influence(sae: SAE, gradient: Weights, x: Tensor, sparsity: float = 0.0) -> Tensor:
    """The product of each row's gradient, `x` [n, d], with `gradient`: [n]."""
    weights, centred = sae.weights, sae.config.centred
    x_in = encoder_input(weights, x, centred)
    by_bias = gradient.encoder_bias
    if centred:
        by_bias = by_bias - weights.encoder @ gradient.decoder_bias
    parts = row_parts(sae, x, sparsity)
    found = parts[0].step @ gradient.decoder_bias
    for code, step, by_pre in parts:
        found += (step * decode(code, gradient.decoder)).sum(1)
        found += (x_in * decode(code._replace(values=by_pre), gradient.encoder)).sum(1)
        found += row_sums(code, by_pre * by_bias[code.indices])
    return found


def document_influence(
    sae: SAE,
    gradient: Weights,
    rows: Iterable[tuple[Tensor, npt.NDArray[np.int64]]],
    documents: int,
    sparsity: float = 0.0,
    progress: Callable[[int], None] | None = None,
) -> npt.NDArray[np.float64]:
    """The mean over each document's rows of their influence, `[documents]`; -inf for a document without a row.

    `rows` gives (rows [n, d], the document of each [n]), a document's rows in any number of batches.
    """
    sums, counts = np.zeros(documents), np.zeros(documents, np.int64)
    done = 0
    for x, place in rows:
        for start in range(0, len(x), CHUNK):
            part = row_influence(sae, gradient, x[start : start + CHUNK], sparsity).double().cpu().numpy()
            at = place[start : start + CHUNK]
            sums += np.bincount(at, part, minlength=documents)
            counts += np.bincount(at, minlength=documents)
        done += len(x)
        if progress:
            progress(done)
    found = np.full(documents, -np.inf)
    np.divide(sums, counts, out=found, where=counts > 0)
    return found


def _chunks(rows: Iterable[Tensor]) -> Iterator[Tensor]:
    for x in rows:
        yield from torch.split(x, CHUNK)  # type: ignore[no-untyped-call]
