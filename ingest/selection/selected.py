"""Records a selection's rows: what was chosen, from what, and why its budget is not reached."""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catalog import Catalog
from catalog.quote import quoted
from catalog.study.selection import Selection
from catalog.vectors.collections import Version
from catalog.vectors.references import name_version
from ingest.selection.documents import Documents

Scores = npt.NDArray[np.float64]
_STAGE = "selection"
"""Stage of problems."""


@dataclass
class SelectionReport:
    """What a selection holds, and where its time went."""

    selection: str
    documents: int = 0
    tokens: int = 0
    """Each pass counted; below the budget if the pool or what resembles the seed is smaller."""
    seed_documents: int = 0
    seed_tokens: int = 0
    candidates: int = 0
    """Documents that were reranked."""
    embedded: int = 0
    """Documents that were embedded now."""
    skipped: bool = False
    """Whether everything that it is made from is as it was, so that nothing was done."""
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Chosen:
    """What a method takes, best first."""

    documents: Documents
    order: npt.NDArray[np.int64]
    """Places in `documents`, best first: those that are taken."""
    scores: Scores | None = None
    """`[documents]`, or None for a method without scores."""
    passes: npt.NDArray[np.int64] | None = None
    """`[order]`: how often each counts towards the budget, or None for once."""
    version: Version | None = None
    """Of the vectors that it was made with."""


def as_before(catalog: Catalog, spec: Selection, inputs: str, report: SelectionReport) -> bool:
    """Whether the catalog has the selection as it would be made; then the report tells what it has."""
    if catalog.value("SELECT inputs FROM selections WHERE selection = ?", [spec.name]) != inputs:
        return False
    sql = "SELECT count(*), coalesce(sum(tokens * passes), 0) FROM selected WHERE selection = ?"
    documents, tokens = catalog.rows(sql, [spec.name])[0]
    report.documents, report.tokens, report.skipped = int(documents), int(tokens), bool(documents)
    return report.skipped


def record(
    catalog: Catalog,
    spec: Selection,
    row: dict[str, Any],
    chosen: Chosen,
    times: npt.NDArray[np.int64],
    report: SelectionReport,
) -> None:
    """Both tables, the version of the vectors, and why the budget is not reached, in one snapshot."""
    documents, order = chosen.documents, chosen.order
    table = pa.table(
        {
            "selection": pa.array([spec.name] * len(order), pa.string()),
            "corpus": pa.array([documents.corpus] * len(order), pa.string()),
            "document": documents.numbers[order],
            "hash": pa.array(documents.hashes[order], pa.string()),
            "rank": np.arange(1, len(order) + 1, dtype=np.int32),
            "score": pa.nulls(len(order), pa.float64()) if chosen.scores is None else chosen.scores[order],
            "tokens": documents.tokens[order].astype(np.int32),
            "passes": times.astype(np.int32),
        }
    )
    short = _short(spec, chosen, report)
    problems = [{"stage": _STAGE, "subject": spec.name, "reason": short, "count": 1}] if short else []
    mine, ours = f"selection = {quoted(spec.name)}", f"stage = {quoted(_STAGE)} AND subject = {quoted(spec.name)}"
    said = {"documents": report.documents, "tokens": report.tokens}
    with catalog.scratch() as scratch, catalog.write(f"selection {spec.name}", **said) as tx:
        tx.replace("selected", scratch.arrow(table), ["selection", "corpus", "document"], mine)
        tx.replace("selections", [row], ["selection"], mine)
        tx.replace("problems", problems, ["stage", "subject", "reason"], ours)
        if chosen.version is not None:
            name_version(tx, chosen.version)


def _short(spec: Selection, chosen: Chosen, report: SelectionReport) -> str | None:
    """The reason why a selection has fewer tokens than its budget; None if it has them all, or has no budget."""
    if report.tokens >= (spec.tokens or 0):
        return None
    ended = len(chosen.order) == len(chosen.documents)
    why = "the pool ends there" if ended else "no more documents share a word with the seed"
    return f"{report.tokens} of {spec.tokens} tokens: {why}"


def row_of(spec: Selection, seed: Documents | None, parent: str | None, inputs: str) -> dict[str, Any]:
    """Of `selections`."""
    described = None
    if seed is not None:
        splits = None if spec.seed_documents else list(spec.splits)
        described = {
            "corpus": seed.corpus,
            "splits": splits,
            "documents": len(seed),
            "tokens": int(seed.tokens.sum()),
        }
    return {
        "selection": spec.name,
        "method": spec.method,
        "pool": spec.pool,
        "seed": described and json.dumps(described),
        "parent": spec.parent,
        "tokens": spec.tokens,
        "settings": spec.model_dump_json(),
        "inputs": inputs,
        "parent_digest": parent,
    }
