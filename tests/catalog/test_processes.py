"""Several processes: writers wait for each other, readers for nobody, and a killed one leaves a consistent catalog."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from catalog import Catalog
from catalog.doctor.examine import examine
from catalog.errors import CatalogLocked
from catalog.store.locks import locked
from catalog.vectors.collections import Vectors
from catalog.vectors.references import referenced_versions
from tests.catalog.small_catalog import TOKENS, decoder

Start = Callable[..., "subprocess.Popen[str]"]
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def start() -> object:
    """Start Python code in a process of its own; `ready` waits until it prints a line."""
    running: list[subprocess.Popen[str]] = []

    def run(code: str, *arguments: object, ready: bool = True) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", code, *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY)
        running.append(process)
        if ready:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", process.communicate()[1]
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


HOLD = """
import sys, time
from pathlib import Path
from catalog.store.locks import locked
with locked(Path(sys.argv[1]), wait=0):
    print("ready", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def test_a_second_process_is_told_who_holds_the_lock(tmp_path: Path, start: Start) -> None:
    lock = tmp_path / "refresh.lock"
    holder = start(HOLD, lock, 60)
    with pytest.raises(CatalogLocked, match=f"held by process {holder.pid} ") as caught, locked(lock, wait=0.1):
        pass
    assert caught.value.exit_code == 4
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(lock, wait=0):
        pass


def test_a_second_process_waits_until_the_lock_is_free(tmp_path: Path, start: Start) -> None:
    lock = tmp_path / "refresh.lock"
    start(HOLD, lock, 0.5)
    began = time.monotonic()
    with locked(lock, wait=30):
        assert time.monotonic() - began > 0.2


WRITE = """
import sys
from catalog import Catalog
root, writer, commits = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with Catalog(root) as catalog:
    for i in range(commits):
        with catalog.write(f"{writer}/{i}") as tx:
            tx.insert("leaks", [{"corpus": str(writer), "position": i}])
"""
READ = """
import sys
from pathlib import Path
from catalog import Catalog
root, stop = sys.argv[1], Path(sys.argv[2])
reads = before = 0
print("ready", flush=True)
while not stop.exists():
    with Catalog(root, read_only=True) as catalog:
        for _ in range(10):
            now = catalog.value("SELECT count(*) FROM leaks")
            assert now >= before, (now, before)
            assert catalog.value("SELECT count(*) FROM activations WHERE activation > 0") == 80
            before = now
            reads += 1
print(reads, before, flush=True)
"""


@pytest.mark.slow
def test_every_commit_of_concurrent_writers_lands_beside_readers(root: Path, tmp_path: Path, start: Start) -> None:
    commits, stop = 12, tmp_path / "stop"
    with Catalog(root) as catalog:
        before = catalog.snapshot()
    readers = [start(READ, root, stop) for _ in range(2)]
    writers = [start(WRITE, root, i, commits, ready=False) for i in range(3)]
    for writer in writers:
        assert writer.wait(120) == 0, writer.communicate()[1]
    stop.touch()
    for reader in readers:
        said, errors = reader.communicate(timeout=60)
        assert reader.returncode == 0, errors
        assert int(said.split()[0]) > 0
    with Catalog(root) as catalog:
        assert catalog.snapshot() == before + 3 * commits
        assert catalog.value("SELECT count(*) FROM (SELECT DISTINCT * FROM leaks)") == 3 * commits
        messages = {row[0] for row in catalog.rows("SELECT commit_message FROM lake.snapshots()")}
        assert {f"{w}/{i}" for w in range(3) for i in range(commits)} <= messages


DIE_INSIDE = """
import os, signal, sys, time
from catalog import Catalog
from catalog.vectors.collections import Vectors; from catalog.vectors.references import name_version
from tests.catalog.small_catalog import activations, decoder, shard
with Catalog(sys.argv[1]) as catalog:
    made = Vectors(catalog.vectors).write("decoder", decoder(salt=1), ["sae", "feature"])
    if sys.argv[2] == "between":
        os.kill(os.getpid(), signal.SIGKILL)
    with catalog.write("doomed") as tx:
        tx.execute("DELETE FROM lake.activations WHERE feature = 1")
        tx.execute("INSERT INTO lake.leaks SELECT 'c', i FROM range(100000) AS t (i)")
        shard(catalog, tx, "activations", activations(1), 7, "s")
        name_version(tx, made)
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("when", ["between", "inside"])
def test_a_killed_writer_leaves_the_last_snapshot_and_garbage_for_the_doctor(
    root: Path, start: Start, when: str
) -> None:
    with Catalog(root) as catalog:
        before = catalog.snapshot()
        rows = catalog.rows("SELECT * FROM activations ORDER BY ALL")
    assert start(DIE_INSIDE, root, when, ready=False).wait(60) == -signal.SIGKILL
    with Catalog(root) as catalog:
        assert catalog.snapshot() == before
        assert catalog.rows("SELECT * FROM activations ORDER BY ALL") == rows
        assert catalog.value("SELECT count(*) FROM leaks") == 0
        vectors, named = Vectors(catalog.vectors), referenced_versions(catalog.connection)
        assert named == {"decoder": {1}}
        young = examine(catalog, fix=True, only=["orphans", "vector versions"])
        assert {finding.severity for finding in young} == {"ok"}, "what is young may belong to a running commit"
        found = examine(catalog, fix=True, age=timedelta(0), only=["orphans", "vector versions"])
        garbage = {finding.check for finding in found if finding.fixed}
        assert garbage == ({"vector versions"} if when == "between" else {"vector versions", "orphans"})
        assert {finding.severity for finding in examine(catalog, age=timedelta(0))} == {"ok"}
        assert vectors.read("decoder", 1).equals(decoder())
        assert catalog.value("SELECT count(*) FROM activations WHERE activation > 0") == 2 * TOKENS
        with catalog.write("the next one") as tx:
            tx.insert("leaks", [{"corpus": "c", "position": 1}])


WRITE_UNTIL_KILLED = """
import sys
from catalog import Catalog
with Catalog(sys.argv[1]) as catalog:
    print("ready", flush=True)
    i = 0
    while True:
        with catalog.write("pair") as tx:
            tx.insert("leaks", [{"corpus": "a", "position": i}])
            tx.insert("leaks", [{"corpus": "b", "position": i}])
        i += 1
"""


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_whole_commits(root: Path, start: Start) -> None:
    for delay in (0.03, 0.11, 0.19):
        writer = start(WRITE_UNTIL_KILLED, root)
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        with Catalog(root) as catalog:
            assert (
                catalog.rows(
                    "SELECT position FROM leaks WHERE corpus = 'a' EXCEPT ALL "
                    "SELECT position FROM leaks WHERE corpus = 'b'"
                )
                == []
            )
            with catalog.write("clear") as tx:
                tx.execute("DELETE FROM lake.leaks")
            assert {f.severity for f in examine(catalog, only=["files", "keys"])} == {"ok"}


def test_a_doctor_does_not_mend_during_a_refresh(root: Path, start: Start) -> None:
    start(HOLD, root / "refresh.lock", 60)
    with Catalog(root) as catalog:
        with pytest.raises(CatalogLocked):
            examine(catalog, fix=True)
        assert examine(catalog, only=["files"])[0].severity == "ok"
