"""The store: one directory of DuckLake tables, Lance vectors and weights, with one commit point.

A snapshot of DuckLake is the only thing that makes results visible. Whatever else belongs to it (Parquet
shards, Lance versions, weights) is on disk, whole and under a fresh name, before the commit that names it.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import duckdb

from catalog.errors import CatalogError, InputError, InputsMoved
from catalog.quote import TABLES, named
from catalog.store.connection import DATA, FULL, answered, beside, check_folder, connect
from catalog.store.location import METADATA, Location
from catalog.store.locks import locked, shared
from catalog.store.migrations import applied, migrate, newest
from catalog.store.snapshots import resolve
from catalog.store.transaction import Transaction
from catalog.trust.paths import inside

if TYPE_CHECKING:
    import pyarrow as pa

COMMIT_WAIT_SECONDS = 60.0
WRITING = "writing.lock"
"""Held together by all who have files on disk that no snapshot names yet."""
_FREE_TRIES = 2
"""How often a commit is tried without the lock before its work is done under it."""
_ROW_CHANGES = ("inserted_into_table", "deleted_from_table")
T = TypeVar("T")


class _Moved(Exception):
    """Another snapshot was committed since this transaction began."""


class Catalog:
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
        """Make a catalog in the folder or at the address `root`, or open it and bring it to the newest schema."""
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
        other.connection = beside(self.connection)
        return other

    def close(self) -> None:
        """Close the engine's connection."""
        self.connection.close()

    def __enter__(self) -> "Catalog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rows(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a trusted query; user queries go through `queries.ask.guard`."""
        with answered(self.location):
            return self.connection.execute(sql, parameters).fetchall()

    def arrow(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> "pa.Table":
        """The result of a trusted query as an Arrow table."""
        with answered(self.location):
            return self.connection.execute(sql, parameters).to_arrow_table()

    def value(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> Any:
        """The first column of the first row, None if there is no row."""
        with answered(self.location):
            row = self.connection.execute(sql, parameters).fetchone()
        return row[0] if row else None

    def stage(self, table: str, rows: list[dict[str, Any]], name: str = "_fresh") -> str:
        """Rows as a temporary table with the columns and types of `table`, for `Transaction.replace`; its name."""
        import pyarrow as pa

        self.connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS FROM lake.{named(table)} LIMIT 0")
        if rows:
            schema = self.connection.execute(f"FROM {name}").to_arrow_table().schema
            self.connection.register("_rows", pa.Table.from_pylist(rows, schema))
            self.connection.execute(f"INSERT INTO {name} SELECT * FROM _rows")
            self.connection.unregister("_rows")
        return name

    def _check_snapshot(self, snapshot: int) -> None:
        """Raise UnknownName with the list of snapshots where the engine would only say that there is none."""
        with Catalog(self.location, read_only=True) as now:
            resolve(now, snapshot)

    def snapshot(self) -> int:
        """Id of the snapshot that is read: the newest, unless the catalog was opened at another."""
        return self.newest() if self.at is None else self.at

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

    @contextmanager
    def write(self, message: str, **details: Any) -> Iterator[Transaction]:
        """One snapshot: everything done inside is committed together, or nothing of it.

        `details` and what the caller adds to `tx.details` go into the snapshot as JSON. The commit lock is
        held for the block: for what takes long there is `commit`. A block that changed nothing leaves no snapshot.
        Raises CatalogLocked if another process keeps the lock for a minute, InputError if the disk is full.
        """
        self._check_writable()
        with self._turn, self._commit_lock(), self._transaction(details) as tx:
            yield tx
            self._finish(tx, message)

    def commit(
        self, message: str, work: Callable[[Transaction], T], check: Callable[[], bool] | None = None, **details: Any
    ) -> T:
        """One snapshot, with the commit lock held for the COMMIT alone; returns what `work` returned.

        `work(tx)` compares and writes without the lock. If another snapshot was committed meanwhile, all of it is
        undone and done again, the third time under the lock: `work` may run three times, and its only lasting
        effect should be what it does through `tx`. `check()` runs before it in the same transaction, and says
        whether what the caller read before is still so; as no snapshot came in between, that holds at the commit.
        Raises InputsMoved if `check` says no, and otherwise what `write` raises.

        >>> catalog.commit("one more", lambda tx: tx.insert("leaks", [row]))  # doctest: +SKIP
        """
        self._check_writable()
        with self._turn:
            for _ in range(_FREE_TRIES):
                with suppress(_Moved), self._transaction(details) as tx:
                    result = self._checked(tx, work, check)
                    self._finish(tx, message, tx.begun)
                    return result
            with self._commit_lock(), self._transaction(details) as tx:
                result = self._checked(tx, work, check)
                self._finish(tx, message)
        return result

    @contextmanager
    def reading(self, *, keep: bool = False) -> Iterator[None]:
        """All that is read inside is of one snapshot, whatever others commit meanwhile.

        Nothing can be written inside but temporary tables, which are gone after it unless `keep`. A statement that
        fails may end the transaction: what is read after it then fails too, see `readable`. Outside, each
        look at the catalog begins with reading the metadata anew.
        """
        kept = False
        self._begin()
        try:
            yield
            if keep:
                self.connection.execute("COMMIT")
                kept = True
        finally:
            if not kept:
                self._roll_back()

    def _begin(self) -> int:
        """Begin a transaction, which it does with its first look at the catalog; the snapshot that it sees."""
        self.connection.execute("BEGIN")
        try:
            return int(self.value("SELECT id FROM lake.current_snapshot()"))
        except BaseException:
            self._roll_back()
            raise

    def readable(self) -> bool:
        """Whether a transaction goes on after a statement in it failed."""
        try:
            self.value("SELECT 1")
        except duckdb.TransactionException:
            return False
        return True

    def _checked(self, tx: Transaction, work: Callable[[Transaction], T], check: Callable[[], bool] | None) -> T:
        if check is not None and not check():
            raise InputsMoved(f"what was read from {self.root} has changed since: read it again")
        return work(tx)

    def _check_writable(self) -> None:
        if self.read_only or self._writing:
            raise CatalogError("this catalog is open for reading, or already in a transaction")

    @contextmanager
    def _commit_lock(self) -> Iterator[None]:
        with locked(self.root / "commit.lock", wait=COMMIT_WAIT_SECONDS):
            since = time.perf_counter()
            try:
                yield
            finally:
                self.lock_seconds = time.perf_counter() - since

    @contextmanager
    def _transaction(self, details: dict[str, Any]) -> Iterator[Transaction]:
        """BEGIN, and ROLLBACK if the block raises; the block commits."""
        with answered(self.location), shared(self.root / WRITING) as alone:
            begun = self._begin()
            self._writing = True
            try:
                yield Transaction(self.connection, self.data, dict(details), begun)
            except BaseException as error:
                self._roll_back()
                # DuckLake removes whole files itself; a statement that failed half-way leaves a part of one.
                if not isinstance(error, InputsMoved | _Moved) and alone():
                    self._sweep()
                if isinstance(error, (duckdb.Error, OSError)) and any(sign in str(error) for sign in FULL):
                    raise InputError(
                        f"the disk that holds {self.root} is full; nothing of this step was kept: make room, run again"
                    ) from error
                raise
            finally:
                self._writing = False

    def _finish(self, tx: Transaction, message: str, begun: int | None = None) -> None:
        """COMMIT if there is something to commit; given the snapshot it `begun` at, under the lock and if still so."""
        if not tx.changed:
            self._roll_back()
            return
        said = json.dumps(tx.details, sort_keys=True)
        self.connection.execute("CALL lake.set_commit_message('saeql', ?, extra_info => ?)", [message, said])
        if begun is None:
            self.connection.execute("COMMIT")
            return
        with self._commit_lock():
            if self._newest() != begun:
                raise _Moved
            try:
                self.connection.execute("COMMIT")
            except duckdb.TransactionException as error:
                # The metadata changed without a snapshot, such as when old ones are expired.
                raise _Moved from error

    def _newest(self) -> int:
        """Id of the newest snapshot, whatever this connection's transaction sees."""
        with self.connection.cursor() as cursor:
            row = cursor.execute(f"SELECT max(snapshot_id) FROM {TABLES}.ducklake_snapshot").fetchone()
        return int(row[0]) if row else 0

    def _roll_back(self) -> None:
        """Undo; a failed COMMIT has already undone itself, and the engine says so with an error."""
        with suppress(duckdb.TransactionException):
            self.connection.execute("ROLLBACK")

    def _sweep(self) -> None:
        """Remove what DuckLake wrote for the transaction that failed: a disk that was full would stay full.

        While nobody else writes, a file of DuckLake's own that no snapshot names belongs to nobody.
        """
        with suppress(duckdb.Error, OSError, CatalogError):
            named = self.rows(f"SELECT path FROM {TABLES}.ducklake_data_file")
            named += self.rows(f"SELECT path FROM {TABLES}.ducklake_delete_file")
            names = {path.rpartition("/")[2] for (path,) in named}
            for path in self.data.glob("main/*/ducklake-*.parquet"):
                if path.name not in names:
                    path.unlink()
