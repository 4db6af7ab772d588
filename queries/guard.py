"""The read-only gate: checks a user's query, and runs it on a locked-down connection.

Invariant: DuckDB's own parser is the only one that counts. Its tree of the user's text is walked against
allow-lists, each table is written out as lake.main.NAME, a tag after AT as its snapshot's number, and DuckDB
renders that tree as the text that will run; the user's text never does. The rendered text is parsed and walked
again, and must give the same tree.

The settings of `lock_down` are a second line. They are not enough alone: sqlite_scan still opens and writes files,
and a path such as data/../x passes allowed_directories.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import duckdb

from catalog import lake
from catalog.errors import InputError, QueryRefused, SaeqlError, UnknownName
from catalog.store import Catalog
from catalog.transaction import named
from catalog.versions import resolve
from queries.functions import FUNCTIONS, TABLE_FUNCTIONS
from queries.tree import Names, Walk, canonical, did_you_mean, first_line, parse, render

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 16_384
_T = TypeVar("_T")


@dataclass(frozen=True)
class Checked:
    """A query that passed: `sql` is what runs, `tables` the catalog's tables and views that it names."""

    sql: str
    tables: tuple[str, ...]


def check(sql: str, catalog: Catalog, *, extra_tables: Set[str] = frozenset()) -> Checked:
    """Check one statement of a user against the allow-lists.

    `extra_tables` are names that the caller registers on the connection which will run it. Raises QueryRefused
    for what is not a SELECT over the catalog's tables and listed functions, UnknownName for an unknown table.

    >>> check("SELECT label FROM features -- all of them", catalog).sql  # doctest: +SKIP
    'SELECT "label" FROM lake.main.features'
    """
    cursor = catalog.connection.cursor()
    try:
        with lake.answered(catalog.location):
            names = _names(cursor, catalog.at)
        walk = Walk(names, frozenset(name.lower() for name in extra_tables), partial(resolve, catalog))
        tree = parse(cursor, sql)
        walk.visit(tree["statements"], frozenset())
        tables = tuple(sorted(walk.used))
        _check_views(cursor, walk)
        rendered = render(cursor, tree)
        again = parse(cursor, rendered)
        walk.visit(again["statements"], frozenset())
        if canonical(again) != canonical(tree):
            raise QueryRefused("DuckDB cannot write this query out again without changing it: say it in another way")
    except RecursionError:
        raise QueryRefused("the query is nested too deeply: split it into CTEs") from None
    except duckdb.Error as error:
        raise QueryRefused(f"DuckDB cannot read this query: {first_line(error)}") from error
    finally:
        cursor.close()
    return Checked(rendered, tables)


def lock_down(connection: duckdb.DuckDBPyConnection) -> None:
    """Allow no more settings, for every cursor of the connection's database; it cannot be undone.

    The opening has taken away files outside of data/, extensions and Python variables as tables (`catalog.lake`).
    """
    row = connection.execute("SELECT current_setting('lock_configuration')").fetchone()
    if not (row and row[0]):
        connection.execute("SET lock_configuration = true")


def run(
    sql: str,
    catalog: Catalog,
    parameters: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    tables: "Mapping[str, pa.Table] | None" = None,
) -> "pa.RecordBatchReader":
    """Check a user's query and run it; rows arrive in batches of at most 16,384.

    `parameters` fill `?` or `$name`; `tables` are Arrow tables that the query may name beside those of the catalog.
    A read-only `catalog` is locked down for good; beside a writable one, a read-only connection is opened. Ctrl-C
    stops the engine. Raises QueryRefused, UnknownName (a table or column), or InputError if the query fails as it runs.

    >>> run("SELECT count(*) AS n FROM features", catalog).read_all().to_pylist()  # doctest: +SKIP
    [{'n': 256}]
    """
    import pyarrow as pa

    checked = check(sql, catalog, extra_tables=set(tables or {}))
    own = None if catalog.read_only else lake.connect(catalog.location, read_only=True)
    connection = own or catalog.connection
    lock_down(connection)
    cursor = connection.cursor()
    # A cursor is a connection of its own: it starts in the engine's empty default database.
    cursor.execute("USE lake")
    for name, table in (tables or {}).items():
        cursor.register(name, table)
    worker = ThreadPoolExecutor(1, thread_name_prefix="saeql-query")

    def close() -> None:
        worker.shutdown()
        cursor.close()
        if own:
            own.close()

    def open_reader() -> "pa.RecordBatchReader":
        return cursor.execute(checked.sql, parameters or []).to_arrow_reader(BATCH_ROWS)

    try:
        reader = _interruptible(cursor, worker, open_reader)
    except (duckdb.Error, pa.ArrowException, RuntimeError) as error:
        # RuntimeError: a parameter that is no value, such as text with half of a surrogate pair.
        told = _told(error, checked, cursor)
        close()
        raise told from error
    except BaseException:
        close()
        raise
    return _streamed(reader, cursor, worker, close)


def _streamed(
    reader: "pa.RecordBatchReader",
    cursor: duckdb.DuckDBPyConnection,
    worker: ThreadPoolExecutor,
    close: Callable[[], None],
) -> "pa.RecordBatchReader":
    """The same batches, pulled so that Ctrl-C reaches the engine, with everything closed at the end."""
    import pyarrow as pa

    def batches() -> "Iterator[pa.RecordBatch]":
        try:
            while (batch := _interruptible(cursor, worker, lambda: next(reader, None))) is not None:
                yield batch
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            # One failure in a thousand comes out as the interruption of the other threads (DuckDB 1.5.5).
            raced = "INTERRUPT" in str(error)
            said = "the engine did not say why; run it again to see" if raced else first_line(error)
            raise InputError(f"the query failed: {said}") from error
        finally:
            close()

    return pa.RecordBatchReader.from_batches(reader.schema, batches())


def _interruptible(cursor: duckdb.DuckDBPyConnection, worker: ThreadPoolExecutor, call: Callable[[], _T]) -> _T:
    """Run `call` on the worker: the main thread keeps hearing Ctrl-C, which the engine's own loop does not."""
    future = worker.submit(call)
    try:
        return future.result()
    except KeyboardInterrupt:
        cursor.interrupt()
        raise


def _told(error: Exception, checked: Checked, cursor: duckdb.DuckDBPyConnection) -> SaeqlError:
    """DuckDB's error in saeql's terms, with the columns there are if one was not found."""
    said = first_line(error)
    if isinstance(error, duckdb.OutOfMemoryException):
        return InputError(f"the query needs more memory than SAEQL_MEMORY allows: {said}")
    if not isinstance(error, duckdb.BinderException):
        kind = QueryRefused if isinstance(error, duckdb.CatalogException | duckdb.ParserException) else InputError
        return kind(f"the query failed: {said}")
    if "not found" not in said and "does not have a column" not in said:
        return QueryRefused(f"the query cannot run: {said}")
    columns = {
        table: [row[0] for row in cursor.execute(f"DESCRIBE lake.main.{named(table)}").fetchall()]
        for table in checked.tables
    }
    wanted = said.split('"')[-2] if said.count('"') >= 2 else ""
    hint = did_you_mean(wanted, sorted({name for names in columns.values() for name in names}))
    listed = "; ".join(f"{table} has {', '.join(names)}" for table, names in columns.items())
    return UnknownName(f"{said.rstrip('!')}{hint}" + (f"; {listed}" if listed else ""))


def _names(cursor: duckdb.DuckDBPyConnection, at: int | None) -> Names:
    """Tables and views, now or at a snapshot; views as they are stored.

    From DuckLake's metadata: 50 times faster than duckdb_tables().
    Raises QueryRefused if a macro of the catalog has the name of a listed function: calls of it would go there.
    """
    lakes, live = lake.TABLES, "end_snapshot IS NULL"
    if at is not None:
        live = f"begin_snapshot <= {at} AND ({live} OR end_snapshot > {at})"
    tables = cursor.execute(f"SELECT table_name FROM {lakes}.ducklake_table WHERE {live}").fetchall()
    bodies = cursor.execute(f"SELECT view_name, sql, {live} FROM {lakes}.ducklake_view").fetchall()
    macros = cursor.execute(f"SELECT macro_name FROM {lakes}.ducklake_macro").fetchall()
    for (macro,) in macros:
        if macro.lower() in FUNCTIONS | TABLE_FUNCTIONS:
            raise QueryRefused(f"this catalog redefines the function {macro!r}, which saeql never does: no query runs")
    views: dict[str, list[str]] = {}
    for name, body, _ in bodies:
        views.setdefault(name.lower(), []).append(body)
    current = [name for (name,) in tables] + [name for name, _, now in bodies if now]
    return Names(frozenset(name.lower() for name in current), views)


def _check_views(cursor: duckdb.DuckDBPyConnection, walk: Walk) -> None:
    """A catalog may come from someone else: a view's definition is held to the same lists as a query."""
    done: set[str] = set()
    while todo := walk.used & walk.names.views.keys() - done:
        for view in todo:
            for body in walk.names.views[view]:
                try:
                    walk.visit(parse(cursor, body)["statements"], frozenset())
                except (QueryRefused, UnknownName) as error:
                    raise QueryRefused(f"the view {view!r} of this catalog cannot be used: {error}") from None
        done |= todo
