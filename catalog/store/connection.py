"""Opens DuckDB with the catalog's DuckLake attached: extensions by file, no network, no autoload.

The engine does not check the signatures of the extensions that pip installed beside the engine itself. To check them
takes 0.3 s at each opening, and guards nothing: who can change those two files can change DuckDB's own library in the
folder next to them, which Python loads unchecked, and this module as well. Extensions that lie elsewhere are checked.
After the opening nobody loads anything: `enable_external_access` is off, and `queries.ask.guard` refuses LOAD.
"""

import atexit
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import duckdb

from catalog.errors import CatalogError, CatalogLocked, ForeignCatalog, InputError, SaeqlError, first_line
from catalog.quote import quoted
from catalog.store.location import METADATA, Location
from catalog.trust.metadata import mistakes
from catalog.trust.paths import FOLLOW, follows, links

DATA = "data"
SEARCH_PATH = "SET search_path = 'system.main,lake.main'"
"""A name without a database is the engine's before it is the catalog's: a catalog cannot redefine `max`."""
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


def _beside_engine(extension: str) -> bool:
    """Whether an extension's file was installed into the folder of packages that DuckDB itself was loaded from."""
    packages = Path(duckdb.__file__).resolve().parents[1]
    return Path(extension).resolve().is_relative_to(packages)


def connect(
    location: Location, *, read_only: bool, create: bool = False, snapshot: int | None = None
) -> duckdb.DuckDBPyConnection:
    """Attach the catalog as `lake` and search names in it; `create` makes its metadata if there is none.

    With `snapshot`, tables and views are those of that snapshot. The data path is given anew each time, so that
    the directory can be moved; metadata in a read-only folder is read from a copy. Afterwards the engine reaches files
    under data/ alone. Raises ForeignCatalog, before any table is read, if the folder or the metadata holds what saeql
    never puts there; CatalogError with the engine's reason if the metadata cannot be opened.
    """
    root, server = location.root, location.server
    check_folder(root)
    kind = "postgres" if server else "sqlite"
    extensions = [
        _extension_file(f"duckdb_extension_{kind}_scanner", f"{kind}_scanner"),
        _extension_file("duckdb_extension_ducklake", "ducklake"),
    ]
    connection = _engine(unsigned=all(map(_beside_engine, extensions)))
    # On a terminal the engine would draw a bar of its own into the output.
    connection.execute("SET enable_progress_bar = false")
    for extension in extensions:
        connection.execute(f"LOAD {quoted(extension)}")
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
        metadata = str(_reachable(root, read_only=read_only))
        _check_sqlite(connection, root, metadata)
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
        raise damaged(location, error) from error
    try:
        found = mistakes(connection)
        if found:
            raise ForeignCatalog.of(f"the catalog {location}", found)
        _lock_down(connection, root)
        connection.execute(SEARCH_PATH)
    except duckdb.Error as error:
        connection.close()
        raise (unreachable if server else damaged)(location, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _reachable(root: Path, *, read_only: bool) -> Path:
    """The SQLite file of the metadata; in a folder that cannot be written, where SQLite cannot read it, a copy of it.

    SQLite keeps a file of locks beside it. Raises CatalogError if such a catalog is to be written.
    """
    path = root / METADATA
    if os.access(root, os.W_OK) or not path.is_file():
        return path
    if not read_only:
        raise CatalogError(f"the catalog {root} cannot be written: its folder is read-only; copy it to where it can be")
    folder = Path(tempfile.mkdtemp(prefix="saeql-read-only-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name in (METADATA, f"{METADATA}-wal"):
        with suppress(FileNotFoundError):
            shutil.copyfile(root / name, folder / name)
    return folder / METADATA


def _engine(*, unsigned: bool) -> duckdb.DuckDBPyConnection:
    """An engine within the bounds of SAEQL_MEMORY and SAEQL_THREADS. Raises InputError if one of them is none.

    `unsigned` has it load extensions without checking their signatures.
    """
    bounds = {
        "SAEQL_MEMORY": ("memory_limit", os.environ.get("SAEQL_MEMORY") or "4GB", "a size such as 4GB"),
        "SAEQL_THREADS": ("threads", os.environ.get("SAEQL_THREADS") or str(os.cpu_count() or 1), "1 or more"),
    }
    connection = duckdb.connect(
        config={
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_unsigned_extensions": unsigned,
            "threads": "1",
        }
    )
    for variable, (setting, value, form) in bounds.items():
        try:
            connection.execute(f"SET {setting} = {quoted(value)}")
        except (duckdb.Error, UnicodeError) as error:
            connection.close()
            raise InputError(f"{variable} is {value!r}; it is to be {form}: {first_line(error)}") from error
    return connection


def check_folder(root: Path) -> None:
    """Raise ForeignCatalog for links and the like, which the engine would follow out of the folder."""
    found = [] if follows() else [said for said, _ in zip(links(root), range(20), strict=False)]
    if found:
        advice = f"put the files themselves there, or set {FOLLOW}=1 if the links are yours"
        raise ForeignCatalog.of(f"the folder {root}", found, advice)


def _check_sqlite(connection: duckdb.DuckDBPyConnection, root: Path, metadata: str) -> None:
    """Raise ForeignCatalog for what SQLite itself would run as DuckLake reads and writes: views, triggers and the like.

    Before DuckLake looks: a view in place of one of its tables might never end.
    """
    if not Path(metadata).exists():
        return  # it is about to be made
    try:
        rows = connection.execute(
            f"SELECT type, name FROM sqlite_scan({quoted(metadata)}, 'sqlite_master') "
            "WHERE type NOT IN ('table', 'index') OR sql ILIKE 'CREATE VIRTUAL%'"
        ).fetchall()
    except duckdb.Error:
        return  # DuckLake cannot read it either, and says why
    if rows:
        found = [f"{METADATA} holds a {kind} {name!r}, which neither saeql nor DuckLake makes" for kind, name in rows]
        connection.close()
        raise ForeignCatalog.of(f"the catalog {root}", found[:20])


def _lock_down(connection: duckdb.DuckDBPyConnection, root: Path) -> None:
    """No files but those under data/, no Python variables as tables; the engine does not take it back."""
    connection.execute("SET python_enable_replacements = false")
    connection.execute(f"SET allowed_directories = [{quoted(str(root / DATA) + '/')}]")
    connection.execute("SET enable_external_access = false")


def beside(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Another connection to the same engine, with the settings that belong to a connection."""
    other = connection.cursor()
    other.execute("SET enable_progress_bar = false")
    other.execute(SEARCH_PATH)
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
        # A full disk and a transaction that another one overtook are said by who writes.
        passing = isinstance(error, duckdb.TransactionException) or any(sign in str(error) for sign in FULL)
        if not passing and any(sign in str(error) for sign in _DAMAGED):
            raise damaged(location, error) from error
        raise


FULL = ("No space left", "disk is full")
"""Words of the system for a full disk, and words of SQLite, whose COMMIT then fails."""
_METADATA_DAMAGED = ("DuckLake", "malformed", "not a database", "unsuccessful query result", METADATA)
_DAMAGED = ("No such file or directory", "magic bytes", "Parquet", "parquet", *_METADATA_DAMAGED)
"""Words of the engine for a file that is gone or broken; it speaks of the metadata as DuckLake."""


def damaged(location: Location, error: Exception) -> SaeqlError:
    """The engine's error about a file of the catalog as ours: which catalog, why, what to do."""
    said, root = first_line(error), location.root
    if "creating a new DuckLake" in said:
        return CatalogError(
            f"{root} holds no whole catalog, as if its making was cut off: run what made it "
            f"(`saeql init`, `ingest` or `demo`) again, or put back {METADATA} from a copy"
        )
    if "is locked" in said:
        return CatalogLocked(f"the catalog {root} is held by another process: {said}; try again")
    if isinstance(error, duckdb.OutOfMemoryException):
        return CatalogError(f"the catalog {root} cannot be read in so little memory: raise SAEQL_MEMORY ({said})")
    if "read-only" in said or "readonly" in said:
        return CatalogError(f"the catalog {root} cannot be written here: {said}; copy it to where it can")
    if any(sign in said for sign in _METADATA_DAMAGED):
        said = said.replace("DuckLake", "the catalog")
        return CatalogError(f"the catalog {root} cannot be opened: {said}; put back {METADATA} from a copy")
    return CatalogError(f"a file of the catalog {root} is lost or damaged: {said}; `saeql doctor` names all such files")
