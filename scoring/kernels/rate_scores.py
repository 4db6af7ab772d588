"""Scores labels at the rate at which their features fire: a row per label that was judged on windows of both kinds."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from catalog.digest import digest
from scoring.kernels.kernel import Run
from scoring.true_rate import AtRate, Drawn, always, at_rate

BATCH = 64
"""Labels that are committed together."""
_FIGURES = ("recall", "false_positive_rate", "precision", "f1", "correlation", "average_precision")


def rate_scores(rows: list[dict[str, Any]], run: Run) -> Iterator[list[dict[str, Any]]]:
    """A row per label; one whose feature fires in no window, or in each, has no figure and is left out."""
    ready: list[dict[str, Any]] = []
    for done, row in enumerate(rows, start=1):
        key = {name: row[name] for name in ("sae", "feature", "explainer", "scorer")}
        seed = int(digest([str(value) for value in key.values()])[:8], 16)
        if 0 < row["rate"] < 1:
            found, null = (at_rate(one, row["rate"], seed) if one else None for one in _drawn(row["windows"]))
            if found:
                ready.append(
                    key | {"rate": row["rate"], **_columns(found), **_null(null), "f1_always": always(row["rate"])}
                )
        run.progress(done, len(rows))
        if done % BATCH == 0:
            yield ready
            ready = []
    yield ready


def _drawn(windows: list[dict[str, Any]]) -> tuple[Drawn | None, Drawn | None]:
    """The windows as the label was judged on them, and as the other labels were."""
    return _columns_of(windows, "predicted", "score"), _columns_of(windows, "others", None)


def _columns_of(windows: list[dict[str, Any]], said: str, score: str | None) -> Drawn | None:
    """None where a judgement is missing of all windows; a window without one is left out."""
    usable = [window for window in windows if window[said] is not None or (score and window[score] is not None)]
    if not usable:
        return None
    said_yes = [window[said] for window in usable]
    scores = [window[score] for window in usable] if score else [None]
    return Drawn(
        np.array([window["active"] for window in usable], bool),
        np.array([window["weight"] or 0.0 for window in usable], float),
        None if any(one is None for one in said_yes) else np.array(said_yes, float),
        None if any(one is None for one in scores) else np.array(scores, float),
        np.array([window["document"] for window in usable], np.int64),
    )


def _columns(found: AtRate) -> dict[str, Any]:
    columns: dict[str, Any] = {"documents": found.documents}
    for name in _FIGURES:
        columns[name], columns[f"{name}_low"], columns[f"{name}_high"] = getattr(found, name)
    return columns


def _null(found: AtRate | None) -> dict[str, Any]:
    f1 = found.f1 if found else (None, None, None)
    return dict(zip(("f1_null", "f1_null_low", "f1_null_high"), f1, strict=True))
