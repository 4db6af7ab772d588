"""Reads and writes an open catalog: a snapshot is whole or not there, and only its COMMIT holds the lock."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import duckdb

from catalog.errors import CatalogError, InputError, InputsMoved
from catalog.quote import TABLES
from catalog.store.connection import FULL, answered
from catalog.store.location import Location
from catalog.store.locks import locked, shared
from catalog.store.transaction import Transaction

if TYPE_CHECKING:
    import pyarrow as pa

COMMIT_WAIT_SECONDS = 60.0
WRITING = "writing.lock"
"""Held together by all who have files on disk that no snapshot names yet."""
_FREE_TRIES = 2
"""How often a commit is tried without the lock before its work is done under it."""
T = TypeVar("T")


class _Moved(Exception):
    """Another snapshot was committed since this transaction began."""


class Commits:
    """What `Catalog` does with its connection: trusted queries, and snapshots."""

    connection: duckdb.DuckDBPyConnection
    location: Location
    root: Path
    read_only: bool
    lock_seconds: float
    _writing: bool
    _turn: threading.Lock
    _seen: int | None = None
    """The snapshot that the open transaction sees."""

    @property
    def data(self) -> Path:
        """Where the Parquet files are."""
        raise NotImplementedError

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
            self._seen = None
            if not kept:
                self._roll_back()

    def _begin(self) -> int:
        """Begin a transaction, which it does with its first look at the catalog; the snapshot that it sees."""
        self.connection.execute("BEGIN")
        try:
            self._seen = self._first_look()
        except BaseException:
            self._roll_back()
            raise
        return self._seen

    def _first_look(self) -> int:
        return int(self.value("SELECT id FROM lake.current_snapshot()"))

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
        if self.read_only:
            raise CatalogError(f"{self.root} is open for reading alone: open it without read_only to write")
        if self._writing:
            raise CatalogError(f"{self.root} is already in a transaction: finish that one first")

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
                self._writing, self._seen = False, None

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
        self._seen = None
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
