"""Catalogs and surroundings that are damaged: each command says in one line what, where and what to do."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from click.testing import CliRunner

import catalog.store.migrations
from catalog import Catalog
from catalog.answers import Answers
from catalog.errors import CatalogError, InputError, SaeqlError, StudyError, UnknownName
from catalog.study.file import Study
from catalog.vectors.collections import Vectors
from catalog.vectors.references import name_version
from catalog.versions.gc import collect_garbage
from queries.cli.failures import told
from queries.cli.main import main
from queries.refresh.engine import plan, refresh
from queries.session import Session

QUERY = ("sql", "SELECT count(*) FROM features")


def said(*arguments: object, code: int = 1) -> str:
    """The one line on standard error of a command that fails."""
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert "Traceback" not in result.output
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("saeql: ")
    return lines[0]


@pytest.fixture
def copy(made_root: Path, tmp_path: Path) -> Path:
    """A copy of the made catalog that nobody has open."""
    root = Path(shutil.copytree(made_root, tmp_path / "mine"))
    for beside in root.glob("catalog.sqlite-*"):
        beside.unlink()
    return root


# --- numbers


@pytest.mark.parametrize("days", [float("nan"), -1.0, float("-inf")])
def test_an_age_that_is_none_frees_nothing(mine: Catalog, days: float) -> None:
    before = mine.snapshot()
    for dry in (True, False):
        with pytest.raises(InputError, match="0 or more"):
            collect_garbage(mine, days, dry_run=dry)
    assert mine.snapshot() == before
    for days in (float("inf"), 1e300):
        assert collect_garbage(mine, days, dry_run=True).snapshots == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("refresh", "--max-cost", "nan"),
        ("refresh", "--wait", "nan"),
        ("gc", "--keep-days", "1", "--wait", "-1"),
        ("sweep", "sae", "--values", "1,nan"),
        ("sweep", "sae", "--values", "1", "--l0-low", "nan"),
    ],
)
def test_no_option_takes_what_is_not_a_number(arguments: tuple[str, ...], made_root: Path) -> None:
    result = CliRunner().invoke(main, ["-C", str(made_root), *arguments])
    assert result.exit_code == 2
    assert "number" in result.stderr


# --- metadata


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:30_000])


def _random(path: Path) -> None:
    path.write_bytes(bytes(at * 7 % 251 for at in range(60_000)))


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _without(table: str) -> Callable[[Path], None]:
    import sqlite3

    def drop(path: Path) -> None:
        connection = sqlite3.connect(path)
        connection.execute(f"DROP TABLE {table}")
        connection.close()

    return drop


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (_truncated, "malformed"),
        (_random, "not a database"),
        (_folder, "catalog.sqlite"),
        (_without("ducklake_snapshot"), "ducklake_snapshot does not exist"),
        (_without("ducklake_metadata"), "run what made it"),
        (lambda path: path.write_bytes(b""), "run what made it"),
    ],
)
def test_broken_metadata_is_one_line(damage: Callable[[Path], object], part: str, copy: Path) -> None:
    damage(copy / "catalog.sqlite")
    for command in (QUERY, ("refresh", "scores")):
        line = said("-C", copy, *command)
        assert part in line
        assert str(copy) in line
        assert not {"CREATE_IF", "DuckLake"} & set(line.split())
    with pytest.raises(CatalogError):
        Catalog(copy, read_only=True)


# --- a making that was cut off


@pytest.mark.parametrize("migrations", [None, 0, 4])
def test_a_making_that_was_cut_off_is_completed(
    migrations: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if migrations is None:
        (tmp_path / "data").mkdir()
        (tmp_path / "catalog.sqlite").touch()
    else:
        every = catalog.store.migrations.migrations()
        with monkeypatch.context() as patched:
            patched.setattr(catalog.store.migrations, "migrations", lambda: every[: max(migrations, 1)])
            if migrations == 0:
                patched.setattr("catalog.store.catalog.migrate", lambda _: [])
            Catalog.create(tmp_path).close()
    if not migrations:
        assert "as if its making was cut off: run what made it" in said("-C", tmp_path, *QUERY)
    with Catalog.create(tmp_path) as made:
        assert made.schema == catalog.store.migrations.newest()
        assert made.value("SELECT count(*) FROM features") == 0


def test_a_plan_of_an_older_schema_says_how_to_bring_it_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = catalog.store.migrations.migrations()
    with monkeypatch.context() as patched:
        patched.setattr(catalog.store.migrations, "migrations", lambda: every[:3])
        Catalog.create(tmp_path).close()
    assert "has schema 3 of" in said("-C", tmp_path, "plan")


# --- lost and cut Parquet files


@pytest.mark.parametrize("cut", [False, True])
def test_a_lost_or_cut_file_is_named(cut: bool, copy: Path) -> None:
    for table in ("feature_stats", "labels", "saes", "runs"):
        for path in (copy / "data" / "main" / table).rglob("*.parquet"):
            path.write_bytes(path.read_bytes()[:-50]) if cut else path.unlink()
    for command in (("show", 1), ("blame", 1), ("sql", "FROM labels"), ("plan", "scores")):
        line = said("-C", copy, *command)
        assert ".parquet" in line
        assert "doctor" in line or command[0] == "sql"
    with pytest.raises(CatalogError, match="lost or damaged"):
        Session(copy).feature(1)


def test_a_view_that_is_no_query_is_named(copy: Path) -> None:
    import sqlite3

    with sqlite3.connect(copy / "catalog.sqlite") as connection:
        connection.execute("UPDATE ducklake_view SET sql = 'SELEC (((' WHERE view_name = 'splits'")
    with pytest.raises(CatalogError, match="its view 'splits' is defined otherwise"):
        Catalog(copy, read_only=True)


# --- vectors


def _vectors(mine: Catalog) -> tuple[Vectors, int]:
    vectors = Vectors(mine.vectors)
    labels = mine.arrow("SELECT sae, feature, 'e' AS explainer, label FROM features ORDER BY ALL LIMIT 6")
    column = pa.FixedSizeListArray.from_arrays(pa.array([0.5, *[1.0] * (len(labels) * 4 - 1)], pa.float32()), 4)
    rows = labels.append_column("vector", column)
    for n in (3, 4, len(rows)):
        made = vectors.write("labels", rows.slice(0, n), key=["sae", "feature", "explainer"])
        with mine.write(f"vectors {n}") as tx:
            name_version(tx, made)
    return vectors, made.version


def _whole(folder: Path) -> None:
    shutil.rmtree(folder)


def _manifest(folder: Path) -> None:
    min(folder.glob("_versions/*.manifest"), key=lambda path: path.name).unlink()


def _manifests(folder: Path) -> None:
    for path in folder.glob("_versions/*.manifest"):
        path.write_bytes(b"x" * 300)


def _files(folder: Path) -> None:
    for path in folder.glob("data/*.lance"):
        path.unlink()


@pytest.mark.parametrize("damage", [_whole, _manifest, _manifests, _files])
def test_lost_vectors_are_said_and_made_anew_under_a_new_number(damage: Callable[[Path], None], mine: Catalog) -> None:
    vectors, version = _vectors(mine)
    assert vectors.lost("labels", version) == ""
    rows = vectors.read("labels", version)
    damage(mine.vectors / "labels.lance")
    if damage is not _manifests:
        assert "vectors/labels.lance" in vectors.lost("labels", version)
    if damage is not _manifest:  # which Lance remembers while the process lives
        with pytest.raises(CatalogError) as error:
            vectors.search("labels", version, [1.0, 1.0, 1.0, 1.0], 2)
        assert "saeql refresh" in str(error.value)
        assert "\n" not in str(error.value)
    made = vectors.write("labels", rows, ["sae", "feature", "explainer"], above=version)
    assert made.version > version
    assert vectors.read("labels", made.version).equals(rows)
    assert vectors.lost("labels", made.version) == ""
    # No snapshot of before takes the new rows for its own.
    if damage is not _manifest:
        with pytest.raises((CatalogError, UnknownName)):
            vectors.read("labels", version)


def test_a_lost_tag_is_seen_and_put_back(mine: Catalog) -> None:
    vectors, version = _vectors(mine)
    (mine.vectors / "labels.lance" / "_refs" / "tags" / f"v{version}.json").unlink()
    assert "has lost its tag" in vectors.lost("labels", version)
    rows = vectors.read("labels", version)
    made = vectors.write("labels", rows, ["sae", "feature", "explainer"], above=version)
    assert (made.version, vectors.lost("labels", version)) == (version, "")


def test_plan_and_refresh_see_lost_vectors(mine: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    def embed(texts: list[str]) -> "pa.Array":
        import numpy as np

        return np.eye(4, dtype=np.float32)[[len(text) % 4 for text in texts]]

    monkeypatch.setattr("ingest.model.embed.embed", embed)

    def state() -> tuple[str, tuple[str, ...]]:
        result = next(r for r in plan(mine, ("label_vectors",)) if r.step == "label_vectors")
        return result.state, result.why

    assert [r.error for r in refresh(mine, ("label_vectors",)) if r.error] == []
    assert state() == ("current", ())
    version = mine.value("SELECT version FROM lance WHERE collection = 'labels'")
    shutil.rmtree(mine.vectors / "labels.lance")
    assert state() == ("stale", (f"vectors/labels.lance lacks version {version}",))
    assert [r.error for r in refresh(mine, ("label_vectors",)) if r.error] == []
    assert state() == ("current", ())
    now = mine.value("SELECT version FROM lance WHERE collection = 'labels'")
    assert now > version
    assert Vectors(mine.vectors).read("labels", now).num_rows == mine.value("SELECT count(label) FROM labels")


# --- surroundings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SAEQL_MEMORY", "lots"),
        ("SAEQL_MEMORY", "\x1b[2J"),
        ("SAEQL_MEMORY", "1B"),
        ("SAEQL_THREADS", "0"),
        ("SAEQL_THREADS", "-3"),
        ("SAEQL_THREADS", "1'; DROP"),
    ],
)
def test_bounds_that_are_none_are_named(
    name: str, value: str, made_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    line = said("-C", made_root, *QUERY)
    assert name in line
    assert "\x1b" not in line


def test_a_folder_that_was_deleted_under_the_command_is_said(
    tmp_path: Path, made_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAEQL_CATALOG", raising=False)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "the current folder was deleted" in said("log")
    assert "the current folder was deleted" in said("init", "x")
    assert "the current folder was deleted" in said("-C", made_root, *QUERY)


def test_errors_of_the_machine_are_sentences_and_bugs_are_none() -> None:
    assert told(OSError(30, "Read-only file system", "/a/b")) is not None
    assert "ulimit" in str(told(OSError(24, "Too many open files")))
    assert "memory" in str(told(MemoryError()))
    assert "doctor" in str(told(duckdb.IOException("gone\nat line 3")))
    assert "\n" not in str(told(duckdb.IOException("gone\nat line 3")))
    assert told(KeyError("x")) is None


@pytest.fixture
def read_only(copy: Path, tmp_path: Path) -> Iterator[Path]:
    """The catalog on a file system that can only be read."""
    place = tmp_path / "mounted"
    place.mkdir()
    for command in (["mount", "--bind", copy, place], ["mount", "-o", "remount,ro,bind", place]):
        if subprocess.run(command, capture_output=True).returncode:
            subprocess.run(["umount", "-l", place], capture_output=True)
            pytest.skip("nothing can be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], capture_output=True)


def test_a_read_only_folder_can_be_read_and_says_that_it_cannot_be_written(read_only: Path) -> None:
    assert not os.access(read_only, os.W_OK)
    for command in (QUERY, ("log", "-n", "1"), ("gc", "--keep-days", "0", "--dry-run")):
        assert CliRunner().invoke(main, ["-C", str(read_only), *command]).exit_code == 0
    for command in (
        ("refresh", "scores"),
        ("gc", "--keep-days", "1"),
        ("tag", "x"),
        ("rollback", "scores", "--to", "1"),
    ):
        assert "cannot be written" in said("-C", read_only, *command)
    assert "only be read" in said("init", read_only / "new")


# --- studies and answers


@pytest.mark.parametrize(
    "content",
    [b'name = "caf\xe9"', b'name = "a\0b"', b"a = " + b"[" * 20_000, b'name = "a"'.decode().encode("utf-16")],
)
def test_a_damaged_study_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_bytes(content)
    with pytest.raises(StudyError) as error:
        Study.load(tmp_path / "study.toml")
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("content", [b"garbage" * 1000, None])
def test_a_damaged_store_of_answers_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(SaeqlError, match=r"answers\.sqlite"), Answers(path) as answers:
        answers.get("x")
