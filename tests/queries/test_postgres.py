"""A catalog with its metadata in PostgreSQL gives what one with SQLite gives, from the refresh to the command line."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from catalog import Catalog, Location
from catalog.doctor.examine import CHECKS, examine
from catalog.errors import CatalogError
from queries.ask.guard import run
from queries.refresh.step import packaged_steps
from queries.session import connect
from tests.postgres import PASSWORD, Postgres, copied, programs, running
from tests.queries.made import make, refresh_made

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shared(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Location:
    """The made catalog, refreshed, on the server. Not to be written to."""
    folder = tmp_path_factory.mktemp("shared")
    location = postgres.location(folder)
    location.remember()
    make(folder)
    with Catalog(location) as catalog:
        refresh_made(catalog)
    return location


@pytest.fixture
def own(shared: Location, tmp_path: Path, postgres: Postgres) -> Location:
    """A copy that a test may change."""
    return Location.parse(copied(shared.root, tmp_path / "own", postgres))


def tables(catalog: Catalog) -> dict[str, list[tuple[Any, ...]]]:
    names = sorted({step.writes for step in packaged_steps()} - {"lance"})
    return {name: catalog.rows(f"SELECT * FROM lake.{name} ORDER BY ALL") for name in names}


def test_a_refresh_makes_the_same_tables_as_with_sqlite(shared: Location, made_root: Path) -> None:
    assert not (shared.root / "catalog.sqlite").exists()
    with Catalog(shared, read_only=True) as here, Catalog(made_root, read_only=True) as there:
        ours, theirs = tables(here), tables(there)
        assert ours == theirs
        assert len(ours["scores"]) > 0
        checks = CHECKS.keys() - {"weights"}
        assert [f for f in examine(here, only=checks) if f.severity == "error"] == []


def test_a_second_refresh_does_nothing_and_an_edit_reruns_what_depends_on_it(own: Location) -> None:
    with Catalog(own) as catalog:
        before = catalog.snapshot()
        assert {result.state for result in refresh_made(catalog).values()} == {"current"}
        assert catalog.snapshot() == before
        kept = tables(catalog)
        shortened = refresh_made(catalog, contexts_top__k=5)
        assert {"contexts_top", "labels"} <= {name for name, result in shortened.items() if result.state == "done"}
        assert shortened["feature_sums"].state == "current"
        assert catalog.value("SELECT max(rank) FROM contexts WHERE kind = 'top'") == 5
        assert tables(catalog) != kept
        refresh_made(catalog)
        assert tables(catalog) == kept


def saeql(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "queries.cli.main", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=REPOSITORY, env={**os.environ, **environment}, timeout=120
    )


def test_the_command_line_takes_the_address(shared: Location) -> None:
    assert shared.server is not None
    guarded = (
        f"postgres://guarded:{quote(PASSWORD, safe='')}@127.0.0.1:{shared.server.port}/"
        f"{shared.server.database}?data={shared.root}"
    )
    query = "SELECT count(*) AS n FROM features"
    with Catalog(shared, read_only=True) as catalog:
        expected = [{"n": catalog.value(query)}]
    for done in (
        saeql("-C", guarded, "sql", "--json", query),
        saeql("sql", "--json", query, SAEQL_CATALOG=str(shared)),
        saeql("-C", str(shared.root), "sql", "--json", query),
    ):
        assert (done.returncode, json.loads(done.stdout)) == (0, expected), done.stderr
    with connect(guarded) as session:
        assert session.sql(query).to_pylist() == expected

    refused = saeql("-C", guarded.replace(quote(PASSWORD, safe=""), "hunter2"), "log")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"port {shared.server.port}" in refused.stderr
    assert "hunter2" not in refused.stderr
    assert "Traceback" not in refused.stderr
    wrong = saeql("-C", "postgres://me:hunter2@h/d", "log")
    assert wrong.returncode == 2
    assert "lacks ?data=FOLDER" in wrong.stderr
    assert "hunter2" not in wrong.stderr


def test_a_query_to_a_server_that_is_gone_is_not_the_querys_fault(tmp_path: Path) -> None:
    bin = programs()
    if bin is None:
        pytest.skip("no PostgreSQL server is installed here: apt-get install postgresql")
    with running(bin) as server, Catalog.create(server.location(tmp_path / "catalog")) as catalog:
        assert run("SELECT count(*) AS n FROM features", catalog).read_all().to_pylist() == [{"n": 0}]
        server.stop()
        with pytest.raises(CatalogError, match=f"on 127.0.0.1, port {server.port}, cannot be used"):
            run("SELECT count(*) AS n FROM features", catalog)


def test_init_makes_a_catalog_that_its_folder_names(postgres: Postgres, tmp_path: Path) -> None:
    location = postgres.location(tmp_path / "team")
    done = saeql("init", str(location))
    assert done.returncode == 0, done.stderr
    assert (location.root / "study.toml").exists()
    assert str(location.root) in done.stderr
    looked = saeql("-C", str(location.root), "doctor", "--json")
    assert looked.returncode == 0, looked.stderr
    assert {row["severity"] for row in json.loads(looked.stdout)} == {"ok"}
    with Catalog(location.root, read_only=True) as catalog:
        assert catalog.location == location


def test_a_password_on_the_command_line_does_not_stand_in_the_list_of_processes(shared: Location) -> None:
    assert shared.server is not None
    with_password = "postgres://guarded:{}@127.0.0.1:{}/{}?data={}".format(
        quote(PASSWORD, safe=""), shared.server.port, shared.server.database, quote(str(shared.root))
    )
    # The query reads stdin: the process stands in the list until it gets one.
    for arguments in (["-C", with_password], [f"--catalog={with_password}"]):
        command = [sys.executable, "-m", "queries.cli.main", *arguments, "sql", "-"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY) as process:
            assert process.stdin is not None
            shown = Path(f"/proc/{process.pid}/cmdline")
            deadline = time.monotonic() + 60
            while "guarded@127.0.0.1" not in shown.read_text() and time.monotonic() < deadline:
                time.sleep(0.02)
            assert "postgres://guarded@127.0.0.1" in shown.read_text()
            assert quote(PASSWORD, safe="") not in shown.read_text()
            said, _ = process.communicate(b"SELECT 1 AS one")
        assert json.loads(said) == {"one": 1}
