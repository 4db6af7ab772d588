"""Measures rows before an SAE is made of them: how large they are, which are far from the rest, what rounding changes.

Some models write rows whose norm is hundreds of times the others', at the first token of a sequence above all
(Sun et al. 2024, "Massive Activations in Large Language Models"). They would be most of the loss and of the variance.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ingest.activations.half_rows import rounded
from ingest.sae.codes import SparseCode
from ingest.sae.model import SAE
from ingest.sae.training.rows import RowNumbers
from ingest.sae.training.scaled_rows import Rows, row_norms

FAR = 10.0
"""A row whose norm is above so many times the median is an outlier."""


@dataclass(frozen=True)
class RowFigures:
    """Size and outliers of the rows of one hookpoint."""

    median_norm: float
    """Of train rows, Euclidean."""
    train: npt.NDArray[np.bool_]
    """`[train rows]`: whether the row is an outlier."""
    val: npt.NDArray[np.bool_]
    """`[val rows]`: likewise, by the median of train rows."""

    @classmethod
    def of(cls, train: Rows, val: Rows) -> "RowFigures":
        """Of one or more train rows `[n, d]`, and val rows `[m, d]`."""
        norms = row_norms(train)
        median = float(np.median(norms))
        return cls(median, norms > FAR * median, row_norms(val) > FAR * median)

    @property
    def told(self) -> str:
        """For a person."""
        far = int(self.train.sum())
        share = f"{far / len(self.train):.2%} of the rows are" if far else "no row is"
        return f"median norm {self.median_norm:.4g}, {share} above {FAR:g} times that"


def within(subset: RowNumbers | None, outliers: npt.NDArray[np.bool_]) -> RowNumbers | None:
    """The numbers of a subset, ascending, that are no outliers; None, for all rows, where there are none."""
    if not outliers.any():
        return subset
    return np.flatnonzero(~outliers) if subset is None else subset[~outliers[subset]]


def rounding_share(sae: SAE, rows: Tensor) -> float | None:
    """Of the activations of rows `[n, d]` the share on one side alone, rounded to half precision or not; None of none.

    |A xor B| / |A or B|, A and B the (row, latent) pairs that are active.
    """
    full, half = (_pairs(sae.encode(x), sae.config.width) for x in (rows, rounded(rows)))
    either = np.union1d(full, half)
    return len(np.setxor1d(full, half)) / len(either) if len(either) else None


def _pairs(code: SparseCode, width: int) -> npt.NDArray[np.int64]:
    active = code.values > 0
    pairs: npt.NDArray[np.int64] = (code.rows()[active] * width + code.indices[active]).cpu().numpy()
    return pairs


def far_from(rows: Tensor, median_norm: float | None) -> Tensor:
    """Whether each of the rows `[n, d]` is an outlier, `[n]`; none is where the median is not known."""
    if median_norm is None:
        return torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    far: Tensor = torch.linalg.vector_norm(rows.float(), dim=1) > FAR * median_norm
    return far
