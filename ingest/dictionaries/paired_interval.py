"""Says how exactly the mean of a paired difference is known, from documents as the units that were drawn.

Tokens of one document are not independent of each other, so that an interval over tokens would be too narrow.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FEWEST = 8
"""Documents below which an interval is not trusted to end a measurement."""
_EXACT = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764}
_NORMAL = 1.959964


class Interval(NamedTuple):
    """A mean with its 95% interval."""

    mean: float
    half: float | None
    """Half of the interval's width; None with fewer than two documents."""

    @property
    def ends(self) -> tuple[float | None, float | None]:
        """Start and end."""
        return (None, None) if self.half is None else (self.mean - self.half, self.mean + self.half)


def interval(sums: npt.NDArray[np.float64], counts: npt.NDArray[np.float64]) -> Interval:
    """Of the mean over tokens, given each document's sum of differences and its tokens, `[documents]` each.

    The ratio estimator of cluster sampling (Cochran 1977, "Sampling Techniques", section 9A.1, eq. 9A.3): with
    R = sum s / sum n, var R = g / (g - 1) sum (s - R n)^2 / (sum n)^2 over g documents, and Student's t of g - 1.
    """
    there = counts > 0
    sums, counts = sums[there], counts[there]
    g, n = len(sums), float(counts.sum())
    if not g:
        return Interval(math.nan, None)
    mean = float(sums.sum()) / n
    if g < 2:
        return Interval(mean, None)
    variance = g / (g - 1) * float(np.square(sums - mean * counts).sum()) / (n * n)
    return Interval(mean, student(g - 1) * math.sqrt(variance))


def student(freedom: int) -> float:
    """The 97.5% quantile of Student's t: a table up to 4 degrees of freedom, from 5 on the series of the normal's.

    Abramowitz & Stegun 1964, 26.7.5; right to 2 in 1,000 from 5 degrees on.
    """
    if freedom in _EXACT:
        return _EXACT[freedom]
    x, v = _NORMAL, float(freedom)
    terms = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return x + sum(term / v ** (i + 1) for i, term in enumerate(terms))
