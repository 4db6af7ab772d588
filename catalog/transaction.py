"""What can be done to the tables inside one snapshot: replace rows by key, register a Parquet file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from catalog.errors import CatalogError, StepError
from catalog.lake import TABLES, quoted


@dataclass(frozen=True)
class Changes:
    """Rows of one table that a write touched."""

    added: int
    changed: int
    removed: int

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)


def named(name: str) -> str:
    """A SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def content(rows: str) -> str:
    """SQL for the digest of the rows of a relation with this alias: a sum, since rows have no order."""
    return f"coalesce(sum(md5_number_lower({rows}::VARCHAR)), 0)::VARCHAR"


class Transaction:
    """Handed out by `Catalog.write`; `changed` says whether there is anything to commit."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, data: Path, details: dict[str, Any], begun: int):
        self.connection = connection
        self.begun = begun
        """The snapshot that is seen."""
        self.data = data
        self.details = details
        self.changed = False
        self._registered: set[Path] = set()

    def execute(self, sql: str, parameters: list[Any] | dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Run a trusted statement that changes rows."""
        self.changed = True
        return self.connection.execute(sql, parameters or []).fetchall()

    def insert(self, table: str, rows: list[dict[str, Any]]) -> None:
        """Append a few rows, by column name."""
        for row in rows:
            names, marks = ", ".join(map(named, row)), ", ".join("?" * len(row))
            self.execute(f"INSERT INTO lake.{named(table)} ({names}) VALUES ({marks})", list(row.values()))

    def replace(self, table: str, fresh: str, key: list[str], scope: str = "true") -> Changes:
        """Make the rows of `table` within `scope` equal to those of the temporary table `fresh`.

        Only rows that are new, changed or gone are touched. `key` are the columns that identify a row;
        `scope` is a trusted predicate over the columns of `table`. Raises StepError as `compare` does.
        """
        found = compare(self.connection, table, fresh, key, scope)
        keys, listed = ", ".join(map(named, key)), ", ".join(map(named, found.columns))
        if found.changes.changed or found.changes.removed:
            # Found within the scope, and by keys that nothing outside of it has.
            old = f"({keys}) IN (SELECT ({keys}) FROM {_DIFFERING} WHERE _state <> 'added')"
            self.execute(f"DELETE FROM lake.{named(table)} WHERE {old}")
        if found.changes.added or found.changes.changed:
            new = f"SELECT {listed} FROM {_DIFFERING} WHERE _state <> 'removed' ORDER BY {keys}"
            self.execute(f"INSERT INTO lake.{named(table)} ({listed}) {new}")
        return found.changes

    def register(self, table: str, path: Path) -> None:
        """Add a Parquet file under `data/main/<table>/` to `table`.

        Raises CatalogError if the file was ever registered before: its rows would be there twice. The same if it
        lies elsewhere: DuckLake keeps such a path as an absolute one, which breaks when the catalog is moved.
        """
        home = self.data / "main" / table
        if not path.is_relative_to(home):
            raise CatalogError(f"{path} cannot be registered: the files of {table} belong under {home}")
        # DuckLake's own list also has the files whose rows were deleted: the clean-up unlinks those some day.
        known = f"SELECT count(*) FROM {TABLES}.ducklake_data_file WHERE path = ?"
        if path in self._registered or self._number(known, [str(path.relative_to(home))]):
            raise CatalogError(f"{path} was registered before: a shard file is never registered twice")
        self._registered.add(path)
        self.execute(f"CALL ducklake_add_data_files('lake', {quoted(table)}, {quoted(path)})")

    def _number(self, sql: str, parameters: list[Any] | None = None) -> int:
        row = self.connection.execute(sql, parameters or []).fetchone()
        return int(row[0]) if row else 0


_DIFFERING = "_differing"
"""The temporary table of rows in which `fresh` and the table differ, until the next comparison on the connection.

`_state` is added, changed (the new row) or removed (its key alone).
"""


@dataclass(frozen=True)
class Comparison:
    """How rows that were made differ from those that are there."""

    columns: tuple[str, ...]
    changes: Changes
    same: int
    """Rows that are there already."""


def compare(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    fresh: str,
    key: list[str],
    scope: str = "true",
    there: str | None = None,
) -> Comparison:
    """Compare the rows of the temporary table `fresh` with those of `table` within `scope`.

    `there` is a relation to compare with instead of the table itself; it and `scope` are trusted SQL. Raises
    StepError if a key is NULL or stands twice, with an example, or if a fresh row lies outside of `scope`, where the
    next run would not see it.
    """
    made = _checked(connection, table, fresh, key, scope)
    there = there or f"lake.{named(table)}"
    described = connection.execute(f"DESCRIBE {there}").fetchall()
    columns = tuple(row[0] for row in described)
    listed, other = ", ".join(map(named, columns)), [named(name) for name in columns if name not in key]
    # In the table's types: a DOUBLE differs from the FLOAT that it was stored as, in every run again.
    cast = ", ".join(f"CAST({named(row[0])} AS {row[1]}) AS {named(row[0])}" for row in described)
    first, same = named(key[0]), " AND ".join(f"x.{named(k)} = o.{named(k)}" for k in key)
    state = f"CASE WHEN o.{first} IS NULL THEN 'added' WHEN x.{first} IS NULL THEN 'removed' ELSE 'changed' END"
    shown = [f"coalesce(x.{named(k)}, o.{named(k)}) AS {named(k)}" for k in key] + [f"x.{name}" for name in other]
    differ = " OR ".join(f"x.{name} IS DISTINCT FROM o.{name}" for name in other) or "false"
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE {_DIFFERING} AS SELECT {', '.join(shown)}, {state} AS _state "
        f"FROM (SELECT {cast} FROM {fresh}) AS x FULL JOIN (SELECT {listed} FROM {there} WHERE {scope}) AS o ON {same} "
        f"WHERE x.{first} IS NULL OR o.{first} IS NULL OR {differ}"
    )
    counts = dict(connection.execute(f"SELECT _state, count(*) FROM {_DIFFERING} GROUP BY _state").fetchall())
    added, changed, removed = (int(counts.get(name, 0)) for name in ("added", "changed", "removed"))
    return Comparison(columns, Changes(added, changed, removed), made - added - changed)


def _checked(connection: duckdb.DuckDBPyConnection, table: str, fresh: str, key: list[str], scope: str) -> int:
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
