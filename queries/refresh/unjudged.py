"""Finds pairs of an explainer and a scorer that cannot judge its labels: no jobs, but a row in `problems` each."""

from collections.abc import Iterable, Mapping
from typing import Any

from catalog import Catalog
from catalog.quote import named, quoted

_STAGE = "judgements"
"""Stage of problems."""
_REASON = "a lexical scorer looks for the terms of a lexical label, and labels of this explainer have none"


def unjudged(catalog: Catalog, expected: Mapping[str, list[dict[str, Any]]] | None = None) -> list[dict[str, Any]]:
    """Rows of `problems` for the pairs that `steps/judgements.sql` leaves out, in order.

    `expected` may have rows of explainers and scorers that are to be looked at instead of the catalog's.
    """
    explainers, scorers = (_providers(catalog, table, expected or {}) for table in ("explainers", "scorers"))
    return [
        {"stage": _STAGE, "subject": f"explainer {explainer}, scorer {scorer}", "reason": _REASON, "count": 1}
        for explainer, wrote in explainers
        for scorer, judges in scorers
        if judges == "lexical" and wrote != "lexical"
    ]


def record_unjudged(catalog: Catalog) -> None:
    """Bring the rows of `problems` about such pairs up to date; equal rows leave no snapshot."""
    rows = unjudged(catalog)
    there = catalog.rows("SELECT subject, reason FROM problems WHERE stage = ? ORDER BY ALL", [_STAGE])
    if there == sorted((row["subject"], row["reason"]) for row in rows):
        return
    with catalog.write("pairs that cannot be judged") as tx:
        tx.replace("problems", rows, ["stage", "subject", "reason"], f"stage = {quoted(_STAGE)}")


def left_out_lines(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each row."""
    return [f"left out ({row['stage']}): {row['subject']}: {row['reason']}" for row in rows]


def _providers(catalog: Catalog, table: str, expected: Mapping[str, list[dict[str, Any]]]) -> list[tuple[str, str]]:
    """(name, provider) of each row of explainers or scorers."""
    name = table.removesuffix("s")
    if table in expected:
        return sorted((row[name], row["provider"]) for row in expected[table])
    return [(n, p) for n, p in catalog.rows(f"SELECT {named(name)}, provider FROM {named(table)} ORDER BY ALL")]
