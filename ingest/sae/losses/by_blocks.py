"""Computes the loss of an elementwise architecture and its gradient by dense products over blocks of rows.

A block's pre-activations, code and derivatives stay in cache, and no [batch, latents] tensor exists. It costs the
encoder's product, the decoder's, and their three transposes, whatever the number of active latents.

A tilted loss weighs the gradients of a row by softmax(t L), which the last block may still change. So a block is
weighed relative to the largest t L seen so far, and what was accumulated before shrinks when that one grows.
"""

import math

import torch
from torch import Tensor

from ingest.sae.architecture import Weights, block_rows
from ingest.sae.losses.elementwise import Elementwise, Found, Task
from ingest.sae.losses.tilted import tilted
from ingest.sae.products.precision import add_product, product, product_format


def by_blocks(rule: Elementwise, weights: Weights, task: Task) -> Found:
    """The loss, and the gradients that depend on the code."""
    latents, n = len(weights.encoder), len(task.x_in)
    size = block_rows(latents, task.x_in.device)
    buffers = [task.x_in.new_empty((min(size, n), latents)) for _ in range(2)]
    sums = _Sums(rule, weights, task)
    for start in range(0, n, size):
        sums.add(slice(start, min(start + size, n)), *buffers)
    return sums.found()


class _Sums:
    """What is summed over blocks of rows."""

    def __init__(self, rule: Elementwise, weights: Weights, task: Task) -> None:
        self._rule, self._task = rule, task
        # Once for all blocks.
        self._reading, self._writing = (
            matrix.to(product_format(matrix)) for matrix in (weights.encoder, weights.decoder)
        )
        self._parameters, self._shift = rule.parameters(weights), rule.shift(weights)
        self._largest = -math.inf
        """Of t L so far."""
        # The first block's `shrunk` is 0: it overwrites what stands here.
        self._encoder, self._decoder = torch.empty_like(weights.encoder), torch.empty_like(weights.decoder)
        self._by_pre = torch.zeros_like(weights.encoder_bias)
        self._others: dict[str, Tensor] = {}
        self._fired = torch.zeros(len(weights.encoder), dtype=torch.int64, device=weights.encoder.device)
        self._error = torch.empty_like(task.target)
        self._row_losses = task.target.new_empty(len(task.target))

    def add(self, rows: slice, pre: Tensor, back: Tensor) -> None:
        """Take some rows into account; `pre` and `back` [rows or more, latents] are memory to use."""
        task, decoder = self._task, self._writing
        x_in, target = task.x_in[rows], task.target[rows]
        pre, back = pre[: len(x_in)], back[: len(x_in)]
        seen = self._rule.forward(product(x_in, self._reading, pre, self._shift), *self._parameters)
        error = _missing(target, seen.z, decoder)
        losses = error.square().sum(1).add_(seen.penalty.sum(1), alpha=task.sparsity)
        by_auxiliary = None
        if seen.auxiliary is not None:
            auxiliary_error = _missing(target, seen.auxiliary, decoder)
            losses += auxiliary_error.square().sum(1)
        share, shrunk = self._weigh(losses)
        step = error * (-2 * share)
        if seen.auxiliary is not None:
            by_auxiliary = product(auxiliary_error.mul_(-2 * share), decoder, torch.empty_like(back))
        by_z = product(step, decoder, back)
        add_product(self._decoder, seen.z.T, step, shrunk)
        # As products with ones, sums over rows take half the time; booleans would take several times as much.
        ones = share.new_ones(len(share))
        self._fired += torch.mv(seen.z.sign_().T, ones).long()
        slopes = self._rule.back(seen, by_z, by_auxiliary, share * task.sparsity, *self._parameters)
        add_product(self._encoder, slopes.pre.T, x_in, shrunk)
        self._by_pre.addmv_(slopes.pre.T, ones, beta=shrunk)
        for name, slope in slopes.others.items():
            before = self._others.setdefault(name, torch.zeros_like(self._by_pre))
            before.addmv_(slope.T, ones, beta=shrunk)
        self._error[rows], self._row_losses[rows] = error, losses

    def _weigh(self, losses: Tensor) -> tuple[Tensor, float]:
        """(weights [n, 1] of rows with these losses, what earlier ones shrink by), the largest so far being 1."""
        exponents = losses.double() * self._task.tilt
        before, self._largest = self._largest, max(self._largest, float(exponents.max()))
        share = (exponents - self._largest).exp_().to(losses.dtype)
        return share.unsqueeze(1), math.exp(before - self._largest)

    def found(self) -> Found:
        """The sums with their true weights."""
        loss, by_row = tilted(self._row_losses, self._task.tilt)
        # The row with the largest t L was weighed by 1; everything else has its proportion to it.
        scale = by_row.max()
        for gradient in (self._encoder, self._decoder, self._by_pre, *self._others.values()):
            gradient.mul_(scale)
        return Found(
            loss,
            self._row_losses,
            by_row,
            self._error,
            self._fired,
            self._encoder,
            self._decoder,
            self._by_pre,
            self._others,
        )


def _missing(target: Tensor, z: Tensor, decoder: Tensor) -> Tensor:
    """target [n, d] - z [n, latents] @ decoder [latents, d]."""
    decoded = product(z, decoder.T, torch.empty_like(target))
    return torch.sub(target, decoded, out=decoded)
