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


class Transaction:
    """Handed out by `Catalog.write`; `changed` says whether there is anything to commit."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, data: Path, details: dict[str, Any]):
        self.connection = connection
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
        `scope` is a trusted predicate over the columns of `table`. Raises StepError if a key is NULL or stands
        twice, with an example, or if a fresh row lies outside of `scope`, where the next run would not see it.
        """
        keys = ", ".join(map(named, key))
        self._check_keys(table, fresh, key)
        outside = self._number(f"SELECT count(*) FROM {fresh} WHERE ({scope}) IS NOT true")
        if outside:
            raise StepError(f"{outside} rows for {table} lie outside of what this step writes: {scope}")
        columns = self.connection.execute(f"DESCRIBE lake.{named(table)}").fetchall()
        listed = ", ".join(named(column[0]) for column in columns)
        # In the table's types: a DOUBLE differs from the FLOAT that it was stored as, in every run again.
        cast = ", ".join(f"CAST({named(column[0])} AS {column[1]}) AS {named(column[0])}" for column in columns)
        there = f"SELECT {listed} FROM lake.{named(table)} WHERE {scope}"
        if not self._number(f"SELECT count(*) FROM lake.{named(table)} WHERE {scope}"):
            added = self._number(f"SELECT count(*) FROM {fresh}")
            if added:
                self.execute(f"INSERT INTO lake.{named(table)} ({listed}) SELECT {cast} FROM {fresh} ORDER BY {keys}")
            return Changes(added, 0, 0)
        self.connection.execute(
            f"CREATE OR REPLACE TEMP TABLE _touched AS SELECT {cast} FROM {fresh} EXCEPT ({there})"
        )
        same = " AND ".join(f"x.{named(k)} = o.{named(k)}" for k in key)
        self.connection.execute(
            f"CREATE OR REPLACE TEMP TABLE _stale AS SELECT {keys} FROM ({there}) AS o "
            f"WHERE EXISTS (FROM _touched AS x WHERE {same}) OR NOT EXISTS (FROM {fresh} AS x WHERE {same})"
        )
        touched = self._number("SELECT count(*) FROM _touched")
        stale = self._number("SELECT count(*) FROM _stale")
        changed = self._number(f"SELECT count(*) FROM _touched AS x WHERE EXISTS (FROM _stale AS o WHERE {same})")
        if stale:
            stale_keys = f"({keys}) IN (SELECT ({keys}) FROM _stale)"
            self.execute(f"DELETE FROM lake.{named(table)} WHERE ({scope}) AND {stale_keys}")
        if touched:
            self.execute(f"INSERT INTO lake.{named(table)} ({listed}) SELECT {listed} FROM _touched ORDER BY {keys}")
        return Changes(touched - changed, changed, stale - changed)

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

    def _check_keys(self, table: str, fresh: str, key: list[str]) -> None:
        keys = ", ".join(map(named, key))
        null = " OR ".join(f"{named(k)} IS NULL" for k in key)
        missing = self._number(f"SELECT count(*) FROM {fresh} WHERE {null}")
        if missing:
            raise StepError(f"{missing} rows for {table} have no value in one of the key columns {', '.join(key)}")
        twice = self.connection.execute(
            f"SELECT {keys}, count(*) AS copies FROM {fresh} GROUP BY {keys} HAVING copies > 1 LIMIT 1"
        ).fetchone()
        if twice:
            where = ", ".join(f"{k} = {v!r}" for k, v in zip(key, twice, strict=False))
            raise StepError(f"{twice[-1]} rows for {table} have the same key: {where}")

    def _number(self, sql: str, parameters: list[Any] | None = None) -> int:
        row = self.connection.execute(sql, parameters or []).fetchone()
        return int(row[0]) if row else 0
