"""Checks that a user's query only reads, and runs it on a locked-down connection.

Invariant: DuckDB's own parser is the only one that counts. Its tree of the user's text is walked against
allow-lists, each table is written out as lake.main.NAME, a tag after AT as its snapshot's number, and DuckDB
renders that tree as the text that will run; the user's text never does. The rendered text is parsed and walked
again, and must give the same tree.

The settings of `lock_down` are a second line. They are not enough alone: sqlite_scan still opens and writes files,
and a path such as data/../x passes allowed_directories.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import duckdb

from catalog.errors import InputError, QueryRefused, QueryStopped, SaeqlError, UnknownName
from catalog.quote import TABLES, named
from catalog.store.catalog import Catalog
from catalog.store.connection import SEARCH_PATH, answered
from catalog.store.snapshots import resolve
from queries.ask.allowed import FUNCTIONS, TABLE_FUNCTIONS
from queries.ask.forms import explained, filled, list_tables, plan_lines
from queries.ask.parse_tree import canonical, did_you_mean, first_line, parse, render
from queries.ask.struct_names import Renamed, all_named
from queries.ask.walk import Names, Walk

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 2_048


@dataclass(frozen=True)
class Checked:
    """A query that passed: `sql` is what runs, `tables` the catalog's tables and views that it names."""

    sql: str
    tables: tuple[str, ...]
    explained: bool = False
    """Whether `sql` is EXPLAIN of the query."""


def check(sql: str, catalog: Catalog, *, extra_tables: Set[str] = frozenset()) -> Checked:
    """Check one statement of a user against the allow-lists.

    `extra_tables` are names that the caller registers on the connection which will run it. Raises QueryRefused
    for what is not a SELECT over the catalog's tables and listed functions, UnknownName for an unknown table.

    >>> check("SELECT label FROM features -- all of them", catalog).sql  # doctest: +SKIP
    'SELECT "label" FROM lake.main.features'
    """
    cursor = catalog.connection.cursor()
    try:
        with answered(catalog.location):
            names = _names(cursor, catalog.at)
        walk = Walk(names, frozenset(name.lower() for name in extra_tables), partial(resolve, catalog))
        query = explained(sql)
        tree = parse(cursor, sql if query is None else query)
        list_tables(cursor, tree, names)
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
    return Checked(rendered if query is None else f"EXPLAIN {rendered}", tables, query is not None)


def lock_down(connection: duckdb.DuckDBPyConnection) -> None:
    """Allow no more settings, for every cursor of the connection's database; it cannot be undone.

    The opening has taken away files outside of data/, extensions and Python variables as tables
    (`catalog.store.connection`).
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
    timeout: float | None = None,
) -> "pa.RecordBatchReader":
    """Check a user's query and run it on the catalog that `catalog` has open, through the door: see `door.ask`.

    >>> run("SELECT count(*) AS n FROM features", catalog).read_all().to_pylist()  # doctest: +SKIP
    [{'n': 256}]
    """
    from queries.ask.door import ask

    return ask(catalog.location, sql, parameters, at=catalog.at, tables=tables, timeout=timeout)


def execute(
    sql: str,
    catalog: Catalog,
    parameters: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    tables: "Mapping[str, pa.Table] | None" = None,
) -> "pa.RecordBatchReader":
    """Check a query and run it here, in the process that belongs to it; `catalog` is open for reading alone.

    Locks the catalog's connection down for good. Raises as `run` does, but knows no limits.
    """
    import pyarrow as pa

    extra = set(tables or {})
    lock_down(catalog.connection)
    cursor = catalog.connection.cursor()
    # A cursor is a connection of its own: it starts in the engine's empty default database.
    cursor.execute(SEARCH_PATH)
    for name, table in (tables or {}).items():
        cursor.register(name, table)

    def values(query: str) -> list[str]:
        allowed = check(query, catalog, extra_tables=extra)
        return [value for (value,) in cursor.execute(allowed.sql, parameters or []).fetchall()]

    checked = Checked("", ())
    with catalog.naming():
        try:
            checked = check(filled(sql, values), catalog, extra_tables=extra)
            reader = cursor.execute(checked.sql, parameters or []).to_arrow_reader(BATCH_ROWS)
            if checked.explained:
                return plan_lines(reader.read_all(), catalog.root)
            return _streamed(reader, cursor)
        except (duckdb.Error, pa.ArrowException, RuntimeError) as error:
            # RuntimeError: a parameter that is no value, such as text with half of a surrogate pair.
            raise _told(error, checked, cursor) from error


def _streamed(reader: "pa.RecordBatchReader", cursor: duckdb.DuckDBPyConnection) -> "pa.RecordBatchReader":
    """The same batches with every field named, with everything closed at the end."""
    import pyarrow as pa

    schema = pa.schema([field.with_type(all_named(field.type)) for field in reader.schema], reader.schema.metadata)

    def batches() -> "Iterator[pa.RecordBatch]":
        try:
            for batch in reader:
                yield batch if schema == batch.schema else pa.record_batch(Renamed(batch, schema))
        except duckdb.OutOfMemoryException:
            raise
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            # One failure in a thousand comes out as the interruption of the other threads (DuckDB 1.5.5).
            raced = "INTERRUPT" in str(error)
            if lacks_memory(error):
                raise MemoryError(first_line(error)) from error
            said = "the engine did not say why; run it again to see" if raced else first_line(error)
            raise InputError(f"the query failed: {said}") from error
        finally:
            cursor.close()

    return pa.RecordBatchReader.from_batches(schema, batches())


def lacks_memory(error: Exception) -> bool:
    """Whether the engine or Arrow failed to get memory from the system."""
    return any(sign in str(error) for sign in ("bad_alloc", "failed to allocate", "malloc of size", "realloc of size"))


def _told(error: Exception, checked: Checked, cursor: duckdb.DuckDBPyConnection) -> SaeqlError:
    """DuckDB's error in saeql's terms, with the columns there are if one was not found."""
    said = first_line(error)
    if isinstance(error, duckdb.OutOfMemoryException) or lacks_memory(error):
        return QueryStopped(f"the query needs more memory than SAEQL_MEMORY allows: {said}")
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
    lakes, live = TABLES, "end_snapshot IS NULL"
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
