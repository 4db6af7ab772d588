"""Runs the checks of a file over a catalog: each is a query for rows that should not be there.

A check fails if its query returns rows. `$against` in a query is the number of an earlier snapshot, for what changed:
`FROM scores AT (VERSION => $against)`. All checks read the same snapshot, whatever is committed meanwhile.
"""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from catalog import Catalog, Location
from catalog.errors import InputError, SaeqlError
from catalog.store.snapshots import resolve
from catalog.study.base import Section
from catalog.study.small_file import read_small

_MOST_BYTES = 1024 * 1024
_AGAINST = re.compile(r"\$against\b")


class Check(Section):
    """A [[check]]: its name, and the query for what should not be there."""

    name: str = Field(min_length=1)
    """For a person: what holds if no row comes."""
    query: str = Field(min_length=1)
    """One SELECT; each row that it returns is a failure."""


class _File(Section):
    check: Annotated[tuple[Check, ...], Field(strict=False, min_length=1)]


@dataclass(frozen=True)
class Checked:
    """The result of a check."""

    name: str
    state: Literal["ok", "failed", "error"]
    """error: its query could not be run."""
    failed: int = 0
    """Rows that it returned."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """The first of them."""
    problem: str | None = None


def read_checks(path: str | Path) -> tuple[Check, ...]:
    """The checks of a TOML file. Raises InputError with every mistake in it."""
    try:
        raw = tomllib.loads(read_small(path, "the checks", _MOST_BYTES).decode("utf-8-sig"))
        checks = _File.model_validate(raw).check
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        mistakes = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise InputError(f"{path} holds no checks as [[check]] with name and query: {mistakes}") from error
    names = [check.name for check in checks]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{path} has two checks with the name {twice!r}: give one another name")
    return checks


def run_checks(
    location: Location,
    checks: tuple[Check, ...],
    *,
    against: str | None = None,
    at: str | None = None,
    most: int = 10,
    timeout: float | None = None,
) -> Iterator[Checked]:
    """Each check in its order, with at most `most` of its rows; `against` and `at` are snapshots or tags.

    A query that is refused or stopped, or asks for $against where none is given, is an error of its own check, and the
    others go on. Raises CatalogError and UnknownName as opening the catalog at these snapshots does.
    """
    with Catalog(location, read_only=True) as catalog:
        now = catalog.newest() if at is None else resolve(catalog, at)
        then = None if against is None else resolve(catalog, against)
    for check in checks:
        yield _run(location, check, now, then, most, timeout)


def _run(location: Location, check: Check, now: int, then: int | None, most: int, timeout: float | None) -> Checked:
    from queries.ask.door import ask

    asked = bool(_AGAINST.search(check.query))
    if asked and then is None:
        return Checked(check.name, "error", problem="it compares with an earlier snapshot: name one with --against")
    try:
        batches = ask(location, check.query, {"against": then} if asked else None, at=now, timeout=timeout)
        rows: list[dict[str, Any]] = []
        count = 0
        for batch in batches:
            rows += islice(batch.to_pylist(), max(most - len(rows), 0))
            count += batch.num_rows
    except SaeqlError as error:
        return Checked(check.name, "error", problem=str(error))
    return Checked(check.name, "failed" if count else "ok", count, rows)
