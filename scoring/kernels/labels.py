"""Labels features: each explainer says what each shortlisted feature fires on, from train windows alone."""

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from catalog.digest import digest
from catalog.errors import EndpointRefused, InputError, SaeqlError
from scoring.client.request import Asked, request, sampler
from scoring.explainers import lexical, llm
from scoring.kernels.counted_client import counted_client, read_settings
from scoring.kernels.kernel import Run
from scoring.windows import Example, Label

BATCH = 16
"""Labels that are committed together."""


def labels(rows: list[dict[str, Any]], run: Run) -> Iterator[list[dict[str, Any]]]:
    """One label per (sae, feature, explainer); where none could be given, a row with the problem.

    Raises EndpointRefused at the end, if there is an explainer whose endpoint nobody allowed.
    """
    done = 0
    ready: list[dict[str, Any]] = []
    refused: SaeqlError | None = None
    for _, group in groupby(sorted(rows, key=lambda row: row["explainer"]), key=lambda row: row["explainer"]):
        try:
            for row, label in _explained(list(group), run):
                ready.append(_label_row(row, label))
                done += 1
                run.progress(done, len(rows))
                if len(ready) == BATCH:
                    yield ready
                    ready = []
        except (EndpointRefused, InputError) as error:
            # The other explainers go on.
            refused = refused or error
    if ready:
        yield ready
    if refused is not None:
        raise refused


def asks(row: dict[str, Any], _parameters: dict[str, Any]) -> Asked:
    """What a row shows its explainer: the rendered prompt, or all windows for the lexical one."""
    settings = read_settings(row, "explainer")
    expected = {name: row[name] for name in ("sae", "feature", "explainer")} | {
        **{"label": UNKNOWN, "problem": None, "kept_constraints": True, "details": "{}", "model": row["model"] or ""},
        **{"prompt_hash": None, "prompt_tokens": 0, "completion_tokens": 0, "cost": 0.0},
    }
    if row["provider"] == "lexical":
        windows = [w for w in row["examples"] or [] if w["kind"] in ("stratum", "random")]
        said = sorted([w["tokens"], w["activations"], w["kind"], w["stratum"]] for w in windows)
        return Asked(digest([settings["max_terms"], said]), (), (expected,))
    active, inactive = _windows(row, _kind(settings))
    if not active:
        return Asked(digest("no windows"), ())
    messages, _ = llm.explain_messages(active, inactive, _asked(settings))
    limits = [settings["min_words"], settings["max_words"], sampler(settings)]
    return Asked(digest([row["model"], messages, limits]), (request(row["model"], settings, messages),), (expected,))


UNKNOWN = "a claim that nobody has made yet, of about as many words as it may have"
"""Stands for a label in a plan, so that what asks about labels can be counted."""


def _explained(rows: list[dict[str, Any]], run: Run) -> Iterator[tuple[dict[str, Any], Label]]:
    """Rows of one explainer with their labels, in order of arrival."""
    settings = read_settings(rows[0], "explainer")
    if rows[0]["provider"] == "lexical":
        chosen = lexical.LexicalSettings(max_terms=settings["max_terms"])
        for row in rows:
            active, inactive = _windows(row, "stratum")
            yield row, lexical.explain(active, inactive, chosen)
        return
    windows = [_windows(row, _kind(settings)) for row in rows]
    with counted_client(rows[0]["model"], settings, run) as (client, counter):
        for at, label in llm.explain_many(windows, _asked(settings), client):
            counter.update()
            yield rows[at], label


def _kind(settings: dict[str, Any]) -> str:
    return "top" if settings["sampling"] == "top" else "stratum"


def _asked(settings: dict[str, Any]) -> llm.ExplainSettings:
    return llm.ExplainSettings(
        n_examples=settings["examples"],
        sampling=settings["sampling"],
        min_words=settings["min_words"],
        max_words=settings["max_words"],
        instructions=settings["instructions"],
        text=settings.get("template"),
        parameters=sampler(settings),
    )


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
