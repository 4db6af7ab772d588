"""Asks an LLM, without a label, which of a few windows does not belong to the others.

Intruder detection as in delphi: of n windows n - 1 fire, with their firing tokens marked, and one is silent, with as
many random marks. Here the firing windows of a trial stand next to each other in strength, where delphi takes them from
one quantile. A judge that guesses finds the intruder in one of n trials. It is a score of the feature: if the intruder
is found, the feature's windows have something in common.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any

from catalog.digest import digest
from catalog.errors import SaeqlError
from scoring.client.budget import BudgetSpent
from scoring.client.language_client import Answer
from scoring.client.request import Asked, request, sampler
from scoring.prompts import parse, template
from scoring.prompts.numbered import numbered_lines, paid
from scoring.scorers.marks import marked
from scoring.scorers.scorer import Given, Row, places
from scoring.windows import Judgement, highlight

TEMPLATE = "intruder"
Trial = list[int]
"""Places of its windows among the row's, in the order in which they are shown."""


def asks(row: Row, settings: dict[str, Any]) -> Asked:
    """The rendered prompt of each trial."""
    marks = _marks(row)
    conversations = [_messages(row, trial, marks, settings) for trial in _trials(row)]
    requests = tuple(request(row["model"], settings, messages) for messages in conversations)
    return Asked(digest([[r.text for r in requests], places(row), row["threshold"], marks]), requests)


def judge(rows: list[Row], given: Given) -> Iterator[tuple[Row, list[Judgement]]]:
    """Of each window whether it is said to belong: all of a trial but the one that is named.

    An answer that fails or is malformed costs its own trial alone: each of its windows gets the problem.
    """
    asked: list[list[dict[str, str]]] = []
    of: list[tuple[int, Trial]] = []
    marks = [_marks(row) for row in rows]
    judged = [[Judgement(None, problem="not asked", marked=of_window) for of_window in of_row] for of_row in marks]
    waiting = dict.fromkeys(range(len(rows)), 0)
    for i, row in enumerate(rows):
        for trial in _trials(row):
            asked.append(_messages(row, trial, marks[i], given.settings))
            of.append((i, trial))
            waiting[i] += 1
    with given.client() as (client, counter):
        for at, answer in client.complete_many(asked, **sampler(given.settings)):
            i, trial = of[at]
            if isinstance(answer, BudgetSpent):
                waiting.pop(i, None)
            if i not in waiting:
                continue
            for place, one in zip(trial, _judgements(answer, len(trial)), strict=True):
                judged[i][place] = replace(one, marked=marks[i][place])
            waiting[i] -= 1
            if not waiting[i]:
                counter.update()
                yield rows[i], judged[i]


def _marks(row: Row) -> list[tuple[int, ...]]:
    """Of each window its marks: random ones are as many as the firing windows of their own trial have on average."""
    found: dict[int, tuple[int, ...]] = {}
    for trial in _trials(row):
        windows = [row["examples"][place] for place in trial]
        seed = [row["sae"], row["feature"]]
        found.update(zip(trial, marked(windows, row["threshold"], seed), strict=True))
    return [found[place] for place in range(len(row["examples"]))]


def _trials(row: Row) -> list[Trial]:
    """The windows of each trial, in an order by hash: the intruder's place does not show."""
    order = sorted(range(len(row["examples"])), key=lambda place: row["examples"][place]["trial"])
    groups = groupby(order, key=lambda place: row["examples"][place]["trial"])
    seed = [row["sae"], row["feature"]]
    return [sorted(group, key=lambda place: _shuffled(seed, row["examples"][place])) for _, group in groups]


def _shuffled(seed: list[Any], window: dict[str, Any]) -> str:
    return digest([*seed, window["corpus"], window["start"], "order"])


def _messages(row: Row, trial: Trial, marks: list[tuple[int, ...]], settings: dict[str, Any]) -> list[dict[str, str]]:
    texts = []
    for place in trial:
        tokens = row["examples"][place]["tokens"]
        texts.append(highlight(tokens, [at in marks[place] for at in range(len(tokens))]))
    values = {"examples": numbered_lines("Example", texts), "n": str(len(trial))}
    return template.chosen(TEMPLATE, settings.get("template")).messages(values)


def _judgements(answer: Answer | SaeqlError, n: int) -> list[Judgement]:
    """The judgements of one trial's windows; its tokens and cost are divided among them."""
    named, problem = None, None
    if isinstance(answer, Answer):
        try:
            named = parse.response_number(answer.text, n)
        except parse.ParseProblem as error:
            problem = str(error)
    else:
        problem = str(answer)
    prompt, completion, cost = paid(answer)
    return [
        Judgement(
            None if named is None else named != number,
            problem=problem,
            prompt_tokens=prompt // n + (number <= prompt % n),
            completion_tokens=completion // n + (number <= completion % n),
            cost=cost / n,
        )
        for number in range(1, n + 1)
    ]
