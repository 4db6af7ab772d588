"""Sums over the whole batch when several processes train on parts of it; alone, each function is the identity.

A loss that is normalised, tilted or selected over the batch must see all of it: with these in the right places the
processes together take the very step that one process would take on the summed batch.
"""

import torch
from torch import Tensor
from torch import distributed as dist


def processes() -> int:
    """How many processes train together; 1 without `torchrun`."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, 0 for the one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def total(value: Tensor) -> Tensor:
    """The sum of every process's `value`, in place."""
    if dist.is_initialized():
        dist.all_reduce(value)
    return value


def wait() -> None:
    """Return when every process has come here."""
    if dist.is_initialized():
        dist.barrier()


def count(rows: Tensor) -> Tensor:
    """How many rows [n, ...] all processes have: a scalar of their dtype, where they lie."""
    return total(torch.full((), float(len(rows)), dtype=rows.dtype, device=rows.device))


def largest(value: Tensor) -> Tensor:
    """The largest of every process's `value`, in place."""
    if dist.is_initialized():
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return value


def joined(values: Tensor) -> Tensor:
    """Every process's `values` [n_i] end to end; their lengths may differ."""
    if not dist.is_initialized():
        return values
    lengths = [torch.zeros(1, dtype=torch.int64, device=values.device) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, torch.tensor([len(values)], device=values.device))
    longest = int(max(lengths))
    padded = torch.zeros(longest, dtype=values.dtype, device=values.device)
    padded[: len(values)] = values
    parts = [torch.zeros_like(padded) for _ in lengths]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(n)] for part, n in zip(parts, lengths, strict=True)])
