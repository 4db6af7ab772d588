"""Changes tables inside one snapshot: replaces rows by key, registers Parquet files."""

from pathlib import Path
from typing import Any

import duckdb

from catalog.errors import CatalogError
from catalog.quote import TABLES, named, quoted
from catalog.store.comparison import Changes, compare
from catalog.store.scratch import Relation, Scratch


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

    def rows(self, sql: str, parameters: list[Any] | dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """All rows of a trusted query, as this transaction sees them; it changes nothing."""
        return self.connection.execute(sql, parameters or []).fetchall()

    def execute(self, sql: str, parameters: list[Any] | dict[str, Any] | None = None) -> None:
        """Run a trusted statement that changes rows."""
        self.changed = True
        self.connection.execute(sql, parameters or []).fetchall()

    def insert(self, table: str, rows: list[dict[str, Any]]) -> None:
        """Append a few rows, by column name."""
        for row in rows:
            names, marks = ", ".join(map(named, row)), ", ".join("?" * len(row))
            self.execute(f"INSERT INTO lake.{named(table)} ({names}) VALUES ({marks})", list(row.values()))

    def replace(
        self, table: str, fresh: Relation | list[dict[str, Any]], key: list[str], scope: str = "true"
    ) -> Changes:
        """Make the rows of `table` within `scope` equal to those of `fresh`.

        Only rows that are new, changed or gone are touched. `key` are the columns that identify a row;
        `scope` is a trusted predicate over the columns of `table`. Raises StepError as `compare` does.
        """
        with Scratch(self.connection) as scratch:
            made = fresh if isinstance(fresh, Relation) else scratch.rows(fresh, like=table)
            found = compare(scratch, table, made, key, scope)
            keys, listed = ", ".join(map(named, key)), ", ".join(map(named, found.columns))
            if found.changes.changed or found.changes.removed:
                # Found within the scope, and by keys that nothing outside of it has.
                old = f"({keys}) IN (SELECT ({keys}) FROM {found.differing} WHERE _state <> 'added')"
                self.execute(f"DELETE FROM lake.{named(table)} WHERE {old}")
            if found.changes.added or found.changes.changed:
                new = f"SELECT {listed} FROM {found.differing} WHERE _state <> 'removed' ORDER BY {keys}"
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
        if path in self._registered or self.rows(known, [str(path.relative_to(home))]) != [(0,)]:
            raise CatalogError(f"{path} was registered before: a shard file is never registered twice")
        self._registered.add(path)
        self.execute(f"CALL ducklake_add_data_files('lake', {quoted(table)}, {quoted(path)})")
