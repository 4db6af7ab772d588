"""What saeql's migrations make, as DuckLake stores it: every column and view, and between which migrations it stands.

`schema/definitions.json` is that list. `python -m catalog.definitions` writes it; a test compares it with the
migrations. `catalog.metadata` holds a catalog against it before any of its tables is read.
"""

import hashlib
import json
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import duckdb

TABLES = "__ducklake_metadata_lake"
"""The database of DuckLake's own tables. They are named without a schema, which differs with its kind."""
_FILE = "definitions.json"


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
        digest = hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()
        found.append((Definition("view", str(name), f"blake2b:{digest}"), bool(stands)))
    return found


@cache
def made() -> Made:
    """The definitions that this saeql's migrations make."""
    rows = json.loads((resources.files("catalog") / "schema" / _FILE).read_text(encoding="utf-8"))
    last = max((until or since for since, until, *_ in rows), default=0)
    after = tuple(
        frozenset(Definition(*row) for since, until, *row in rows if since <= n and (until is None or n < until))
        for n in range(last + 1)
    )
    return Made(frozenset(Definition(*row) for _, _, *row in rows), after)


def migrated() -> list[list[object]]:
    """Run all migrations on an empty catalog: [from migration, until migration or None, kind, name, content] rows."""
    from catalog.lake import connect
    from catalog.location import Location
    from catalog.migrate import migrate, migrations

    since: dict[Definition, int] = {}
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").mkdir()
        connection = connect(Location(Path(folder)), read_only=False, create=True)
        for number, _, _ in migrations():
            migrate(connection, until=number)
            standing = {definition for definition, stands in stored(connection) if stands}
            for gone in sorted(since.keys() - standing):
                rows.append([since.pop(gone), number, *gone])
            since |= dict.fromkeys(standing - since.keys(), number)
        connection.close()
    rows += [[first, None, *definition] for definition, first in since.items()]
    return sorted(rows, key=lambda row: (row[2], row[3], row[0]))


def _path(around: dict[tuple[int, int], tuple[int | None, str]], table: int, column: int) -> str:
    """`outer.inner`. A chain of columns that leads nowhere or in a circle is cut off."""
    names: list[str] = []
    at: int | None = column
    while at is not None and (table, at) in around and len(names) < 64:
        at, name = around[table, at]
        names.append(str(name))
    return ".".join(reversed(names))


def main() -> None:
    """Write the list anew, beside the migrations."""
    lines = ",\n".join(json.dumps(row) for row in migrated())
    (Path(__file__).parent / "schema" / _FILE).write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
