"""The store on disk: it opens, moves, refuses what it cannot read, documents itself, and survives a full disk."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import duckdb
import pytest

from catalog import Catalog, Location
from catalog.doctor.finding import Finding
from catalog.errors import CatalogError, InputError
from catalog.schema.keys import KEYS
from catalog.store.migrations import migrate, migrations
from tests.catalog.small_catalog import TOKENS
from tests.hand_rows import feature_stats, label, score
from tests.postgres import Postgres, copied


def broken(catalog: Catalog) -> list[Finding]:
    from catalog.doctor.examine import examine

    return [finding for finding in examine(catalog) if finding.severity != "ok"]


def test_a_new_catalog_is_whole_and_creating_it_again_changes_nothing(
    tmp_path: Path, metadata: Postgres | None
) -> None:
    location = metadata.location(tmp_path / "c") if metadata else Location(tmp_path / "c")
    with Catalog.create(location) as catalog:
        before = catalog.snapshot()
        assert broken(catalog) == []
    with Catalog.create(location) as catalog:
        assert catalog.snapshot() == before


def test_no_catalog_or_a_file_in_its_place_is_said(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="holds no catalog"):
        Catalog(tmp_path)
    (tmp_path / "f").write_text("")
    with pytest.raises(InputError, match="is a file, not a directory"):
        Catalog.create(tmp_path / "f")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "catalog.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(CatalogError, match="cannot be opened"):
        Catalog(tmp_path / "d")


def test_a_moved_catalog_reads_its_own_files(root: Path, tmp_path: Path) -> None:
    server = Location.parse(root).server
    moved = Path(shutil.move(root, tmp_path / "it's elsewhere"))
    if server is not None:
        with pytest.raises(InputError, match=r"was copied or is mounted elsewhere: .* name the catalog by its address"):
            Catalog(moved)
    with Catalog(Location(moved, server)) as catalog:
        assert catalog.value("SELECT count(*) FROM activations WHERE activation = 0.5") == 2 * TOKENS
        assert catalog.value("SELECT count(text) FROM token_text") == 2 * TOKENS
        assert broken(catalog) == []
        with catalog.write("more") as tx:
            tx.insert("leaks", [{"corpus": "c", "position": 1}])
        assert catalog.value("SELECT count(*) FROM leaks") == 1


@pytest.mark.parametrize("statement", ["INSERT INTO leaks VALUES ('c', 1)", "DROP TABLE leaks", "DELETE FROM tokens"])
def test_a_catalog_opened_for_reading_cannot_be_written(root: Path, statement: str) -> None:
    with Catalog(root, read_only=True) as catalog:
        assert catalog.value("SELECT count(*) FROM tokens") == 2 * TOKENS
        with pytest.raises(duckdb.Error, match="read-only"):
            catalog.rows(statement)
        with pytest.raises(CatalogError, match="open for reading"), catalog.write("x"):
            pass


def test_every_table_and_column_is_documented(store: Catalog) -> None:
    assert store.rows("SELECT table_name FROM duckdb_tables() WHERE database_name = 'lake' AND comment IS NULL") == []
    bare = store.rows(
        "SELECT table_name, column_name FROM duckdb_columns() WHERE database_name = 'lake' AND comment IS NULL "
        "AND table_name NOT IN (SELECT view_name FROM duckdb_views())"
    )
    assert bare == []


def test_every_table_view_and_column_is_documented_where_queries_can_read_it(store: Catalog) -> None:
    """By the names that a SELECT gives, table by table; what a table's row says is its comment."""
    relations = [row[0] for row in store.rows("SELECT table_name FROM information_schema.tables ORDER BY ALL")]
    assert {"features", "feature_stats", "columns_doc", "tags"} <= set(relations)
    columns = {
        (relation, column[0])
        for relation in relations
        for column in store.connection.execute(f'SELECT * FROM lake.main."{relation}" LIMIT 0').description or ()
    }
    documented = store.rows("SELECT relation, name FROM columns_doc")
    assert sorted(documented) == sorted(columns | {(relation, "*") for relation in relations})
    said = "SELECT doc FROM columns_doc WHERE relation = ? AND name = ?"
    assert store.value(said, ["feature_stats", "firings"]) == "tokens that it fires on; 0 for a dead feature"
    assert store.value(said, ["features", "n"]) == "windows judged"


def test_the_view_features_has_the_label_and_the_score_of_the_primaries_alone(store: Catalog) -> None:
    with store.write("by hand") as tx:
        tx.insert("study", [{"name": "s", "explainer": "lexical", "scorer": "d", "concept": "c", "source": None}])
        tx.insert("feature_stats", [feature_stats(1, "s"), feature_stats(2, "s", firings=0)])
        tx.insert("labels", [label(1, "matrices", "s"), label(1, "another", "s", explainer="llm")])
        tx.insert("scores", [score(1, 0.75, "s"), score(1, 0.5, "s", scorer="e"), score(1, 1.0, "s", explainer="llm")])
    found = store.rows("SELECT feature, label, f1, n, firings FROM features ORDER BY feature")
    assert found == [(1, "matrices", 0.75, 50, 4), (2, None, None, None, 0)]


def test_a_later_migration_documents_its_columns_by_their_comments(
    store: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(store.rows("SELECT relation, name, doc FROM columns_doc"))
    sql = (
        "ALTER TABLE tags ADD COLUMN why VARCHAR; COMMENT ON COLUMN tags.why IS 'the reason'; "
        "COMMENT ON TABLE tags IS 'names'; ALTER TABLE leaks DROP COLUMN corpus"
    )
    monkeypatch.setattr("catalog.store.migrations.migrations", lambda: [(99, "later", sql)])
    migrate(store.connection)
    after = set(store.rows("SELECT relation, name, doc FROM columns_doc"))
    assert after - before == {("tags", "why", "the reason"), ("tags", "*", "names")}
    assert {row[:2] for row in before - after} == {("tags", "*"), ("leaks", "corpus")}


def test_every_table_has_a_key_of_columns_that_are_not_null(store: Catalog) -> None:
    tables = {row[0] for row in store.rows("SELECT table_name FROM ducklake_table_info('lake')")}
    assert tables == KEYS.keys()
    required = set(
        store.rows(
            "SELECT table_name, column_name FROM duckdb_columns() WHERE database_name = 'lake' AND NOT is_nullable"
        )
    )
    assert {(table, column) for table, key in KEYS.items() for column in key} <= required


def test_a_catalog_of_a_newer_version_is_refused(root: Path) -> None:
    newest = migrations()[-1][0]
    with Catalog(root) as catalog, catalog.write("newer") as tx:
        tx.insert("migrations", [{"number": newest + 1, "name": "later"}])
    with pytest.raises(CatalogError, match=f"has schema {newest + 1}, and this saeql knows schemas up to {newest}"):
        Catalog(root)
    with pytest.raises(CatalogError, match="newer version"):
        Catalog.create(root)


def test_a_migration_that_fails_leaves_the_catalog_as_it_was(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = migrations()
    bad = (known[-1][0] + 1, "9999_bad", "CREATE TABLE half (i INTEGER); SELECT no_such_column FROM half;")
    monkeypatch.setattr("catalog.store.migrations.migrations", lambda: [*known, bad])
    with pytest.raises(duckdb.Error, match="no_such_column"):
        Catalog.create(root)
    with Catalog(root) as catalog:
        assert catalog.value("SELECT max(number) FROM migrations") == known[-1][0]
        assert not catalog.rows("SELECT 1 FROM duckdb_tables() WHERE table_name = 'half'")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 12 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk takes root")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)


@pytest.mark.parametrize("rows", [100_000_000, 1])
def test_a_full_disk_is_said_and_harms_nothing(
    root: Path, small_disk: Path, rows: int, metadata: Postgres | None
) -> None:
    place = copied(root, small_disk / "catalog", metadata)
    ballast = small_disk / "ballast"
    with Catalog(place) as catalog:
        before = catalog.snapshot()
        if rows == 1:
            fill(ballast)
        with pytest.raises(InputError, match="is full; nothing of this step was kept"), catalog.write("big") as tx:
            tx.execute("INSERT INTO lake.leaks SELECT 'c', hash(i) >> 1 FROM range(?) AS t (i)", [rows])
        assert catalog.snapshot() == before
    ballast.unlink(missing_ok=True)
    with Catalog(place) as catalog:
        assert catalog.snapshot() == before
        assert broken(catalog) == []
        with catalog.write("small") as tx:
            tx.insert("leaks", [{"corpus": "c", "position": 1}])
        assert catalog.value("SELECT count(*) FROM leaks") == 1
