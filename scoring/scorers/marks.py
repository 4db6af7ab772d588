"""Chooses the tokens that fuzzing marks in a window: those on which the feature fires, or others drawn by hash."""

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any, Literal

Marks = Literal["right", "random", "wrong"]
"""right: the tokens on which the feature fires, as far as they reach the threshold. random: any tokens, in a window in
which it is silent. wrong: tokens of a firing window on which it does not fire at all."""


def firing(activations: Sequence[float], threshold: float) -> tuple[int, ...]:
    """Places of the tokens whose activation is above zero and reaches the threshold."""
    return tuple(i for i, a in enumerate(activations) if a > 0 and a >= threshold)


def marked(windows: Sequence[dict[str, Any]], threshold: float, seed: Sequence[Any]) -> list[tuple[int, ...]]:
    """Of each window the places of its marked tokens, in order; none where no token can be marked wrongly.

    A window has `marks` (see `Marks`), `tokens` and `activations`, one for each token, and `corpus` and `start`.
    Random and wrong marks are as many as rightly marked windows have on average, rounded up. They are drawn for each
    window anew, by a hash of the seed and the window's place: the same in every run.
    """
    right = [len(firing(w["activations"], threshold)) for w in windows if w["marks"] == "right"]
    n = math.ceil(sum(right) / len(right)) if right else 1
    found = []
    for window in windows:
        if window["marks"] == "right":
            found.append(firing(window["activations"], threshold))
            continue
        free = [i for i, a in enumerate(window["activations"]) if a == 0]
        place = json.dumps([*seed, window["corpus"], window["start"]])
        draw = hashlib.shake_128(place.encode()).digest(2 * len(window["activations"]))
        found.append(tuple(sorted(sorted(free, key=lambda i: draw[2 * i : 2 * i + 2])[:n])))
    return found
