"""Compares the rows that a step made with the rows of its table, by key."""

from dataclasses import dataclass

import duckdb

from catalog.errors import StepError
from catalog.quote import named
from catalog.store.scratch import Relation, Scratch


@dataclass(frozen=True)
class Changes:
    """Rows of one table that a write touched."""

    added: int
    changed: int
    removed: int

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)

    def __add__(self, more: "Changes") -> "Changes":
        return Changes(self.added + more.added, self.changed + more.changed, self.removed + more.removed)


NONE = Changes(0, 0, 0)


@dataclass(frozen=True)
class Comparison:
    """How rows that were made differ from those that are there."""

    columns: tuple[str, ...]
    changes: Changes
    same: int
    """Rows that are there already."""
    differing: Relation
    """The rows that differ, with `_state`: added, changed (the new row) or removed (its key alone)."""


def compare(
    scratch: Scratch, table: str, fresh: Relation, key: list[str], scope: str = "true", there: str | None = None
) -> Comparison:
    """Compare the rows of `fresh` with those of `table` within `scope`.

    `there` is a relation to compare with instead of the table itself; it and `scope` are trusted SQL. Raises
    StepError if a key is NULL or stands twice, with an example, or if a fresh row lies outside of `scope`, where the
    next run would not see it.
    """
    connection = scratch.connection
    made = _checked(connection, table, fresh, key, scope)
    there = there or f"lake.main.{named(table)}"
    described = [(row[0], row[1]) for row in connection.execute(f"FROM {there} LIMIT 0").description or []]
    columns = tuple(name for name, _ in described)
    listed, other = ", ".join(map(named, columns)), [named(name) for name in columns if name not in key]
    # In the table's types: a DOUBLE differs from the FLOAT that it was stored as, in every run again.
    cast = ", ".join(f"CAST({named(name)} AS {kind}) AS {named(name)}" for name, kind in described)
    first, same = named(key[0]), " AND ".join(f"x.{named(k)} = o.{named(k)}" for k in key)
    state = f"CASE WHEN o.{first} IS NULL THEN 'added' WHEN x.{first} IS NULL THEN 'removed' ELSE 'changed' END"
    shown = [f"coalesce(x.{named(k)}, o.{named(k)}) AS {named(k)}" for k in key] + [f"x.{name}" for name in other]
    differ = " OR ".join(f"x.{name} IS DISTINCT FROM o.{name}" for name in other) or "false"
    differing = scratch.query(
        f"SELECT {', '.join(shown)}, {state} AS _state "
        f"FROM (SELECT {cast} FROM {fresh}) AS x FULL JOIN (SELECT {listed} FROM {there} WHERE {scope}) AS o ON {same} "
        f"WHERE x.{first} IS NULL OR o.{first} IS NULL OR {differ}"
    )
    counts = dict(connection.execute(f"SELECT _state, count(*) FROM {differing} GROUP BY _state").fetchall())
    added, changed, removed = (int(counts.get(name, 0)) for name in ("added", "changed", "removed"))
    return Comparison(columns, Changes(added, changed, removed), made - added - changed, differing)


def _checked(connection: duckdb.DuckDBPyConnection, table: str, fresh: Relation, key: list[str], scope: str) -> int:
    """The number of rows in `fresh`. Raises StepError as `compare` says."""
    keys = ", ".join(map(named, key))
    null = " OR ".join(f"{named(k)} IS NULL" for k in key)
    counted = f"SELECT count(*), count(*) FILTER ({null}), count(*) FILTER (({scope}) IS NOT true) FROM {fresh}"
    made, missing, outside = connection.execute(counted).fetchall()[0]
    if missing:
        raise StepError(f"{missing} rows for {table} have no value in one of the key columns {', '.join(key)}")
    if outside:
        raise StepError(f"{outside} rows for {table} lie outside of what this step writes: {scope}")
    twice = connection.execute(
        f"SELECT {keys}, count(*) AS copies FROM {fresh} GROUP BY {keys} HAVING copies > 1 LIMIT 1"
    ).fetchone()
    if twice:
        where = ", ".join(f"{k} = {v!r}" for k, v in zip(key, twice, strict=False))
        raise StepError(f"{twice[-1]} rows for {table} have the same key: {where}")
    return int(made)
