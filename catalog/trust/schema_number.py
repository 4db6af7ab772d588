"""Says why a catalog of one's own may look like a stranger's: a newer saeql made it, or `definitions.json` is behind.

The number of a catalog's schema is read from DuckLake's statistics of the table `migrations`: plain text of its own
tables. Nothing that the catalog's author wrote is run for it, and no file of the catalog is opened.
"""

import json
from importlib import resources
from importlib.resources.abc import Traversable

import duckdb

from catalog.digest import digest_of_text
from catalog.errors import CatalogError
from catalog.quote import TABLES
from catalog.trust.definitions import FILE


def schema_folder() -> Traversable:
    """Where the migrations lie, and the list of what they make."""
    return resources.files("catalog") / "schema"


def migration_digests() -> dict[str, str]:
    """The digest of each migration's text, by the name of its file."""
    files = sorted((entry for entry in schema_folder().iterdir() if entry.name.endswith(".sql")), key=lambda e: e.name)
    return {file.name: f"blake2b:{digest_of_text(file.read_text(encoding='utf-8'))}" for file in files}


def check_definitions() -> None:
    """Raise CatalogError if the list of definitions was written from other migrations than there are."""
    kept = json.loads((schema_folder() / FILE).read_text(encoding="utf-8"))["migrations"]
    there = migration_digests()
    other = sorted(name for name in kept.keys() | there.keys() if kept.get(name) != there.get(name))
    if other:
        raise CatalogError(
            f"catalog/schema/{FILE} was written before {', '.join(other)} had its present text: "
            "run `python -m catalog.store.write_definitions`; no catalog was changed"
        )


def newer_schema(number: int, known: int) -> CatalogError:
    """The error for a catalog whose schema this saeql does not know."""
    return CatalogError(
        f"the catalog has schema {number}, and this saeql knows schemas up to {known}: "
        "it was made by a newer version; install that one"
    )


def check_number(connection: duckdb.DuckDBPyConnection) -> None:
    """Raise CatalogError if the attached metadata says that a newer saeql made the catalog, or the list is behind."""
    check_definitions()
    known = max(int(name[:4]) for name in migration_digests())
    stated = connection.execute(
        f"SELECT max(try_cast(s.max_value AS INTEGER)) FROM {TABLES}.ducklake_table_column_stats AS s "
        f"JOIN {TABLES}.ducklake_table AS t ON t.table_id = s.table_id "
        f"JOIN {TABLES}.ducklake_column AS c ON c.table_id = s.table_id AND c.column_id = s.column_id "
        "WHERE t.table_name = 'migrations' AND c.column_name = 'number'"
    ).fetchone()
    if stated and stated[0] is not None and stated[0] > known:
        raise newer_schema(stated[0], known)
