"""Judges rows of the step `judgements` by detection: with the rule of a lexical label, or through an endpoint."""

import json
from collections.abc import Iterator
from typing import Any

from catalog.digest import digest
from scoring.client.request import Asked, request, sampler
from scoring.scorers import detection, lexical_detection
from scoring.scorers.scorer import Given, Row, places
from scoring.windows import Judgement, Label


def asks(row: Row, settings: dict[str, Any]) -> Asked:
    """The rendered prompts, or label and windows for the lexical provider."""
    windows = [window["tokens"] for window in row["examples"]]
    placed = [*places(row), [row["threshold"]]]
    if row["provider"] == "lexical":
        return Asked(digest([row["label"], row["details"], windows, placed]))
    asked = detection.predict_messages(row["label"], windows, _asked(settings))
    requests = tuple(request(row["model"], settings, messages) for messages, _ in asked)
    return Asked(digest([[r.text for r in requests], placed]), requests)


def judge(rows: list[Row], given: Given) -> Iterator[tuple[Row, list[Judgement]]]:
    """Whether the feature fires in each window, given only the label."""
    claims = [Label(row["label"], json.loads(row["details"])) for row in rows]
    windows = [[window["tokens"] for window in row["examples"]] for row in rows]
    if rows[0]["provider"] == "lexical":
        for row, claim, tokens in zip(rows, claims, windows, strict=True):
            yield row, lexical_detection.predict(claim, tokens)
        return
    with given.client() as (client, counter):
        tasks = list(zip(claims, windows, strict=True))
        for at, judged in detection.predict_many(tasks, _asked(given.settings), client):
            counter.update()
            yield rows[at], judged


def _asked(settings: dict[str, Any]) -> detection.PredictSettings:
    template, parameters = settings.get("template"), sampler(settings)
    return detection.PredictSettings(batch=settings["batch"], text=template, parameters=parameters)
