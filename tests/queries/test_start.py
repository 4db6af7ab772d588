"""The process of a query is started before the command line is read: it answers the first query, or it ends."""

import os
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

import duckdb
import pytest

from catalog import Location
from catalog.quote import quoted
from catalog.store import connection
from queries.ask import door
from queries.cli.early import asks


@pytest.mark.parametrize(
    ("line", "early"),
    [
        ("sql q", True),
        ("-C demo sql q", True),
        ("--catalog demo sql -", True),
        ("--catalog=demo sql q --json", True),
        ("-Cdemo sql q", True),
        ("search sql", False),
        ("-C sql show 3", False),
        ("sql -h", False),
        ("sql --help", False),
        ("--version", False),
        ("-C", False),
        ("", False),
    ],
)
def test_only_sql_starts_a_process_early(line: str, early: bool) -> None:
    assert asks(line.split()) is early


def test_the_process_that_was_started_early_answers(made_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door._Worker, "_idle", [])
    door.prepare()
    door.prepare()
    (early,) = door._Worker._idle
    rows = door.ask(Location.parse(made_root), "SELECT count(*) AS n FROM features").read_all().to_pylist()
    assert rows == [{"n": 9}]
    # It took the query, and waits for the next one.
    assert early.spill is not None
    assert door._Worker._idle == [early]
    early.kill()


def test_a_process_that_no_query_came_for_ends_with_its_caller(tmp_path: Path) -> None:
    mark = f"SAEQL_MARK={uuid.uuid4().hex}"
    code = "import sys; from queries.cli.start import main; main()"
    environment = {**os.environ, **dict([mark.split("=")])}
    done = subprocess.run(
        [sys.executable, "-c", code, "sql"],
        env=environment,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 2
    assert "Missing argument 'QUERY'" in done.stderr
    deadline = time.monotonic() + 60
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not marked(mark)


def marked(mark: str) -> list[str]:
    """Processes that were started with `mark` in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append(process.name)
        except OSError:
            continue
    return found


def test_an_extension_that_lies_elsewhere_is_checked_by_the_engine(tmp_path: Path) -> None:
    ours = connection._extension_file("duckdb_extension_ducklake", "ducklake")
    assert connection._beside_engine(ours)
    other = tmp_path / "ducklake.duckdb_extension"
    shutil.copyfile(ours, other)
    assert not connection._beside_engine(str(other))
    with other.open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)
        file.seek(1_000_000)
        file.write(bytes([byte[0] ^ 1]))
    with connection._engine(unsigned=False) as engine, pytest.raises(duckdb.IOException, match="signature"):
        engine.execute(f"LOAD {quoted(str(other))}")
