"""Labels: each explainer says what each shortlisted feature fires on, from train windows alone."""

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from catalog.answers import Answers
from catalog.errors import InputError
from scoring import lexical, llm
from scoring.client import ChatClient
from scoring.examples import Example, Label
from scoring.kernels.contract import Run

BATCH = 16
"""Labels that are committed together."""


def labels(rows: list[dict[str, Any]], run: Run) -> Iterator[list[dict[str, Any]]]:
    """One label per (sae, feature, explainer); where none could be given, a row with the problem."""
    done = 0
    ready: list[dict[str, Any]] = []
    for _, group in groupby(sorted(rows, key=lambda row: row["explainer"]), key=lambda row: row["explainer"]):
        for row, label in _explained(list(group), run):
            ready.append(_label_row(row, label))
            done += 1
            run.progress(done, len(rows))
            if len(ready) == BATCH:
                yield ready
                ready = []
    if ready:
        yield ready


def _explained(rows: list[dict[str, Any]], run: Run) -> Iterator[tuple[dict[str, Any], Label]]:
    """Rows of one explainer with their labels, in order of arrival."""
    settings = json.loads(rows[0]["settings"])
    if rows[0]["provider"] == "lexical":
        chosen = lexical.LexicalSettings(max_terms=settings["max_terms"])
        for row in rows:
            active, inactive = _windows(row, "stratum")
            yield row, lexical.explain(active, inactive, chosen)
        return
    asked = llm.ExplainSettings(
        n_examples=settings["examples"],
        sampling=settings["sampling"],
        min_words=settings["min_words"],
        max_words=settings["max_words"],
        instructions=settings["instructions"],
        parameters=sampler(settings),
    )
    kind = "top" if settings["sampling"] == "top" else "stratum"
    with Answers(run.catalog.root / "answers.sqlite") as answers:
        client = chat_client(rows[0]["model"], settings, answers)
        before_calls, before_cost = run.calls, run.cost
        for at, label in llm.explain_many([_windows(row, kind) for row in rows], asked, client):
            run.calls, run.cost = before_calls + client.spent.paid, before_cost + client.spent.cost
            yield rows[at], label


def chat_client(model: str, settings: dict[str, Any], answers: Answers) -> ChatClient:
    """The endpoint that an explainer or a scorer names."""
    prices = (settings["price_prompt"], settings["price_completion"])
    return ChatClient(model, settings["base_url"], answers=answers, jobs=settings["jobs"], prices=prices)


def sampler(settings: dict[str, Any]) -> dict[str, Any]:
    """Parameters that go into each request as they are."""
    return {"temperature": settings["temperature"], "max_tokens": settings["max_tokens"]}


def _windows(row: dict[str, Any], kind: str) -> tuple[list[Example], list[Example]]:
    """(activating, silent) train windows of a row; the activating ones of one kind."""
    active: list[Example] = []
    inactive: list[Example] = []
    for window in row["examples"] or []:
        if window["kind"] not in (kind, "random"):
            continue
        example = Example(
            window["corpus"],
            window["start"],
            tuple(window["tokens"]),
            tuple(window["activations"]),
            "train",
            window["kind"] != "random",
            window["stratum"],
        )
        (inactive if window["kind"] == "random" else active).append(example)
    return active, inactive


def _label_row(row: dict[str, Any], label: Label) -> dict[str, Any]:
    if label.text is None and not label.problem:
        raise InputError(f"feature {row['feature']}: the explainer {row['explainer']} gave neither label nor problem")
    return {
        "sae": row["sae"],
        "feature": row["feature"],
        "explainer": row["explainer"],
        "label": label.text,
        "problem": label.problem,
        "kept_constraints": label.kept_constraints,
        "details": json.dumps(label.details, sort_keys=True),
        "model": label.model or row["provider"],
        "prompt_hash": label.prompt_hash,
        "prompt_tokens": label.prompt_tokens,
        "completion_tokens": label.completion_tokens,
        "cost": label.cost,
    }
