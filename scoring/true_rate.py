"""Gives a judge's figures at the rate at which a feature really fires, from windows that were drawn to be balanced.

A judge with recall 0.8 and false-positive rate 0.1 has F1 0.84 where half of the windows fire, and 0.14 where 1% does.
Firing windows were drawn stratum by stratum and carry weights by their inclusion probabilities (Horvitz & Thompson
1952; normalised, Hajek 1971); the others were drawn at random. With rate p, recall r and false-positive rate f: a
window is said to fire with probability s = p r + (1 - p) f, precision is p r / s, F1 is 2 p r / (p + s), and the
correlation of the two (phi) is (p r - p s) / sqrt(p (1 - p) s (1 - s)).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scoring.proportions import wilson

Array = npt.NDArray[np.float64]
Figure = tuple[float | None, float | None, float | None]
"""(estimate, lower, upper end of its 95% interval)"""

REPLICATES = 1_000
FEWEST = 20
"""Documents with firing windows below which a bootstrap over them says too little: intervals follow from Wilson's."""
_ENDS = (0.025, 0.975)


@dataclass(frozen=True)
class Drawn:
    """Windows of one feature that were judged, as columns `[windows]`."""

    active: npt.NDArray[np.bool_]
    weight: Array
    """Of a firing window: how many of all it stands for, to any common factor; not read of others."""
    predicted: Array | None
    """1 or 0; for the mean of several labels the share that say so; None where the judge ranks windows and no more."""
    probability: Array | None
    """A score that ranks windows; None where the judge gives none."""
    document: npt.NDArray[np.int64]
    """Number of the window's document."""


@dataclass(frozen=True)
class AtRate:
    """Figures at the true rate."""

    recall: Figure
    false_positive_rate: Figure
    precision: Figure
    f1: Figure
    correlation: Figure
    average_precision: Figure
    """Area under the curve of precision over recall, a step for each distinct score; no interval of few documents."""
    documents: int
    """Documents with firing windows."""


def at_rate(drawn: Drawn, rate: float, seed: int) -> AtRate | None:
    """Figures of a judge where the share `rate` of all windows fires; None where a class has no window.

    From FEWEST documents on, intervals are percentiles of REPLICATES bootstrap samples of documents, else they join
    those of recall and false-positive rate (Wilson 1927; joined as by Newcombe 1998, method 10). What is undefined, as
    the precision of a judge that never says that a window fires, is None.
    """
    on, off = drawn.active, ~drawn.active
    if not on.any() or not off.any() or not drawn.weight[on].sum() > 0:
        return None
    weight = np.where(on, drawn.weight, 1.0)
    documents, place = np.unique(drawn.document, return_inverse=True)
    firing = len(np.unique(drawn.document[on]))
    times = None
    if firing >= FEWEST:
        even = np.full(len(documents), 1 / len(documents))
        times = np.random.default_rng(seed).multinomial(len(documents), even, REPLICATES).astype(np.float64)
    area: Figure = (None, None, None)
    if drawn.probability is not None:
        middle = _number(_area(drawn, weight[None], rate)[0])
        area = (middle, None, None)
        if times is not None:
            area = _ends(middle, _area(drawn, times[:, place] * weight, rate))
    if drawn.predicted is None:
        undefined: Figure = (None, None, None)
        return AtRate(undefined, undefined, undefined, undefined, undefined, area, firing)
    sums = np.zeros((len(documents), 4))
    for column, values in enumerate((on, on * drawn.predicted, off, off * drawn.predicted)):
        np.add.at(sums[:, column], place, weight * values)
    recall, alarms = _shares(sums.sum(0, keepdims=True))
    r, f = float(recall[0]), float(alarms[0])
    names: list[Callable[[Array, Array, float], Array]] = [_precision, _f1, _correlation]
    if times is not None:
        recalls, alarm_rates = _shares(times @ sums)
        middles = [_number(name(recall, alarms, rate)[0]) for name in names]
        ends = [_ends(middle, name(recalls, alarm_rates, rate)) for middle, name in zip(middles, names, strict=True)]
        return AtRate(_ends(r, recalls), _ends(f, alarm_rates), ends[0], ends[1], ends[2], area, firing)
    effective = float(weight[on].sum() ** 2 / (weight[on] ** 2).sum())
    _, r_low, r_high = wilson(r * effective, effective)
    _, f_low, f_high = wilson(f * int(off.sum()), int(off.sum()))
    ends = [_joined(name, (r, r_low, r_high), (f, f_low, f_high), rate) for name in names]
    return AtRate((r, r_low, r_high), (f, f_low, f_high), ends[0], ends[1], ends[2], area, firing)


def always(rate: float) -> float:
    """F1 of a judge that says of every window that the feature fires: 2 p / (1 + p)."""
    return 2 * rate / (1 + rate)


def _shares(sums: Array) -> tuple[Array, Array]:
    """(recall, false-positive rate) of each row of (firing, of these said to, others, of these said to)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[:, 1] / sums[:, 0], sums[:, 3] / sums[:, 2]


def _precision(r: Array, f: Array, rate: float) -> Array:
    with np.errstate(invalid="ignore"):
        return np.asarray(rate * r / (rate * r + (1 - rate) * f))


def _f1(r: Array, f: Array, rate: float) -> Array:
    with np.errstate(invalid="ignore"):
        return np.asarray(2 * rate * r / (rate + rate * r + (1 - rate) * f))


def _correlation(r: Array, f: Array, rate: float) -> Array:
    said = rate * r + (1 - rate) * f
    with np.errstate(invalid="ignore"):
        return np.asarray((rate * r - rate * said) / np.sqrt(rate * (1 - rate) * said * (1 - said)))


def _area(drawn: Drawn, weights: Array, rate: float) -> Array:
    """Average precision for each row of weights `[rows, windows]`; NaN in a row that lacks a class."""
    assert drawn.probability is not None
    order = np.argsort(-drawn.probability, kind="stable")
    score, on = drawn.probability[order], drawn.active[order]
    weights = weights[:, order]
    firing, others = weights * on, weights * ~on
    with np.errstate(invalid="ignore", divide="ignore"):
        hits = rate * np.cumsum(firing, 1) / firing.sum(1, keepdims=True)
        alarms = (1 - rate) * np.cumsum(others, 1) / others.sum(1, keepdims=True)
        # A step ends with the last of equal scores.
        last = np.append(score[1:] != score[:-1], True)
        hits, alarms = hits[:, last], alarms[:, last]
        precision = np.where(hits > 0, hits / (hits + alarms), 0.0)
        gained = np.diff(hits, axis=1, prepend=0.0) / rate
        return np.asarray((gained * precision).sum(1))


def _ends(middle: float | None, replicates: Array) -> Figure:
    """Percentiles of those replicates that are defined."""
    defined = replicates[np.isfinite(replicates)]
    if middle is None or not len(defined):
        return middle, None, None
    low, high = np.quantile(defined, _ENDS)
    return middle, min(float(low), middle), max(float(high), middle)


def _joined(
    of: Callable[[Array, Array, float], Array],
    recall: tuple[float, float, float],
    alarms: tuple[float, float, float],
    rate: float,
) -> Figure:
    """A figure that rises with the recall and falls with the false-positive rate, from their intervals."""

    def value(r: float, f: float) -> float | None:
        return _number(of(np.array([r]), np.array([f]), rate)[0])

    (r, r_low, r_high), (f, f_low, f_high) = recall, alarms
    middle = value(r, f)
    if middle is None:
        return None, None, None
    ends = [
        middle if end is None else end for end in (value(r_low, f), value(r, f_high), value(r_high, f), value(r, f_low))
    ]
    low = middle - math.hypot(middle - ends[0], middle - ends[1])
    high = middle + math.hypot(ends[2] - middle, ends[3] - middle)
    least = -1.0 if of is _correlation else 0.0
    return middle, max(low, least), min(high, 1.0)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
