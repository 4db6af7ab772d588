"""The store: one directory of DuckLake tables, Lance vectors and weights, with one commit point.

A snapshot of DuckLake is the only thing that makes results visible. Whatever else belongs to it (Parquet
shards, Lance versions, weights) is on disk, whole and under a fresh name, before the commit that names it.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from catalog import lake
from catalog.errors import CatalogError, InputError
from catalog.locks import locked
from catalog.migrate import applied, migrate
from catalog.transaction import Transaction, named

if TYPE_CHECKING:
    import pyarrow as pa

COMMIT_WAIT_SECONDS = 60.0


class Catalog:
    """A catalog on disk. `Catalog.create(path)` makes one, `Catalog(path)` opens one."""

    def __init__(self, root: str | Path, *, read_only: bool = False, snapshot: int | None = None):
        """Open the catalog under `root`, for reading also as it was at `snapshot`.

        Raises CatalogError if there is none, or if it is from a newer version; UnknownName, with the snapshots
        that there are, if `snapshot` is not one of them.
        """
        self.root = Path(root).absolute()
        self.read_only = read_only
        self.at = snapshot
        if snapshot is not None and not read_only:
            raise CatalogError(f"snapshot {snapshot} can be read, not written: open it with read_only=True")
        if not (self.root / lake.METADATA).exists():
            raise CatalogError(f"{self.root} holds no catalog: make one with `saeql demo` or `saeql init`")
        try:
            self.connection = lake.connect(self.root, read_only=read_only, snapshot=snapshot)
        except CatalogError:
            if snapshot is not None:
                self._check_snapshot(snapshot)
            raise
        try:
            applied(self.connection, at_newest=snapshot is not None)
        except BaseException:
            self.connection.close()
            raise
        self._writing = False

    @classmethod
    def create(cls, root: str | Path) -> "Catalog":
        """Make a catalog under `root`, or open it and bring it to the newest schema."""
        root = Path(root).absolute()
        try:
            for folder in (lake.DATA, "vectors", "weights", "cache"):
                (root / folder).mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise InputError(f"{root} is a file, not a directory: name another place for the catalog") from error
        with locked(root / "commit.lock", wait=COMMIT_WAIT_SECONDS):
            connection = lake.connect(root, read_only=False)
            try:
                migrate(connection)
            finally:
                connection.close()
        return cls(root)

    @property
    def data(self) -> Path:
        """Where DuckLake keeps its Parquet files."""
        return self.root / lake.DATA

    @property
    def weights(self) -> Path:
        """Where SAEs are kept, a folder each."""
        return self.root / "weights"

    @property
    def cache(self) -> Path:
        """Residual activations and checkpoints: may be deleted."""
        return self.root / "cache"

    @property
    def vectors(self) -> Path:
        """Where the Lance collections are."""
        return self.root / "vectors"

    def close(self) -> None:
        """Close the engine's connection."""
        self.connection.close()

    def __enter__(self) -> "Catalog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rows(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a trusted query; user queries go through `queries.guard`."""
        return self.connection.execute(sql, parameters).fetchall()

    def arrow(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> "pa.Table":
        """The result of a trusted query as an Arrow table."""
        return self.connection.execute(sql, parameters).to_arrow_table()

    def value(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> Any:
        """The first column of the first row, None if there is no row."""
        row = self.connection.execute(sql, parameters).fetchone()
        return row[0] if row else None

    def stage(self, table: str, rows: list[dict[str, Any]]) -> str:
        """Rows as a temporary table with the columns and types of `table`, for `Transaction.replace`; its name."""
        import pyarrow as pa

        self.connection.execute(f"CREATE OR REPLACE TEMP TABLE _fresh AS FROM lake.{named(table)} LIMIT 0")
        if rows:
            schema = self.connection.execute("FROM _fresh").to_arrow_table().schema
            self.connection.register("_rows", pa.Table.from_pylist(rows, schema))
            self.connection.execute("INSERT INTO _fresh SELECT * FROM _rows")
            self.connection.unregister("_rows")
        return "_fresh"

    def _check_snapshot(self, snapshot: int) -> None:
        """Raise UnknownName with the list of snapshots where the engine would only say that there is none."""
        from catalog.versions import resolve

        with Catalog(self.root, read_only=True) as now:
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

    @contextmanager
    def write(self, message: str, **details: Any) -> Iterator[Transaction]:
        """One snapshot: everything done inside is committed together, or nothing of it.

        `details` and what the caller adds to `tx.details` go into the snapshot as JSON. The commit lock is
        held for the block, so do the work before it. A block that changed nothing leaves no snapshot.
        Raises CatalogLocked if another process keeps the lock for a minute, InputError if the disk is full.
        """
        if self.read_only or self._writing:
            raise CatalogError("this catalog is open for reading, or already in a transaction")
        with locked(self.root / "commit.lock", wait=COMMIT_WAIT_SECONDS):
            self.connection.execute("BEGIN")
            self._writing = True
            tx = Transaction(self.connection, self.data, dict(details))
            try:
                yield tx
                if tx.changed:
                    self.connection.execute(
                        "CALL lake.set_commit_message('saeql', ?, extra_info => ?)",
                        [message, json.dumps(tx.details, sort_keys=True)],
                    )
                    self.connection.execute("COMMIT")
                else:
                    self.connection.execute("ROLLBACK")
            except BaseException as error:
                self._roll_back()
                self._sweep()
                if isinstance(error, (duckdb.IOException, OSError)) and "No space left" in str(error):
                    raise InputError(
                        f"the disk that holds {self.root} is full; nothing of this step was kept: make room, run again"
                    ) from error
                raise
            finally:
                self._writing = False

    def _roll_back(self) -> None:
        """Undo; a failed COMMIT has already undone itself, and the engine says so with an error."""
        try:
            self.connection.execute("ROLLBACK")
        except duckdb.TransactionException:
            return

    def _sweep(self) -> None:
        """Remove what DuckLake wrote for the transaction that failed: a disk that was full would stay full.

        Under the commit lock, a file of DuckLake's own that no snapshot names belongs to nobody.
        """
        with suppress(duckdb.Error, OSError):
            metadata = "__ducklake_metadata_lake.ducklake"
            named = self.rows(f"SELECT path FROM {metadata}_data_file")
            named += self.rows(f"SELECT path FROM {metadata}_delete_file")
            names = {path.rpartition("/")[2] for (path,) in named}
            for path in self.data.glob("main/*/ducklake-*.parquet"):
                if path.name not in names:
                    path.unlink()
