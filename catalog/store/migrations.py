"""Runs the migrations that a catalog lacks, in one transaction: each `schema/NNNN_name.sql` once, with its record."""

from contextlib import suppress
from importlib import resources

import duckdb

from catalog.quote import TABLES
from catalog.store.connection import SEARCH_PATH
from catalog.trust.schema_number import newer_schema, schema_folder

_RECORD = "CREATE TABLE IF NOT EXISTS migrations (number INTEGER NOT NULL, name VARCHAR NOT NULL)"
_DOCUMENTED = 13
"""The migration from which on `columns_doc` has the comments of tables too."""


def migrations() -> list[tuple[int, str, str]]:
    """(number, name, SQL) of each migration that this version of saeql knows, in order."""
    folder = schema_folder()
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(int(name[:4]), name.removesuffix(".sql"), (folder / name).read_text()) for name in names]


def newest() -> int:
    """Number of the newest schema that this version of saeql knows."""
    return migrations()[-1][0]


def applied(connection: duckdb.DuckDBPyConnection, *, at_newest: bool = False) -> int:
    """Number of the newest migration in the catalog, 0 for a new one.

    `at_newest` looks past the snapshot that the connection was opened at. Raises CatalogError if the catalog was
    made by a newer version of saeql.
    """
    # DuckLake's own table of tables: duckdb_tables() reads every table's columns first, 0.2 s.
    there = connection.execute(
        f"SELECT 1 FROM {TABLES}.ducklake_table WHERE table_name = 'migrations' AND end_snapshot IS NULL"
    ).fetchall()
    if not there:
        return 0
    at = ""
    if at_newest:
        last = connection.execute("SELECT max(snapshot_id) FROM lake.snapshots()").fetchall()[0][0]
        at = f" AT (VERSION => {int(last)})"
    found = int(connection.execute(f"SELECT coalesce(max(number), 0) FROM lake.migrations{at}").fetchall()[0][0])
    known = newest()
    if found > known:
        raise newer_schema(found, known)
    return found


def migrate(connection: duckdb.DuckDBPyConnection, *, until: int | None = None) -> list[str]:
    """Bring the catalog to the newest schema, or to schema `until`; returns the names of the migrations that ran.

    They run in one transaction: a commit for each makes a new catalog take four times as long.
    """
    done = applied(connection)
    waiting = [m for m in migrations() if m[0] > done and (until is None or m[0] <= until)]
    names = [name for _, name, _ in waiting]
    if not waiting:
        return names
    # A migration makes tables and views: they belong into the lake, not into the engine's own schema.
    connection.execute("USE lake")
    connection.execute("BEGIN")
    try:
        connection.execute(_RECORD)
        for number, name, sql in waiting:
            connection.execute(sql)
            if number >= _DOCUMENTED:
                connection.execute((resources.files("catalog.store") / "sql" / "documentation.sql").read_text())
            connection.execute("INSERT INTO migrations VALUES (?, ?)", [number, name])
        said = f"migration {names[0]}" if len(names) == 1 else f"migrations {names[0]} to {names[-1]}"
        connection.execute("CALL lake.set_commit_message('saeql', ?)", [said])
        connection.execute("COMMIT")
    except BaseException:
        with suppress(duckdb.TransactionException):  # a COMMIT that failed has undone itself
            connection.execute("ROLLBACK")
        raise
    finally:
        connection.execute(SEARCH_PATH)
    return names
