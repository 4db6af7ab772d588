"""Asks whether marked tokens are those that a label speaks of (fuzzing: Paulo et al. 2024, section 4).

Each window is shown with some tokens between << and >>, and the answer is 1 only if every one of them fits the label.
Firing windows with their firing tokens marked are to be told from windows with other marks. Which ones, the scorer's
`negatives` says: `silent` windows with random marks, as in the paper, or `firing` ones with wrong marks, where the
topic of the text gives no hint: the harder of the two. A firing window is shown once, with right marks or with wrong
ones.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from catalog.digest import digest
from scoring.client.request import Asked, request, sampler
from scoring.label_rules import Rule
from scoring.scorers import detection
from scoring.scorers.lexical_detection import rule_of
from scoring.scorers.marks import marked
from scoring.scorers.scorer import Given, Row, places
from scoring.window_terms import read_window
from scoring.windows import Judgement, Label, highlight

TEMPLATE = "fuzzer"
UNMARKED = "no token can be marked wrongly: the feature fires on each of the window's"


def asks(row: Row, settings: dict[str, Any]) -> Asked:
    """The rendered prompts, or label and marked windows for the lexical provider."""
    marks = _marks(row)
    placed = [places(row), row["threshold"], marks]
    if row["provider"] == "lexical":
        tokens = [window["tokens"] for window in row["examples"]]
        return Asked(digest([row["label"], row["details"], tokens, placed]))
    asked = detection.predict_messages(row["label"], [text for _, text in _texts(row, marks)], _asked(settings))
    requests = tuple(request(row["model"], settings, messages) for messages, _ in asked)
    return Asked(digest([[r.text for r in requests], placed]), requests)


def judge(rows: list[Row], given: Given) -> Iterator[tuple[Row, list[Judgement]]]:
    """Whether every marked token of each window fits the label; a problem where nothing could be marked."""
    marks = [_marks(row) for row in rows]
    if rows[0]["provider"] == "lexical":
        for row, of_row in zip(rows, marks, strict=True):
            yield row, _by_rule(row, of_row)
        return
    texts = [_texts(row, of_row) for row, of_row in zip(rows, marks, strict=True)]
    tasks = [(Label(row["label"]), [text for _, text in shown]) for row, shown in zip(rows, texts, strict=True)]
    with given.client() as (client, counter):
        for at, answers in detection.predict_many(tasks, _asked(given.settings), client):
            counter.update()
            answered = {i: answer for (i, _), answer in zip(texts[at], answers, strict=True)}
            yield (
                rows[at],
                [
                    replace(answered.get(i, Judgement(None, problem=UNMARKED)), marked=of_window)
                    for i, of_window in enumerate(marks[at])
                ],
            )


def _marks(row: Row) -> list[tuple[int, ...]]:
    # Not by label or explainer: all labels of a feature are judged by the same marks.
    return marked(row["examples"], row["threshold"], [row["sae"], row["feature"]])


def _texts(row: Row, marks: list[tuple[int, ...]]) -> list[tuple[int, str]]:
    """(place among the row's windows, marked text) of each window that has a mark."""
    return [
        (i, highlight(window["tokens"], [at in of_window for at in range(len(window["tokens"]))]))
        for i, (window, of_window) in enumerate(zip(row["examples"], marks, strict=True))
        if of_window
    ]


def _by_rule(row: Row, marks: list[tuple[int, ...]]) -> list[Judgement]:
    found = rule_of(Label(row["label"], json.loads(row["details"])))
    if isinstance(found, str):
        return [Judgement(None, problem=found, marked=of_window) for of_window in marks]
    return [
        Judgement(fits(found[0], window["tokens"], of_window), marked=of_window)
        if of_window
        else Judgement(None, problem=UNMARKED, marked=of_window)
        for window, of_window in zip(row["examples"], marks, strict=True)
    ]


def fits(rule: Rule, tokens: list[str], places: tuple[int, ...]) -> bool:
    """Whether each of these tokens lies in a unit of the window on which, by the rule, the feature fires."""
    window = read_window(tuple(tokens))
    lit = [window.units[i] for i in rule.units(window)]
    return all(any(unit.first <= place <= unit.last for unit in lit) for place in places)


def _asked(settings: dict[str, Any]) -> detection.PredictSettings:
    text, parameters = settings.get("template"), sampler(settings)
    return detection.PredictSettings(batch=settings["batch"], template=TEMPLATE, text=text, parameters=parameters)
