"""Holds how a refresh or a plan is to be done: flags, a condition over keys, the settings of the study."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlglot
from sqlglot import exp

from catalog import Catalog
from catalog.errors import InputError, StepError

if TYPE_CHECKING:
    from queries.refresh.step import Step

_AT_MOST = {"covered_tokens.k": "logit_lens.k"}
"""Parameters that count what another step keeps -> how many it keeps. More would be cut to that in silence."""


@dataclass(frozen=True)
class Where:
    """A condition over key columns that limits a refresh."""

    sql: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Options:
    """How a refresh or a plan is to be done."""

    settings: dict[str, Any] = field(default_factory=dict)
    """`step.parameter` -> value."""
    retry: bool = False
    """Rows that carry a problem are asked for again."""
    keep: frozenset[str] = frozenset()
    """Tables whose rows stay although what they were made from changed; only new keys are made."""
    where: Where | None = None
    max_calls: int | None = None
    max_cost: float | None = None
    jobs: int | None = None
    """Requests at a time, instead of each configuration's own."""


def where(text: str, catalog: Catalog) -> Where:
    """A user's condition, checked by the allow-list. Raises InputError if it is not one expression over columns."""
    from queries.ask.guard import check

    try:
        tree, *more = sqlglot.parse(f"SELECT 1 WHERE {text}", read="duckdb")
        condition = tree.find(exp.Where) if tree else None
        others = {name for name, value in tree.args.items() if value} - {"expressions", "where"} if tree else set()
        if condition is None or more or others or condition.find(exp.Query):
            raise InputError(f"--where {text!r} is not one condition over key columns, such as 'feature < 100'")
    except sqlglot.errors.SqlglotError as error:
        raise InputError(f"--where {text!r} does not parse: write a condition such as 'feature < 100'") from error
    columns = tuple(sorted({column.name.lower() for column in condition.find_all(exp.Column)}))
    sql = condition.this.sql(dialect="duckdb", comments=False)
    known = ", ".join(f'NULL AS "{name}"' for name in columns) or "1 AS one"
    check(f"SELECT 1 FROM (SELECT {known}) WHERE {sql}", catalog)
    return Where(f"({sql})", columns)


def settings_of(catalog: Catalog) -> dict[str, Any]:
    """The parameters of steps that the catalog's study sets."""
    source = catalog.value("SELECT source FROM study")
    return dict(json.loads(source).get("steps", {})) if source else {}


def check_settings(steps: tuple["Step", ...], settings: dict[str, Any]) -> None:
    """Raise StepError for a parameter that no step has, or that asks for more than the step before it keeps."""
    known = {f"{step.name}.{name}": value for step in steps for name, value in step.parameters.items()}
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise StepError(f"no step has the parameter {unknown[0]!r}; known are {', '.join(sorted(known))}")
    said = known | settings
    for asks, keeps in _AT_MOST.items():
        wanted, kept = said.get(asks), said.get(keeps)
        if isinstance(wanted, (int, float)) and isinstance(kept, (int, float)) and wanted > kept:
            raise StepError(
                f"{asks} is {wanted}, but {keeps} is {kept} and no more are kept: make {keeps} at least {wanted}, "
                f"or {asks} at most {kept}"
            )


def check_where(steps: Iterable["Step"], where: Where | None) -> None:
    """Raise InputError for a condition that limits none of these steps: all of them would be done whole."""
    keys = [step.input if step.kernel else step.key for step in steps]
    if where is None or not keys or any(set(where.columns) <= set(key) for key in keys):
        return
    known = sorted({column for key in keys for column in key})
    unknown = [column for column in where.columns if column not in known]
    said = f"no step has a key column {unknown[0]!r}" if unknown else "no step has all of its columns in its key"
    raise InputError(f"--where {where.sql}: {said}, so that it would limit nothing; key columns are {', '.join(known)}")
