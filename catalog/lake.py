"""A DuckDB connection with the catalog's DuckLake attached: extensions by file, no network, no autoload."""

import importlib.util
import os
from functools import cache
from pathlib import Path

import duckdb

from catalog.errors import CatalogError

METADATA = "catalog.sqlite"
DATA = "data"
TABLES = "__ducklake_metadata_lake"
"""The database of DuckLake's own tables. They are named without a schema, which differs with its kind."""
BUSY_MS = 10_000


@cache
def _extension_file(package: str, name: str) -> str:
    """The extension that a `duckdb-extension-*` package carries, found without importing it."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for found in Path(folder).rglob(f"{name}.duckdb_extension"):
            return str(found)
    raise CatalogError(
        f"the DuckDB extension {name!r} is missing: install the package "
        f"{package.replace('_', '-')}=={duckdb.__version__}"
    )


def quoted(text: str | Path) -> str:
    """A SQL string literal."""
    return "'" + str(text).replace("'", "''") + "'"


def connect(root: Path, *, read_only: bool, snapshot: int | None = None) -> duckdb.DuckDBPyConnection:
    """Attach the catalog under `root` as `lake` and make it the default database.

    With `snapshot`, tables and views are those of that snapshot. The data path is given anew each time, so that
    the directory can be moved. Raises CatalogError with the engine's reason if the metadata cannot be opened.
    """
    connection = duckdb.connect(
        config={
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "memory_limit": os.environ.get("SAEQL_MEMORY", "4GB"),
            "threads": os.environ.get("SAEQL_THREADS", str(os.cpu_count() or 1)),
        }
    )
    connection.execute(f"LOAD {quoted(_extension_file('duckdb_extension_sqlite_scanner', 'sqlite_scanner'))}")
    connection.execute(f"LOAD {quoted(_extension_file('duckdb_extension_ducklake', 'ducklake'))}")
    connection.execute(f"SET temp_directory = {quoted(root / 'cache' / 'spill')}")
    options = [
        f"DATA_PATH {quoted(str(root / DATA) + '/')}",
        "OVERRIDE_DATA_PATH true",
        "META_JOURNAL_MODE 'WAL'",
        f"META_BUSY_TIMEOUT {BUSY_MS}",
        "DATA_INLINING_ROW_LIMIT 0",
    ]
    if read_only:
        options.append("READ_ONLY")
    if snapshot is not None:
        options.append(f"SNAPSHOT_VERSION {int(snapshot)}")
    try:
        connection.execute(f"ATTACH {quoted(f'ducklake:sqlite:{root / METADATA}')} AS lake ({', '.join(options)})")
    except duckdb.Error as error:
        connection.close()
        raise CatalogError(f"the catalog {root} cannot be opened: {error}") from error
    connection.execute("USE lake")
    return connection
