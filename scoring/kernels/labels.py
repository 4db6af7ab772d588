"""Labels features: each explainer says what each shortlisted feature fires on, from train windows alone."""

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from catalog.digest import digest
from catalog.errors import EndpointRefused, InputError, SaeqlError
from scoring.client.request import Asked, request, sampler
from scoring.explainers import lexical, llm
from scoring.kernels.counted_client import COUNTEREXAMPLES, counted_client, read_settings
from scoring.kernels.kernel import Run
from scoring.windows import Example, Label

BATCH = 16
"""Labels that are committed together."""
DENSE = 0.5
"""Share of windows from which on a feature is not explained: what it fires on is nearly everything."""


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
    if dense := _dense(row):
        return Asked(digest(dense))
    if row["provider"] == "lexical":
        windows = [w for w in row["examples"] or [] if w["kind"] in ("stratum", "random")]
        said = sorted([w["tokens"], w["activations"], w["kind"], w["split"], w["passage"]] for w in windows)
        return Asked(digest([settings["max_terms"], row["threshold"], said]), (), (expected,))
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
    for row in rows:
        if dense := _dense(row):
            yield row, Label(None, problem=dense, model=rows[0]["model"] or lexical.MODEL)
    rows = [row for row in rows if not _dense(row)]
    if not rows:
        return
    if rows[0]["provider"] == "lexical":
        chosen = lexical.LexicalSettings(max_terms=settings["max_terms"])
        for row in rows:
            active, inactive = _windows(row, "stratum")
            yield row, lexical.explain(active, inactive, chosen, _windows(row, "stratum", "val"))
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
        n_inactive=settings.get("counterexamples", COUNTEREXAMPLES),
        instructions=settings["instructions"],
        text=settings.get("template"),
        parameters=sampler(settings),
    )


def _dense(row: dict[str, Any]) -> str | None:
    """What is said of a feature that fires in more than half of all windows: no claim tells where it fires."""
    if (row["rate"] or 0) <= DENSE:
        return None
    return f"it fires on nearly everything: in {row['rate']:.0%} of all windows of split train"


def _windows(row: dict[str, Any], kind: str, split: str = "train") -> tuple[list[Example], list[Example]]:
    """(firing, other) windows of a row: those of one kind that reach the threshold, random ones that do not.

    Of the others those come first in which the feature is silent.
    """
    active: list[Example] = []
    inactive: list[Example] = []
    for window in row["examples"] or []:
        threshold = row["threshold"] or 0.0
        peak = max(window["activations"])
        fires = peak > 0 and peak >= threshold
        if window["split"] != split or window["kind"] != (kind if fires else "random"):
            continue
        example = Example(
            window["corpus"],
            window["start"],
            tuple(window["tokens"]),
            tuple(window["activations"]),
            split,
            fires,
            window["stratum"],
            threshold,
            row["percentile_99"],
            window["passage"],
        )
        (active if fires else inactive).append(example)
    return active, sorted(inactive, key=lambda example: example.top)


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
