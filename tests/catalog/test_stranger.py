"""A catalog from somebody else: whatever its metadata or its folder holds, every command only says what is wrong."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from catalog import Catalog
from catalog.errors import CatalogError, ForeignCatalog, InputError, SaeqlError
from catalog.store.connection import _extension_file
from catalog.store.locks import locked
from catalog.trust.metadata import mistakes
from catalog.trust.paths import inside, links
from catalog.versions.gc import collect_garbage
from queries.cli.main import main
from tests.empty import make_empty

SECRET = "the-secret-of-the-reader"
COMMANDS = (
    ["sql", "SELECT 1"],
    ["doctor"],
    ["show", "0"],
    ["log"],
    ["search", "matrix"],
    ["plan"],
    ["refresh", "--dry-run"],
    ["gc", "--keep-days", "0"],
    ["gc", "--keep-days", "0", "--dry-run"],
    ["doctor", "--fix"],
    ["tag", "mine"],
    ["diff", "1"],
)


class Stranger:
    """A catalog to alter, and files of its reader beside it."""

    def __init__(self, folder: Path):
        make_empty(folder / "catalog").close()
        self.root = folder / "catalog"
        self.mine = folder / "mine"
        self.mine.mkdir()
        self.secret = self.mine / "secret.txt"
        self.secret.write_text(SECRET)
        pq.write_table(pa.table({"sae": [SECRET]}), self.mine / "rows.parquet")

    def sqlite(self, *statements: str) -> None:
        """Change the metadata's file itself."""
        with sqlite3.connect(self.root / "catalog.sqlite") as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()

    def lake(self, *statements: str) -> None:
        """Change the catalog as anybody with DuckDB can."""
        connection = duckdb.connect()
        for package, name in (("sqlite_scanner", "sqlite_scanner"), ("ducklake", "ducklake")):
            connection.execute(f"LOAD '{_extension_file(f'duckdb_extension_{package}', name)}'")
        connection.execute(
            f"ATTACH 'ducklake:sqlite:{self.root}/catalog.sqlite' AS lake "
            f"(DATA_PATH '{self.root}/data/', OVERRIDE_DATA_PATH true)"
        )
        for statement in statements:
            connection.execute(statement)
        connection.close()

    def schedule(self, path: str, relative: int) -> None:
        self.sqlite(
            "INSERT INTO ducklake_files_scheduled_for_deletion "
            f"VALUES (999, '{path}', {relative}, '2020-01-01 00:00:00+00')"
        )


@pytest.fixture
def stranger(tmp_path: Path) -> Stranger:
    return Stranger(tmp_path)


DELETES = "(SELECT least(count(*), 11) FROM ducklake_cleanup_old_files('lake', cleanup_all => true))"


def _macro(name: str) -> Callable[[Stranger], None]:
    def alter(it: Stranger) -> None:
        it.lake(f"CREATE MACRO lake.main.{name}(a) AS {DELETES}")
        it.schedule(str(it.secret), 0)

    return alter


def _view(name: str, body: str) -> Callable[[Stranger], None]:
    def alter(it: Stranger) -> None:
        it.lake(f"DROP VIEW IF EXISTS lake.main.{name}", f"CREATE VIEW lake.main.{name} AS {body}")
        it.sqlite(f"UPDATE ducklake_view SET sql = replace(sql, 'SECRET', '{it.secret}')")
        it.schedule(str(it.secret), 0)

    return alter


def _sql(*statements: str) -> Callable[[Stranger], None]:
    return lambda it: it.sqlite(*(statement.replace("MINE", str(it.mine)) for statement in statements))


def _link(name: str, target: str) -> Callable[[Stranger], None]:
    def alter(it: Stranger) -> None:
        path = it.root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(it.mine / target)

    return alter


def _pipe(it: Stranger) -> None:
    os.mkfifo(it.root / "data" / "main" / "pipe.parquet")


A_FILE = "INSERT INTO ducklake_data_file SELECT 999, table_id, 1, NULL, NULL, {}, 'parquet', 1, 500, 100, 0"
A_FILE += ", NULL, NULL, NULL, NULL FROM ducklake_table WHERE table_name = 'saes'"

ALTERATIONS: dict[str, tuple[Callable[[Stranger], None], str]] = {
    "a macro for max": (_macro("max"), "holds a macro 'max'"),
    "a macro for strftime": (_macro("strftime"), "holds a macro 'strftime'"),
    "a macro that saeql does not call": (_macro("mine"), "holds a macro 'mine'"),
    "a macro that an old snapshot had": (
        lambda it: it.lake("CREATE MACRO lake.main.max(a) AS 1", "DROP MACRO lake.main.max"),
        "holds a macro 'max'",
    ),
    "a view that deletes": (
        _view("features", f"SELECT 0 AS feature, {DELETES} AS x"),
        "view 'features' is defined otherw",
    ),
    "a view that reads": (
        _view("label_scores", "SELECT content AS sae FROM read_text('SECRET')"),
        "view 'label_scores' is defined otherwise",
    ),
    "a view of another name": (_view("more", "SELECT 1 AS x"), "view 'more' is not one of saeql's"),
    "a table of another name": (
        lambda it: it.lake("CREATE TABLE lake.main.more (x INTEGER)"),
        "a table 'more', which saeql never makes",
    ),
    "a column more": (
        lambda it: it.lake("ALTER TABLE lake.main.saes ADD COLUMN more VARCHAR"),
        "column 'saes.more' is not one of saeql's",
    ),
    "a column's type": (
        _sql("UPDATE ducklake_column SET column_type = 'int64' WHERE column_name = 'weights'"),
        "column 'saes.weights' is defined otherwise",
    ),
    "a default that reads": (
        _sql(
            "UPDATE ducklake_column SET default_value_type = 'expression', "
            "default_value = 'read_text(''MINE/secret.txt'')' WHERE column_name = 'weights'"
        ),
        "column 'saes.weights' is defined otherwise",
    ),
    "a view that is missing": (lambda it: it.lake("DROP VIEW lake.main.features"), "view 'features' is missing"),
    "an absolute path to delete": (lambda it: it.schedule(str(it.secret), 0), "secret.txt'"),
    "a path to delete that climbs": (lambda it: it.schedule("../../mine/secret.txt", 1), "'../../mine/secret.txt'"),
    "a path to delete beside the tables": (lambda it: it.schedule("x.parquet", 1), "'x.parquet'"),
    "an absolute path to read": (_sql(A_FILE.format("'MINE/rows.parquet', 0")), "rows.parquet'"),
    "a path to read that climbs": (_sql(A_FILE.format("'../../../../mine/rows.parquet', 1")), "mine/rows.parquet'"),
    "a path with a wildcard": (_sql(A_FILE.format("'*.parquet', 1")), "'*.parquet'"),
    "a path on the network": (_sql(A_FILE.format("'https://127.0.0.1:9/x.parquet', 0")), "'https://127.0.0.1"),
    "a table's folder": (
        _sql("UPDATE ducklake_table SET path = 'MINE/', path_is_relative = 0 WHERE table_name = 'saes'"),
        "files of its table 'saes' lie in",
    ),
    "the schema's folder": (_sql("UPDATE ducklake_schema SET path = '../../mine/'"), "'../../mine/'"),
    "an option": (
        _sql("INSERT INTO ducklake_metadata VALUES ('data_inlining_row_limit', '1000', NULL, NULL)"),
        "sets 'data_inlining_row_limit'",
    ),
    "a sort order": (
        _sql(
            "INSERT INTO ducklake_sort_expression VALUES (1, 1, 0, 'read_text(''MINE/secret.txt'')', 'duckdb', '', '')"
        ),
        "holds a sort expression",
    ),
    "a trigger": (
        _sql("CREATE TRIGGER t AFTER INSERT ON ducklake_snapshot BEGIN DELETE FROM ducklake_data_file; END"),
        "holds a trigger 't'",
    ),
    "a view in place of a table": (
        _sql(
            "ALTER TABLE ducklake_macro RENAME TO real_macro",
            "CREATE VIEW ducklake_macro AS SELECT * FROM real_macro WHERE 0",
        ),
        "holds a view 'ducklake_macro'",
    ),
    "a view that never ends": (
        _sql(
            "ALTER TABLE ducklake_snapshot RENAME TO real_snapshot",
            "CREATE VIEW ducklake_snapshot AS "
            "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT * FROM n",
        ),
        "holds a view 'ducklake_snapshot'",
    ),
    "a table of DuckLake's that is missing": (_sql("DROP TABLE ducklake_view"), "ducklake_view"),
    "a text where a number belongs": (_sql("UPDATE ducklake_table SET table_id = 'x'"), "cannot be"),
    "control characters": (
        lambda it: it.sqlite(
            "INSERT INTO ducklake_macro VALUES (0, 9, 'a' || char(27) || ']52;c;x' || char(7), 1, NULL)"
        ),
        r"holds a macro 'a\x1b]52;c;x\x07'",
    ),
    "data/ as a link": (_link("data", ""), "data' is a link, to "),
    "a table's folder as a link": (_link("data/main/saes", ""), "saes' is a link"),
    "a file as a link": (_link("data/main/saes/x.parquet", "rows.parquet"), "x.parquet' is a link"),
    "weights as a link": (_link("weights/sae", ""), "sae' is a link"),
    "vectors as a link": (_link("vectors/labels.lance", ""), "labels.lance' is a link"),
    "a cache as a link": (_link("cache/residuals", ""), "residuals' is a link"),
    "a lock as a link": (_link("commit.lock", "secret.txt"), "commit.lock' is a link"),
    "the answers as a link": (_link("answers.sqlite", "secret.txt"), "answers.sqlite' is a link"),
    "a pipe": (_pipe, "is a pipe, not a file"),
}


@pytest.mark.parametrize("name", ALTERATIONS)
def test_every_command_only_says_what_is_wrong(name: str, stranger: Stranger) -> None:
    alter, said = ALTERATIONS[name]
    alter(stranger)
    mine = {path: path.read_bytes() for path in stranger.mine.iterdir()}
    there = {path for path in stranger.root.rglob("*") if path.suffix != ".lock"}
    # All commands go through one opening, `sql` through that for reading in a process of its own: each alteration is
    # tried on that opening, on `doctor` and on some of the others, every fourth on `sql`.
    at = list(ALTERATIONS).index(name)
    with pytest.raises(SaeqlError) as refused:
        Catalog(stranger.root, read_only=True)
    assert said.partition("\\")[0] in str(refused.value)
    assert SECRET not in str(refused.value)
    first = COMMANDS[:2] if at % 4 == 0 else COMMANDS[1:2]
    for command in (*first, *(COMMANDS[2 + (at + n) % (len(COMMANDS) - 2)] for n in (0, 5))):
        result = CliRunner().invoke(main, ["-C", str(stranger.root), *command])
        assert result.exit_code in (1, 2), (command, result.output)
        assert result.exception is None or isinstance(result.exception, SystemExit), command
        # In JSON a backslash stands twice.
        assert said in result.output.replace("\\\\", "\\"), (command, result.output)
        assert SECRET not in result.output
        assert "\x1b" not in result.output
    assert {path: path.read_bytes() for path in stranger.mine.iterdir()} == mine
    # SQLite's own files come and go as it is opened.
    after = {path for path in stranger.root.rglob("*") if path.suffix != ".lock"}
    assert {path.name for path in after ^ there} <= {"catalog.sqlite-wal", "catalog.sqlite-shm", "spill"}


def test_what_is_wrong_is_said_all_at_once_and_cut_where_it_is_much(stranger: Stranger) -> None:
    stranger.sqlite(*(f"INSERT INTO ducklake_macro VALUES (0, {n}, 'm{n:02}', 1, NULL)" for n in range(30)))
    with pytest.raises(ForeignCatalog) as caught:
        Catalog(stranger.root)
    made = [f"it holds a macro 'm{n:02}', which saeql never makes" for n in range(20)]
    assert caught.value.found == (*made, "and more")


def test_names_are_the_engines_before_they_are_the_catalogs(tmp_path: Path) -> None:
    # A second line: were a macro to get in, our own calls would still be the engine's.
    with make_empty(tmp_path / "catalog") as catalog:
        catalog.connection.execute("CREATE MACRO lake.main.max(a) AS 42")
        assert catalog.rows("SELECT max(x) FROM range(3) AS t(x)") == [(2,)]
        beside = catalog.beside()
        assert beside.rows("SELECT max(x) FROM range(3) AS t(x)") == [(2,)]
        beside.close()


def test_the_engine_reaches_no_file_outside_of_the_catalog(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text(SECRET)
    with make_empty(tmp_path / "catalog") as catalog:
        for statement in (
            f"SELECT * FROM read_text('{tmp_path}/secret.txt')",
            f"COPY (SELECT 1) TO '{tmp_path}/out.csv'",
            f"ATTACH '{tmp_path}/x.db'",
            "SET enable_external_access = true",
        ):
            with pytest.raises((duckdb.PermissionException, duckdb.InvalidInputException)):
                catalog.connection.execute(statement)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["catalog", "secret.txt"]


@pytest.mark.parametrize(
    "name", ["", "..", ".", "../x", "a/../../x", "/etc/passwd", "a//b", "a\0b", "s3://b/x", "a\\b"]
)
def test_a_name_that_is_no_path_under_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CatalogError, match="no path under"):
        inside(tmp_path, name)


def test_a_name_that_a_link_leads_out_is_refused_unless_the_links_are_mine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "weights"
    home.mkdir()
    (home / "out").symlink_to(tmp_path)
    (home / "in").mkdir()
    assert inside(home, "in/x") == home / "in" / "x"
    with pytest.raises(CatalogError, match="a link leads"):
        inside(home, "out/x")
    monkeypatch.setenv("SAEQL_FOLLOW_LINKS", "1")
    assert inside(home, "out/x") == home / "out" / "x"


def test_links_of_the_readers_own_are_followed_if_they_say_so(
    stranger: Stranger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.move(stranger.root / "data", tmp_path / "large-disk")
    (stranger.root / "data").symlink_to(tmp_path / "large-disk")
    with pytest.raises(ForeignCatalog, match="SAEQL_FOLLOW_LINKS"):
        Catalog(stranger.root)
    monkeypatch.setenv("SAEQL_FOLLOW_LINKS", "1")
    with Catalog(stranger.root) as catalog:
        assert catalog.rows("SELECT count(*) FROM saes") == [(0,)]


def test_what_a_person_keeps_beside_a_catalog_is_theirs(stranger: Stranger) -> None:
    (stranger.root / "texts").symlink_to(stranger.mine)
    (stranger.root / "study.toml").symlink_to(stranger.secret)
    assert list(links(stranger.root)) == []
    Catalog(stranger.root).close()


def test_a_lock_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    (tmp_path / "commit.lock").symlink_to(tmp_path / "notes")
    with pytest.raises(InputError, match="it is a link"), locked(tmp_path / "commit.lock", wait=0):
        pass
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_clean_up_refuses_a_path_that_came_in_after_the_opening(stranger: Stranger) -> None:
    with Catalog(stranger.root) as catalog:
        stranger.schedule(str(stranger.secret), 0)
        with pytest.raises(CatalogError, match="no path under"):
            collect_garbage(catalog, 0)
    assert stranger.secret.read_text() == SECRET


@pytest.mark.parametrize("weights", ["../../mine", "/etc", ".."])
def test_weights_that_a_row_names_elsewhere_are_not_read(stranger: Stranger, weights: str) -> None:
    with Catalog(stranger.root) as catalog, pytest.raises(CatalogError, match="no path under"):
        catalog.weights_of(weights)


def test_a_catalog_of_ones_own_has_no_mistakes(tmp_path: Path) -> None:
    with make_empty(tmp_path / "catalog") as catalog:
        assert mistakes(catalog.connection) == []
