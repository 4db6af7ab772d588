"""Finds what goes without labels or scores as a whole: no jobs, but a row in `problems` and a line each.

Pairs of an explainer and a scorer that cannot judge its labels, SAEs without windows to explain or to judge by,
concepts without a shortlist, and features that fire in most windows or in too few.
"""

from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

from catalog import Catalog
from catalog.quote import named, quoted

_STAGES = ("judgements", "labels", "shortlist")
"""Stages of problems."""
_BY_RULE = ("detection", "fuzzing")
"""Protocols by which a lexical scorer evaluates the rule of a lexical label."""
_REASON = "a lexical scorer looks for the terms of a lexical label, and labels of this explainer have none"


def unjudged(catalog: Catalog, expected: Mapping[str, list[dict[str, Any]]] | None = None) -> list[dict[str, Any]]:
    """Rows of `problems` for what the steps leave out as a whole, in order.

    `expected` may have rows of explainers and scorers that are to be looked at instead of the catalog's.
    """
    explainers = _rows(catalog, "explainers", ("explainer", "provider"), expected or {})
    scorers = _rows(catalog, "scorers", ("scorer", "provider", "protocol"), expected or {})
    pairs = [
        ("judgements", f"explainer {explainer}, scorer {scorer}", _REASON, 1)
        for explainer, wrote in explainers
        for scorer, judges, protocol in scorers
        if judges == "lexical" and protocol in _BY_RULE and wrote != "lexical"
    ]
    folder = resources.files("queries.refresh") / "sql"
    wholes, features = (
        catalog.rows((folder / name).read_text(encoding="utf-8"))
        for name in ("unjudged_saes.sql", "unjudged_features.sql")
    )
    return [
        {"stage": stage, "subject": subject, "reason": reason, "count": count}
        for stage, subject, reason, count in [*pairs, *wholes, *features]
    ]


def record_unjudged(catalog: Catalog) -> None:
    """Bring the rows of `problems` about that up to date; equal rows leave no snapshot."""
    stages = f"stage IN ({', '.join(map(quoted, _STAGES))})"
    with catalog.reading():
        rows = unjudged(catalog)
        there = catalog.rows(f"SELECT stage, subject, reason, count FROM problems WHERE {stages} ORDER BY ALL")
    if there == sorted(tuple(row.values()) for row in rows):
        return
    with catalog.write("what cannot be labelled or judged") as tx:
        tx.replace("problems", rows, ["stage", "subject", "reason"], stages)


def left_out_lines(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each row, with how many things it stands for where these are several."""
    return [
        f"left out ({row['stage']}): {row['subject']}: {f'{n} ' if (n := row['count']) > 1 else ''}{row['reason']}"
        for row in rows
    ]


def _rows(
    catalog: Catalog, table: str, columns: tuple[str, ...], expected: Mapping[str, list[dict[str, Any]]]
) -> list[tuple[str, ...]]:
    """These columns of each row of explainers or scorers."""
    if table in expected:
        return sorted(tuple(row[column] for column in columns) for row in expected[table])
    return catalog.rows(f"SELECT {', '.join(map(named, columns))} FROM {named(table)} ORDER BY ALL")
