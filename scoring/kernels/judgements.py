"""Judges labels by detection: does the feature fire in this test window, given its label, or another's (the null)?"""

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from catalog.digest import digest
from catalog.errors import EndpointRefused, InputError, SaeqlError
from scoring.client.request import Asked, request, sampler
from scoring.kernels.counted_client import counted_client, read_settings
from scoring.kernels.kernel import Run
from scoring.scorers import detection, lexical_detection
from scoring.windows import Judgement, Label

BATCH = 16
"""Labels whose judgements are committed together."""


def judgements(rows: list[dict[str, Any]], run: Run) -> Iterator[list[dict[str, Any]]]:
    """One row per window of each (feature, label) pair; where no answer came, with the problem.

    Raises EndpointRefused at the end, if there is a scorer whose endpoint nobody allowed.
    """
    refused: SaeqlError | None = None
    done = 0
    ready: list[dict[str, Any]] = []
    for _, group in groupby(sorted(rows, key=lambda row: row["scorer"]), key=lambda row: row["scorer"]):
        try:
            for row, judged in _judged(list(group), run):
                ready += [_judgement_row(row, window, one) for window, one in zip(row["examples"], judged, strict=True)]
                done += 1
                run.progress(done, len(rows))
                if done % BATCH == 0:
                    yield ready
                    ready = []
        except (EndpointRefused, InputError) as error:
            # The other scorers go on.
            refused = refused or error
    if ready:
        yield ready
    if refused is not None:
        raise refused


def _judged(rows: list[dict[str, Any]], run: Run) -> Iterator[tuple[dict[str, Any], list[Judgement]]]:
    """Rows of one scorer with a judgement per window, in order of arrival."""
    settings = read_settings(rows[0], "scorer")
    claims = [Label(row["label"], json.loads(row["details"])) for row in rows]
    windows = [[window["tokens"] for window in row["examples"]] for row in rows]
    if rows[0]["provider"] == "lexical":
        for row, claim, tokens in zip(rows, claims, windows, strict=True):
            yield row, lexical_detection.predict(claim, tokens)
        return
    with counted_client(rows[0]["model"], settings, run) as (client, counter):
        for at, judged in detection.predict_many(list(zip(claims, windows, strict=True)), _asked(settings), client):
            counter.update()
            yield rows[at], judged


def asks(row: dict[str, Any], _parameters: dict[str, Any]) -> Asked:
    """What a row shows its scorer: the rendered prompts, or label and windows for the lexical one."""
    settings = read_settings(row, "scorer")
    windows = [window["tokens"] for window in row["examples"]]
    places = [[w["corpus"], w["start"], w["activation"], w["active"], w["stratum"]] for w in row["examples"]]
    places.append([row["threshold"]])
    if row["provider"] == "lexical":
        return Asked(digest([row["label"], row["details"], windows, places]))
    asked = detection.predict_messages(row["label"], windows, _asked(settings))
    requests = tuple(request(row["model"], settings, messages) for messages, _ in asked)
    return Asked(digest([[r.text for r in requests], places]), requests)


def _asked(settings: dict[str, Any]) -> detection.PredictSettings:
    template, parameters = settings.get("template"), sampler(settings)
    return detection.PredictSettings(batch=settings["batch"], text=template, parameters=parameters)


def _judgement_row(row: dict[str, Any], window: dict[str, Any], judged: Judgement) -> dict[str, Any]:
    return {
        **{name: row[name] for name in ("sae", "feature", "label_feature", "explainer", "scorer")},
        "corpus": window["corpus"],
        "example": window["start"],
        "split": "test",
        "active": window["active"],
        "activation": window["activation"],
        "threshold": row["threshold"],
        "stratum": window["stratum"],
        "predicted": judged.predicted,
        "probability": judged.probability,
        "problem": judged.problem,
    }
