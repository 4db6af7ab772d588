"""A second writer on the command line: told who holds the lock, or waits for it; a dead holder holds nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from catalog import Catalog
from catalog.study.file import template

REPOSITORY = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from catalog.store.locks import locked
with locked(Path(sys.argv[1]), wait=0):
    print("ready", flush=True)
    time.sleep(float(sys.argv[2]))
"""
Hold = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def hold() -> Iterator[Hold]:
    """A process that holds a lock file for some seconds, once it says so."""
    running: list[subprocess.Popen[str]] = []

    def start(lock: Path, seconds: float = 60.0) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", HOLD, str(lock), str(seconds)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def saeql(root: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "queries.cli.main", "-C", str(root), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=120)


@pytest.mark.parametrize("command", ["refresh", "ingest"])
def test_a_second_writer_is_told_who_holds_the_lock(mine: Catalog, tmp_path: Path, hold: Hold, command: str) -> None:
    study = tmp_path / "study.toml"
    study.write_text(template())
    before = mine.snapshot()
    holder = hold(mine.root / "refresh.lock")
    done = saeql(mine.root, command, "leaks" if command == "refresh" else study, "--wait", "0.2")
    assert (done.returncode, done.stdout) == (4, "")
    assert f"held by process {holder.pid} (" in done.stderr
    assert "Traceback" not in done.stderr
    assert mine.snapshot() == before


def test_a_second_writer_waits_until_the_first_is_done(mine: Catalog, hold: Hold) -> None:
    since = time.monotonic()
    hold(mine.root / "refresh.lock", 3.0)
    done = saeql(mine.root, "refresh", "leaks", "--wait", "60")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - since > 3.0


def test_the_lock_of_a_killed_process_is_taken_over_at_once(mine: Catalog, hold: Hold) -> None:
    for lock in ("refresh.lock", "commit.lock", "writing.lock"):
        holder = hold(mine.root / lock)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        # The file of the dead one still names it, which is not what holds a lock.
        assert json.loads((mine.root / lock).read_text())["pid"] == holder.pid
    done = saeql(mine.root, "refresh", "leaks")
    assert done.returncode == 0, done.stderr
    mine.commit("and so is the lock of a commit", lambda tx: tx.insert("leaks", [{"corpus": "other", "position": 1}]))
    assert json.loads((mine.root / "commit.lock").read_text())["pid"] == os.getpid()


def test_a_holder_on_another_machine_is_named_with_it(mine: Catalog, hold: Hold) -> None:
    holder = hold(mine.root / "refresh.lock")
    said = json.loads((mine.root / "refresh.lock").read_text())
    (mine.root / "refresh.lock").write_text(json.dumps({**said, "host": "node7"}))
    done = saeql(mine.root, "refresh", "leaks")
    assert done.returncode == 4
    assert f"held by process {holder.pid} on node7 (" in done.stderr
