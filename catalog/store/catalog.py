"""Opens, reads and writes a catalog: DuckLake tables, Lance vectors and weights in one directory, one commit point.

A snapshot of DuckLake is the only thing that makes results visible. Whatever else belongs to it (Parquet
shards, Lance versions, weights) is on disk, whole and under a fresh name, before the commit that names it.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path

import duckdb

from catalog.errors import CatalogError, InputError, UnknownName
from catalog.quote import TABLES
from catalog.store.commits import COMMIT_WAIT_SECONDS, WRITING, Commits
from catalog.store.connection import DATA, answered, beside, check_folder, connect
from catalog.store.location import METADATA, Location
from catalog.store.locks import locked, shared
from catalog.store.migrations import applied, migrate, newest
from catalog.store.scratch import Scratch
from catalog.store.snapshots import resolve
from catalog.trust.paths import inside
from catalog.trust.schema_number import check_definitions

_ROW_CHANGES = ("inserted_into_table", "deleted_from_table")


class Catalog(Commits):
    """A catalog on disk. `Catalog.create(path)` makes one, `Catalog(path)` opens one."""

    def __init__(self, root: str | Path | Location, *, read_only: bool = False, snapshot: int | None = None):
        """Open the catalog in the folder or at the address `root`, for reading also as it was at `snapshot`.

        Raises CatalogError if there is none, if it is from a newer version, or if its server does not answer;
        InputError for an address with mistakes; UnknownName, with the snapshots that there are, if `snapshot` is
        not one of them.
        """
        self.location = Location.parse(root).absolute()
        self.root = self.location.root
        self.read_only = read_only
        self.at = snapshot
        if snapshot is not None and not read_only:
            raise CatalogError(f"snapshot {snapshot} can be read, not written: open it with read_only=True")
        if self.location.server is None and not (self.root / METADATA).exists():
            raise CatalogError(f"{self.root} holds no catalog: make one with `saeql demo` or `saeql init`")
        self.location.check_folder()
        if self.location.server and not self.data.is_dir():
            raise CatalogError(f"{self.data} is missing: is {self.root} the folder of this catalog, and mounted?")
        try:
            self.connection = connect(self.location, read_only=read_only, snapshot=snapshot)
        except CatalogError:
            if snapshot is not None:
                self._check_snapshot(snapshot)
            raise
        try:
            with answered(self.location):
                self.schema = applied(self.connection, at_newest=snapshot is not None)
                """Number of the newest migration; a catalog of an older version is brought up to date by writers."""
            if not self.schema and read_only:
                raise CatalogError(
                    f"{self.root} holds no whole catalog, as if its making was cut off: run what made it "
                    "(`saeql init`, `ingest` or `demo`) again"
                )
        except BaseException:
            self.connection.close()
            raise
        # Named by its address, or by a folder whose address was named before: `Location.parse` lets no other by.
        self.location.allow()
        self._tables: dict[str, str] = {}
        """Names of tables by their numbers, as far as they are known."""
        self._writing = False
        self._turn = threading.Lock()
        """Held by the thread that writes: SQLite undoes a transaction that another one has overtaken."""
        self.lock_seconds = 0.0
        """How long the last commit held the commit lock."""

    @classmethod
    def create(cls, root: str | Path | Location) -> "Catalog":
        """Make a catalog in the folder or at the address `root`, or open it and bring it to the newest schema.

        Raises CatalogError, before anything is changed, if the list of definitions is older than the migrations.
        """
        check_definitions()
        location = Location.parse(root).absolute()
        root = location.root
        location.check_folder()
        check_folder(root)
        try:
            for folder in (DATA, "vectors", "weights", "cache"):
                (root / folder).mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise InputError(f"{root} is a file, not a directory: name another place for the catalog") from error
        with locked(root / "commit.lock", wait=COMMIT_WAIT_SECONDS), shared(root / WRITING):
            connection = connect(location, read_only=False, create=True)
            try:
                migrate(connection)
            finally:
                connection.close()
            location.remember()
        return cls(location)

    @classmethod
    def writable(cls, root: str | Path | Location) -> "Catalog":
        """Open a catalog that is there for writing, and bring it to the newest schema. Raises as opening one does."""
        catalog = cls(root)
        if catalog.schema == newest():
            return catalog
        catalog.close()
        return cls.create(root)

    @property
    def outdated(self) -> str:
        """A sentence that says how a catalog of an older schema is brought up to date; empty for one of the newest."""
        last = newest()
        if self.schema >= last:
            return ""
        return (
            f"{self.root} has schema {self.schema} of {last}: it is of an older version, or its making was "
            "cut off; `saeql refresh` brings it up to date"
        )

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Raise UnknownName, with that sentence, for a name that is unknown where the schema is an older one."""
        try:
            yield
        except (UnknownName, duckdb.CatalogException, duckdb.BinderException) as error:
            # Another process may have brought the catalog up to date since it was opened here.
            with suppress(duckdb.Error):
                self.schema = applied(self.connection, at_newest=self.at is not None)
            if not self.outdated:
                raise
            said = str(error).partition("\n")[0]
            raise UnknownName(f"{said}; {self.outdated}") from error

    @property
    def data(self) -> Path:
        """Where DuckLake keeps its Parquet files."""
        return self.root / DATA

    @property
    def weights(self) -> Path:
        """Where SAEs are kept, a folder each."""
        return self.root / "weights"

    def weights_of(self, folder: str) -> Path:
        """The folder of an SAE's weights. Raises CatalogError for a name that leads elsewhere."""
        return inside(self.weights, folder)

    @property
    def cache(self) -> Path:
        """Residual activations and checkpoints: may be deleted."""
        return self.root / "cache"

    @property
    def vectors(self) -> Path:
        """Where the Lance collections are."""
        return self.root / "vectors"

    def beside(self) -> "Catalog":
        """The same catalog on a connection of its own, for another thread; of two that write one waits."""
        other = copy(self)
        other.connection, other._seen = beside(self.connection), None
        return other

    def close(self) -> None:
        """Close the engine's connection."""
        self.connection.close()

    def __enter__(self) -> "Catalog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def scratch(self) -> Scratch:
        """Temporary tables on this catalog's connection, for `with`."""
        return Scratch(self.connection)

    def _check_snapshot(self, snapshot: int) -> None:
        """Raise UnknownName with the list of snapshots where the engine would only say that there is none."""
        with Catalog(self.location, read_only=True) as now:
            resolve(now, snapshot)

    def snapshot(self) -> int:
        """Id of the snapshot that is read: the newest, unless the catalog was opened at another."""
        return self.newest() if self.at is None else self.at

    def seen(self) -> int:
        """Id of the snapshot that the open transaction sees; without one, that of the newest."""
        return self._first_look() if self._seen is None else self._seen

    def newest(self) -> int:
        """Id of the newest snapshot."""
        return int(self.value("SELECT max(snapshot_id) FROM lake.snapshots()"))

    def last_changes(self) -> dict[str, int]:
        """The snapshot that last changed the rows of each table, also where that one was expired since."""
        found = dict(
            self.rows(
                """
            WITH changes AS (
                SELECT
                    snapshot_id,
                    unnest(flatten(list_value(
                        coalesce(changes['tables_inserted_into'], []), coalesce(changes['tables_deleted_from'], [])
                    ))) AS id
                FROM lake.snapshots()
            )
            SELECT i.table_name, coalesce(max(c.snapshot_id), 0)
            FROM ducklake_table_info('lake') AS i LEFT JOIN changes AS c ON c.id = i.table_id::VARCHAR
            GROUP BY ALL
            """
            )
        )
        if "last_changes" in found:
            for table, snapshot in self.rows("FROM lake.last_changes"):
                found[table] = max(found.get(table, 0), snapshot)
        return found

    def changes_between(self, since: int, until: int) -> dict[str, int]:
        """The snapshot that last changed each table, of the snapshots after `since` up to `until`."""
        rows = self.rows(
            f"SELECT snapshot_id, changes_made FROM {TABLES}.ducklake_snapshot_changes "
            "WHERE snapshot_id > ? AND snapshot_id <= ?",
            [since, until],
        )
        found: dict[str, int] = {}
        for snapshot, made in rows:
            for change in (made or "").split(","):
                what, _, number = change.partition(":")
                if what in _ROW_CHANGES:
                    found[number] = max(found.get(number, 0), int(snapshot))
        if not found.keys() <= self._tables.keys():
            there = f"SELECT table_id::VARCHAR, table_name FROM {TABLES}.ducklake_table WHERE end_snapshot IS NULL"
            self._tables = dict(self.rows(there))
        return {self._tables[number]: snapshot for number, snapshot in found.items() if number in self._tables}
