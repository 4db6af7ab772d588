"""The list of columns and views that migrations make is what they make."""

import json
import shutil
import sqlite3
from importlib import resources
from pathlib import Path

import pytest

from catalog import Catalog
from catalog.errors import CatalogError, ForeignCatalog
from catalog.store.migrations import migrate, newest
from catalog.store.write_definitions import migrated
from catalog.trust.definitions import made
from catalog.trust.schema_number import migration_digests
from tests.empty import make_empty
from tests.postgres import Postgres


def test_the_list_is_what_the_migrations_make() -> None:
    kept = json.loads((resources.files("catalog") / "schema" / "definitions.json").read_text())
    assert migrated() == kept["definitions"], (
        "run python -m catalog.store.write_definitions after a change of catalog/schema"
    )
    assert migration_digests() == kept["migrations"]


def test_each_migration_has_its_state() -> None:
    assert len(made().after) == newest() + 1
    assert made().after[0] == frozenset()
    one = {definition.name for definition in made().after[1] if definition.kind == "column"}
    assert {"migrations.number", "migrations.name", "saes.weights"} <= one
    assert made().after[newest()] < made().every


@pytest.fixture
def developed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of catalog/schema that saeql takes for its own, to be changed as a developer does."""
    folder = tmp_path / "schema"
    shutil.copytree(Path(__file__).parents[2] / "catalog" / "schema", folder)
    monkeypatch.setattr("catalog.trust.schema_number.schema_folder", lambda: folder)
    monkeypatch.setattr("catalog.store.migrations.schema_folder", lambda: folder)
    return folder


def later(folder: Path, sql: str = "CREATE TABLE later (i INTEGER NOT NULL);") -> tuple[str, int]:
    """A migration after the newest, in the folder: its file and number."""
    number = newest() + 1
    (folder / f"{number:04}_later.sql").write_text(sql, encoding="utf-8")
    return f"{number:04}_later.sql", number


def test_a_migration_that_the_list_lacks_is_said_before_it_runs(developed: Path, tmp_path: Path) -> None:
    make_empty(tmp_path / "c").close()
    name, number = later(developed)
    for make in (Catalog.create, Catalog.writable):
        with pytest.raises(CatalogError, match=f"was written before {name} had its present text: run `python -m"):
            make(tmp_path / "c")
    with Catalog(tmp_path / "c", read_only=True) as catalog:
        assert catalog.schema == number - 1
        assert not catalog.rows("SELECT 1 FROM duckdb_tables() WHERE table_name = 'later'")
    with pytest.raises(CatalogError, match=name):
        Catalog.create(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_migration_that_was_edited_or_is_gone_is_said_too(developed: Path, tmp_path: Path) -> None:
    (developed / "0012_pieces.sql").unlink()
    with (developed / "0001_text_and_models.sql").open("a") as file:
        file.write("-- edited\n")
    with pytest.raises(CatalogError, match=r"before 0001_text_and_models\.sql, 0012_pieces\.sql had"):
        Catalog.create(tmp_path / "new")


def test_a_catalog_of_a_newer_schema_is_no_strangers(
    tmp_path: Path, metadata: Postgres | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql = "CREATE TABLE later (i INTEGER); DROP VIEW splits; CREATE VIEW splits AS SELECT 1;"
    make_empty(tmp_path / "c", metadata).close()
    known = newest()
    with Catalog(tmp_path / "c") as catalog:
        # As another branch's saeql leaves it.
        monkeypatch.setattr("catalog.store.migrations.migrations", lambda: [(known + 1, "later", sql)])
        migrate(catalog.connection)
    monkeypatch.undo()
    for read_only in (True, False):
        with pytest.raises(CatalogError) as refused:
            Catalog(tmp_path / "c", read_only=read_only)
        assert str(refused.value) == (
            f"the catalog has schema {known + 1}, and this saeql knows schemas up to {known}: "
            "it was made by a newer version; install that one"
        )


def test_a_number_does_not_excuse_a_macro(tmp_path: Path) -> None:
    with make_empty(tmp_path / "c") as catalog, catalog.write("newer") as tx:
        tx.insert("migrations", [{"number": newest() + 1, "name": "later"}])
    with sqlite3.connect(tmp_path / "c" / "catalog.sqlite") as connection:
        connection.execute("INSERT INTO ducklake_macro VALUES (0, 1, 'max', 1, NULL)")
        connection.execute("UPDATE ducklake_view SET sql = 'SELECT 2' WHERE view_name = 'splits'")
    connection.close()
    with pytest.raises(ForeignCatalog) as refused:
        Catalog(tmp_path / "c")
    assert len(refused.value.found) == 2


def test_a_number_that_is_none_leaves_a_stranger_a_stranger(tmp_path: Path) -> None:
    make_empty(tmp_path / "c").close()
    with sqlite3.connect(tmp_path / "c" / "catalog.sqlite") as connection:
        connection.execute("UPDATE ducklake_view SET sql = 'SELECT 2' WHERE view_name = 'splits'")
        connection.execute("UPDATE ducklake_table_column_stats SET max_value = 'no number'")
    connection.close()
    with pytest.raises(ForeignCatalog, match="'splits' is defined otherwise"):
        Catalog(tmp_path / "c")
