"""Reads from a list what saeql's migrations make: every column and view, and between which migrations it stands.

`schema/definitions.json` is that list. `python -m catalog.store.write_definitions` writes it; a test compares it with
the migrations. `catalog.trust.metadata` holds a catalog against it before any of its tables is read.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import NamedTuple

import duckdb

from catalog.digest import digest
from catalog.quote import TABLES

FILE = "definitions.json"


class Definition(NamedTuple):
    """A column or a view: all of it that DuckDB would act on."""

    kind: str
    """`column` or `view`."""
    name: str
    """`table.column`, with the columns around it where it lies in a nested one; or the view's name."""
    content: str
    """A column's type, defaults and nullability; the BLAKE2b-128 of a view's SQL."""


@dataclass(frozen=True)
class Made:
    """The definitions that migrations make."""

    every: frozenset[Definition]
    """The definitions of every migration."""
    after: tuple[frozenset[Definition], ...]
    """The definitions that stand after migration 0, 1, 2, ...; none stands after 0."""


def stored(connection: duckdb.DuckDBPyConnection) -> list[tuple[Definition, bool]]:
    """Each definition that the attached metadata holds, and whether it stands at the newest snapshot."""
    tables = dict(connection.execute(f"SELECT table_id, table_name FROM {TABLES}.ducklake_table").fetchall())
    columns = connection.execute(
        "SELECT table_id, column_id, parent_column, column_name, end_snapshot IS NULL, column_type, initial_default, "
        "default_value, default_value_type, default_value_dialect, nulls_allowed::BOOLEAN "
        f"FROM {TABLES}.ducklake_column"
    ).fetchall()
    around = {(table, column): (parent, name) for table, column, parent, name, *_ in columns}
    found = []
    for table, column, _, _, stands, *content in columns:
        name = f"{tables.get(table, f'(table {table})')}.{_path(around, table, column)}"
        found.append((Definition("column", name, json.dumps(content)), bool(stands)))
    views = connection.execute(
        f"SELECT view_name, end_snapshot IS NULL, sql, dialect, column_aliases FROM {TABLES}.ducklake_view"
    ).fetchall()
    for name, stands, *content in views:
        found.append((Definition("view", str(name), f"blake2b:{digest(content)}"), bool(stands)))
    return found


@cache
def made() -> Made:
    """The definitions that this saeql's migrations make."""
    kept = json.loads((resources.files("catalog") / "schema" / FILE).read_text(encoding="utf-8"))
    rows, last = kept["definitions"], max(int(name[:4]) for name in kept["migrations"])
    after = tuple(
        frozenset(Definition(*row) for since, until, *row in rows if since <= n and (until is None or n < until))
        for n in range(last + 1)
    )
    return Made(frozenset(Definition(*row) for _, _, *row in rows), after)


def _path(around: dict[tuple[int, int], tuple[int | None, str]], table: int, column: int) -> str:
    """`outer.inner`. A chain of columns that leads nowhere or in a circle is cut off."""
    names: list[str] = []
    at: int | None = column
    while at is not None and (table, at) in around and len(names) < 64:
        at, name = around[table, at]
        names.append(str(name))
    return ".".join(reversed(names))
