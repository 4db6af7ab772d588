"""Finds the exact k largest entries of each row, or all above a floor, several times faster than over whole rows.

A row's columns are dealt into strided groups. The k largest entries lie in the k groups with the largest
maxima: any entry of another group is at most its own group's maximum, which k group maxima already reach.
So a wide row is reduced to its group maxima, the top k groups are found among those by the same rule, and
the last `torch.topk` sees only their members.
"""

import torch
from torch import Tensor

GROUP = 4
"""Columns per group: the fastest of 4, 8 and 16 at widths of 2,048 to 16,384 and k of 32."""
WIDE = 2
"""Rows with fewer than WIDE * k groups go to `torch.topk` at once: grouping would save nothing."""


def exact_topk(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row of `x` [n, m]: (values [n, k], columns [n, k] int64), in no order.

    Exact as a multiset of values; among equal values at the boundary any may be taken. Columns are distinct.
    """
    rows, width = x.shape
    groups = width // GROUP
    if groups <= WIDE * k:
        values, columns = x.topk(k, dim=1, sorted=False)
        return values, columns
    even = groups * GROUP
    # Column c belongs to group c % groups: a maximum over the middle axis, so over contiguous stretches.
    maxima = x[:, :even].view(rows, GROUP, groups).amax(1)
    _, best = exact_topk(maxima, k)
    members = torch.arange(0, even, groups, device=x.device)
    candidates = (best.unsqueeze(2) + members).flatten(1)
    if even < width:
        leftover = torch.arange(even, width, device=x.device).expand(rows, -1)
        candidates = torch.cat([candidates, leftover], dim=1)
    values, at = x.gather(1, candidates).topk(k, dim=1, sorted=False)
    return values, candidates.gather(1, at)


def above(x: Tensor, floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """All entries of `x` [n, m] above `floor`: (values [pairs], columns [pairs] int64, pairs per row [n] int64).

    Pairs stand row after row. Where few entries lie above, only members of groups whose maximum does are looked at.
    """
    rows, width = x.shape
    groups = width // GROUP
    even = groups * GROUP
    maxima = x[:, :even].view(rows, GROUP, groups).amax(1) if groups else x.new_empty((rows, 0))
    row, group = torch.nonzero(maxima > floor, as_tuple=True)
    members = group.unsqueeze(1) + torch.arange(0, even, max(groups, 1), device=x.device)
    values = x.flatten()[row.unsqueeze(1) * width + members] if groups else x.new_empty((0, 0))
    kept = values > floor
    row, columns, values = row.unsqueeze(1).expand_as(kept)[kept], members[kept], values[kept]
    if even < width:
        left_row, left = torch.nonzero(x[:, even:] > floor, as_tuple=True)
        row = torch.cat([row, left_row])
        order = torch.sort(row, stable=True).indices
        columns = torch.cat([columns, left + even])[order]
        values = torch.cat([values, x[left_row, left + even]])[order]
    return values, columns, torch.bincount(row, minlength=rows)
