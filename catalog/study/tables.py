"""Writes the study's concepts, explainers, scorers and names as rows, so that the steps can read them."""

import json
from pathlib import Path
from typing import Any

from catalog import Catalog
from catalog.errors import InputError
from catalog.quote import named, quoted
from catalog.schema.keys import KEYS
from catalog.study.concept import MOST_BYTES, Concept
from catalog.study.file import Study
from catalog.study.labelling import Endpoint
from catalog.study.prompt_text import read_template
from catalog.study.small_file import read_small
from catalog.study.sweep import Sweep

_LATER = (
    "timeout",
    "retries",
    "request",
    "counterexamples",
    "negatives",
    "requests_per_minute",
    "tokens_per_minute",
    "structured",
    "logprobs",
)
"""Keys of explainers and scorers that the first catalogs do not have."""


def put(catalog: Catalog, table: str, rows: list[dict[str, Any]], key: list[str], message: str, **scope: str) -> None:
    """Make the rows of a configuration table those given; equal rows leave no snapshot."""
    with catalog.write(message) as tx:
        where = " AND ".join(f"{name} = {quoted(value)}" for name, value in scope.items()) or "true"
        tx.replace(table, rows, key, where)


def differing(catalog: Catalog, table: str, rows: list[dict[str, Any]], **scope: str) -> dict[str, tuple[str, str]]:
    """By the first column of its key, what `put` would find: (`new`, `changed`, `gone` or `current`, what differs)."""
    name, *_ = key = KEYS[table]
    where = " AND ".join(f"{named(column)} = ?" for column in scope) or "true"
    there = catalog.arrow(f"SELECT * FROM {named(table)} WHERE {where}", list(scope.values()))
    columns = there.column_names
    # A study's tuple is the table's list.
    fresh = [{column: _listed(row.get(column)) for column in columns} for row in rows]
    before, after = ({tuple(row[k] for k in key): row for row in found} for found in (there.to_pylist(), fresh))
    found: dict[str, tuple[str, str]] = {}
    for one in [*after, *(one for one in before if one not in after)]:
        old, new = before.get(one), after.get(one)
        unlike = [column for column in columns if old and new and old[column] != new[column]]
        state = "new" if old is None else "gone" if new is None else "changed" if unlike else "current"
        first = str((new or old or {})[name])
        known = found.get(first, (state, ""))
        # Several rows of one name, as those of a sweep: it changes if one of them does.
        found[first] = (state, ", ".join(unlike)) if known[0] == state else ("changed", known[1] or ", ".join(unlike))
    return found


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def record_sweeps(catalog: Catalog, study: Study, missing: set[str]) -> None:
    """Bring the table sweeps up to date with the study's sweeps, without the SAEs that are `missing`.

    Those of other studies stay.
    """
    for sweep in study.sweeps:
        rows = sweep_rows(study, sweep, missing)
        put(catalog, "sweeps", rows, ["sweep", "sae"], f"sweep {sweep.name}", sweep=sweep.name)


def sweep_rows(study: Study, sweep: Sweep, missing: set[str]) -> list[dict[str, Any]]:
    """The rows of `sweeps` that a sweep makes, without the SAEs that are `missing`."""
    runs = [run for run in study.runs(sweep) if run[2].name not in missing]
    # A family has more seeds at some values than at others: the baseline's first seed stands for the rest.
    baseline: dict[float, dict[int, str]] = {}
    for family, value, sae in runs:
        if family == sweep.baseline:
            baseline.setdefault(value, {})[sae.seed] = sae.name
    rows = []
    for family, value, sae in runs:
        there = {} if family == sweep.baseline else baseline.get(value, {})
        rows.append(
            {
                "sweep": sweep.name,
                "sae": sae.name,
                "family": family,
                "setting": sweep.setting,
                "coefficient": value,
                "seed": sae.seed,
                "baseline": there.get(sae.seed) or next(iter(there.values()), None),
                "l0_low": sweep.l0_low,
                "l0_high": sweep.l0_high,
            }
        )
    return rows


def configuration_rows(study: Study) -> dict[str, list[dict[str, Any]]]:
    """The rows of concepts, explainers, scorers and study that a study makes."""
    row = {"name": study.name, **primary_names(study), "source": study.model_dump_json()}
    return {
        "concepts": [
            {
                "concept": concept.name,
                "kind": concept.kind,
                "corpora": concept.corpora and list(concept.corpora),
                "definition": json.dumps(_definition(concept)),
                "shortlist": concept.shortlist,
                "shortlist_quantile": concept.shortlist_quantile,
                "rank_by": concept.rank_by,
            }
            for concept in study.concepts
        ],
        "explainers": [
            {
                "explainer": e.name,
                "provider": e.provider,
                "model": e.model,
                "settings": _settings(e, "explainer"),
                "threshold": e.threshold,
            }
            for e in study.explainers
        ],
        "scorers": [
            {
                "scorer": s.name,
                "protocol": s.protocol,
                "provider": s.provider,
                "model": s.model,
                "examples": s.examples,
                "settings": _settings(s, "scorer"),
                "threshold": s.threshold,
                "nulls": s.nulls,
            }
            for s in study.scorers
        ],
        "study": [row],
    }


def record_configurations(catalog: Catalog, study: Study) -> None:
    """Bring the tables concepts, explainers, scorers and study up to date."""
    for table, rows in configuration_rows(study).items():
        message = f"study {study.name}" if table == "study" else f"{table} of the study"
        put(catalog, table, rows, list(KEYS[table]), message)


def _settings(endpoint: Endpoint, kind: str) -> str:
    """The settings as JSON, a prompt template by its text: an edit of the file counts, and the catalog can be moved.

    Keys that older catalogs do not have stand there only if they differ from their default: else their rows would
    change, and all that was made by them would be looked at again.
    """
    said = endpoint.model_dump(mode="json")
    for name in _LATER:
        field = type(endpoint).model_fields.get(name)
        if field is not None and said[name] == field.get_default(call_default_factory=True):
            del said[name]
    # These have columns of their own.
    for name in ("threshold", "nulls"):
        said.pop(name, None)
    path = said.pop("template")
    return json.dumps({**said, "template": read_template(path, kind) if path else None})


def primary_names(study: Study) -> dict[str, str | None]:
    """The names that the view `features` shows."""
    return {"explainer": study.primary.explainer, "scorer": study.primary.scorer, "concept": study.primary.concept}


def _definition(concept: Concept) -> dict[str, Any]:
    # Without a window the definition is that of catalogs from before there were windows: their tokens stay current.
    window = {side: n for side, n in (("before", concept.before), ("after", concept.after)) if n}
    return {**_chosen(concept), **window}


def _chosen(concept: Concept) -> dict[str, Any]:
    if concept.kind == "words":
        return {"words": concept.all_words(), "ignore_case": concept.ignore_case}
    if concept.kind == "predicate":
        return {"predicate": concept.predicate}
    return {"spans": _spans(Path(str(concept.file)))}


def _spans(path: Path) -> list[tuple[str | int, int, int]]:
    """(document hash or number, first character, one after the last) of each line of a JSON Lines file."""
    spans = []
    try:
        lines = read_small(path, "the file of spans", MOST_BYTES).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 at byte {error.start}: save it as UTF-8") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            span = (row["document"], int(row["start"]), int(row["end"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}, line {number}: needs document (hash or number), start and end, in characters"
            ) from error
        if not 0 <= span[1] < span[2]:
            raise InputError(f"{path}, line {number}: start {span[1]} and end {span[2]} are no span")
        spans.append(span)
    return spans
