"""Gives balanced accuracy with its 95% interval, as the step `scores` does in SQL."""

import math

import numpy as np
import numpy.typing as npt

_Z = 1.959964


def wilson(hits: float, trials: float) -> tuple[float, float, float]:
    """(share, lower, upper end) of Wilson's interval (1927)."""
    middle = (hits + _Z * _Z / 2) / (trials + _Z * _Z)
    half = _Z * math.sqrt(hits * (trials - hits) / trials + _Z * _Z / 4) / (trials + _Z * _Z)
    return hits / trials, middle - half, middle + half


def balanced_accuracy(
    predicted: npt.NDArray[np.bool_], active: npt.NDArray[np.bool_]
) -> tuple[float, float, float] | None:
    """(balanced accuracy, lower, upper end): Newcombe 1998, method 10. None where a class is missing."""
    positives, negatives = int(active.sum()), int((~active).sum())
    if not positives or not negatives:
        return None
    recall, recall_low, recall_high = wilson(int((predicted & active).sum()), positives)
    spared, spared_low, spared_high = wilson(int((~predicted & ~active).sum()), negatives)
    below = math.hypot(recall - recall_low, spared - spared_low) / 2
    above = math.hypot(recall_high - recall, spared_high - spared) / 2
    middle = (recall + spared) / 2
    return middle, middle - below, middle + above
