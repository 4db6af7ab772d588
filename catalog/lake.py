"""A DuckDB connection with the catalog's DuckLake attached: extensions by file, no network, no autoload."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import duckdb

from catalog.errors import CatalogError
from catalog.location import METADATA, Location

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


def connect(
    location: Location, *, read_only: bool, create: bool = False, snapshot: int | None = None
) -> duckdb.DuckDBPyConnection:
    """Attach the catalog as `lake` and make it the default database; `create` makes its metadata if there is none.

    With `snapshot`, tables and views are those of that snapshot. The data path is given anew each time, so that
    the directory can be moved. Raises CatalogError with the engine's reason if the metadata cannot be opened.
    """
    root, server = location.root, location.server
    connection = duckdb.connect(
        config={
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "memory_limit": os.environ.get("SAEQL_MEMORY", "4GB"),
            "threads": os.environ.get("SAEQL_THREADS", str(os.cpu_count() or 1)),
        }
    )
    kind = "postgres" if server else "sqlite"
    # On a terminal the engine would draw a bar of its own into the output.
    connection.execute("SET enable_progress_bar = false")
    connection.execute(f"LOAD {quoted(_extension_file(f'duckdb_extension_{kind}_scanner', f'{kind}_scanner'))}")
    connection.execute(f"LOAD {quoted(_extension_file('duckdb_extension_ducklake', 'ducklake'))}")
    # Set by the process of a user's query, so that what it spilled can be removed if it is killed.
    spill = os.environ.get("SAEQL_SPILL") or root / "cache" / "spill"
    connection.execute(f"SET temp_directory = {quoted(spill)}")
    options = [
        f"DATA_PATH {quoted(str(root / DATA) + '/')}",
        "OVERRIDE_DATA_PATH true",
        "DATA_INLINING_ROW_LIMIT 0",
        f"CREATE_IF_NOT_EXISTS {create}",
    ]
    if server:
        metadata = server.parameters(read_only=read_only)
        if server.password:
            # Not in the connection string, which the engine shows in errors and lists of databases.
            connection.execute(f"CREATE TEMPORARY SECRET saeql (TYPE postgres, PASSWORD {quoted(server.password)})")
            options.append("META_SECRET 'saeql'")
    else:
        metadata = str(root / METADATA)
        options.append(f"META_BUSY_TIMEOUT {BUSY_MS}")
        if create:
            # It stays in the file. Set again by each connection, it waits a second where another one commits.
            options.append("META_JOURNAL_MODE 'WAL'")
    if read_only:
        options.append("READ_ONLY")
    if snapshot is not None:
        options.append(f"SNAPSHOT_VERSION {int(snapshot)}")
    try:
        connection.execute(f"ATTACH {quoted(f'ducklake:{kind}:{metadata}')} AS lake ({', '.join(options)})")
    except duckdb.Error as error:
        connection.close()
        if server:
            raise unreachable(location, error) from error
        raise CatalogError(f"the catalog {root} cannot be opened: {error}") from error
    connection.execute("USE lake")
    return connection


def beside(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Another connection to the same engine, with the settings that belong to a connection."""
    other = connection.cursor()
    other.execute("SET enable_progress_bar = false")
    other.execute("USE lake")
    return other


_ADVICE = {
    "password": "set PGPASSWORD to the right one",
    "does not exist": "make it with `createdb`, or correct the catalog's address",
    "permission denied": "ask for the right to use it, or name another user in the catalog's address",
}
_LOST = ("server closed the connection", "no connection to the server", "terminating connection", "Unable to connect")


def unreachable(location: Location, error: duckdb.Error) -> CatalogError:
    """The engine's error about the server of the metadata as ours: which database, why, what to do."""
    said = str(error)
    if "creating a new DuckLake" in said:
        return CatalogError(f"{location.server} holds no catalog: make one with `saeql init '{location}'`")
    advice = next((text for part, text in _ADVICE.items() if part in said), "see that the server runs and answers here")
    # The reason follows the connection string.
    reason = " ".join(said.rpartition('": ')[2].split())
    if location.server and location.server.password:
        reason = reason.replace(location.server.password, "***")
    return CatalogError(f"the catalog's metadata, {location.server}, cannot be used: {reason}; {advice}")


@contextmanager
def answered(location: Location) -> Iterator[None]:
    """Raise CatalogError, with the server's address, for a statement that failed because its server is gone."""
    try:
        yield
    except duckdb.Error as error:
        if location.server and any(sign in str(error) for sign in _LOST):
            raise unreachable(location, error) from error
        raise
