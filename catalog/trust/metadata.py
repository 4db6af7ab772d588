"""Checks that a catalog's metadata is what saeql makes: at each opening, before any of its tables is read.

People pass catalogs on, and DuckLake's metadata can hold code: a macro named like a built-in function, a view or a
column's default that calls one, a path to a file elsewhere. saeql makes no macro, and its views, columns and paths are
known (`catalog.trust.definitions`). Everything else is refused, all of it named at once.

The check reads DuckLake's own tables alone, while the engine's default database is its empty one, where a macro of the
catalog has no effect.
"""

from collections.abc import Iterator

import duckdb

from catalog.quote import TABLES, quoted
from catalog.trust.definitions import Definition, made, stored
from catalog.trust.schema_number import check_number

_SHOWN = 20
_EMPTY = {
    "ducklake_macro": "macro",
    "ducklake_macro_impl": "body of a macro",
    "ducklake_macro_parameters": "parameter of a macro",
    "ducklake_sort_expression": "sort expression",
    "ducklake_sort_info": "sort order",
    "ducklake_partition_info": "partitioning",
    "ducklake_partition_column": "partition column",
    "ducklake_inlined_data_tables": "table with its rows in the metadata",
}
"""Tables of DuckLake that saeql leaves empty, and what a row would be. `_NAMES` has the column of its name."""
_NAMES = {"ducklake_macro": "macro_name", "ducklake_inlined_data_tables": "table_name"}
_OPTIONS = ("version", "created_by", "data_path", "encrypted")
_PLAIN = r"^[A-Za-z0-9_=+@,~-][A-Za-z0-9._=+@,~-]*(/[A-Za-z0-9_=+@,~-][A-Za-z0-9._=+@,~-]*)*$"
"""A relative path without `..`, hidden files, wildcards or a scheme."""


def mistakes(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """What of the attached metadata saeql did not make, a sentence each; empty for a catalog of its own.

    Call it before `lake` becomes the default database. What is not there, or of another type, is a mistake too; what
    cannot be read for another reason (locked, a full disk) raises the engine's error. Raises CatalogError instead if
    nothing else is wrong than tables, columns and views that a newer saeql, or an edited migration, accounts for.
    """
    found: list[str] = []
    shape = 0
    for check in (_code, _options, _tables, _definitions, _files):
        before = len(found)
        try:
            found += check(connection)
            shape += len(found) - before if check in (_tables, _definitions) else 0
        except (duckdb.ProgrammingError, duckdb.DataError) as error:
            found.append(f"its metadata cannot be read: {str(error).partition(chr(10))[0]!r}")
    if found and len(found) == shape:
        check_number(connection)
    if len(found) > _SHOWN:
        found = [*found[:_SHOWN], "and more"]
    return found


def _code(connection: duckdb.DuckDBPyConnection) -> Iterator[str]:
    # One statement: each costs a round trip to the metadata.
    parts = [
        f"SELECT {quoted(what)} AS what, {_NAMES.get(table, 'NULL')} AS name FROM {TABLES}.{table}"
        for table, what in _EMPTY.items()
    ]
    for what, name in connection.execute(f"{' UNION ALL '.join(parts)} ORDER BY ALL LIMIT {_SHOWN + 1}").fetchall():
        yield f"it holds a {what}{f' {name!r}' if name is not None else ''}, which saeql never makes"


def _options(connection: duckdb.DuckDBPyConnection) -> Iterator[str]:
    rows = connection.execute(f"SELECT key, value, scope FROM {TABLES}.ducklake_metadata").fetchall()
    for key, value, scope in rows:
        if key not in _OPTIONS or scope is not None or (key == "encrypted" and value != "false"):
            yield f"its metadata sets {key!r} to {value!r}, which saeql never does"


def _tables(connection: duckdb.DuckDBPyConnection) -> Iterator[str]:
    rows = connection.execute(
        f"SELECT schema_name, path, path_is_relative::BOOLEAN, end_snapshot FROM {TABLES}.ducklake_schema"
    ).fetchall()
    if rows and rows != [("main", "main/", True, None)]:
        yield f"its schemas are {rows!r}, not main alone in 'main/'"
    known = {definition.name.partition(".")[0] for definition in made().every if definition.kind == "column"}
    twice = f"SELECT table_name FROM {TABLES}.ducklake_table WHERE end_snapshot IS NULL GROUP BY 1 HAVING count(*) > 1"
    for (name,) in connection.execute(twice).fetchall():
        yield f"it has two tables {name!r}"
    rows = connection.execute(
        f"SELECT DISTINCT table_name, path, path_is_relative::BOOLEAN FROM {TABLES}.ducklake_table ORDER BY ALL"
    ).fetchall()
    for name, path, relative in rows:
        if name not in known:
            yield f"it has a table {name!r}, which saeql never makes"
        elif path != f"{name}/" or not relative:
            yield f"the files of its table {name!r} lie in {path!r}, not in {f'{name}/'!r}"


def _definitions(connection: duckdb.DuckDBPyConnection) -> Iterator[str]:
    ours, there = made(), stored(connection)
    strange = {definition for definition, _ in there} - ours.every
    for definition in sorted(strange, key=str):
        other = {known.content for known in ours.every if known[:2] == definition[:2]}
        how = "is defined otherwise than by saeql" if other else "is not one of saeql's"
        yield f"its {definition.kind} {definition.name!r} {how}"
    if strange:
        return
    standing = [definition for definition, stands in there if stands]
    now = frozenset(standing)
    if len(now) < len(standing):
        yield "a column or view of it is defined twice"
    if now not in ours.after:
        near = min(ours.after, key=lambda expected: len(expected ^ now))
        yield from (f"its {lost.kind} {lost.name!r} is missing" for lost in _sorted(near - now))
        yield from (
            f"its {over.kind} {over.name!r} belongs to another schema than the rest" for over in _sorted(now - near)
        )


def _sorted(definitions: frozenset[Definition]) -> list[Definition]:
    return sorted(definitions, key=str)


def _files(connection: duckdb.DuckDBPyConnection) -> Iterator[str]:
    listed = f"""
        WITH files AS (
            SELECT 'reads' AS doing, path, path_is_relative,
                encryption_key IS NULL AND lower(file_format) = 'parquet' AS parquet
            FROM {TABLES}.ducklake_data_file
            UNION ALL
            SELECT 'reads', path, path_is_relative, encryption_key IS NULL AND lower(format) = 'parquet'
            FROM {TABLES}.ducklake_delete_file
            UNION ALL
            SELECT 'would delete', path, path_is_relative, starts_with(path, 'main/')
            FROM {TABLES}.ducklake_files_scheduled_for_deletion
        )
        SELECT doing, path
        FROM files
        WHERE (parquet AND path_is_relative::BOOLEAN AND regexp_matches(path, '{_PLAIN}')) IS NOT TRUE
        ORDER BY ALL
        LIMIT {_SHOWN + 1}
    """
    for doing, path in connection.execute(listed).fetchall():
        yield f"it {doing} {path!r}, which is no plain Parquet file of a table under its data/"
