"""Three writers and four readers on one catalog: every commit lands, no reader fails or sees half a commit.

    python tests/benchmarks/concurrency.py [--seconds 60] [--metadata sqlite|postgres|both] [--json]

- Each writer commits batches of rows under keys of its own into two tables, takes older batches away again, and counts
  its commit in one row that all writers share: read, checked at the commit, written. So any two commits at a time
  conflict, which is the worst case. Reported are commits that landed, that met changed inputs and were made anew
  (moved), that found the catalog locked, and how long the commit lock was held.
- Readers, two with one connection for all the time and two that open the catalog again and again, compare the tables
  in one query and in two queries of one transaction.
- In the end each row of each landed commit must be there once, and each commit must be one snapshot.
- Before that: how long a replaced step of 160,000 rows holds the commit lock, by `write` and by `commit`.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))

from catalog import Catalog  # noqa: E402
from catalog.errors import CatalogLocked, InputsMoved  # noqa: E402
from catalog.store.scratch import Relation  # noqa: E402
from catalog.store.transaction import Transaction  # noqa: E402

WRITERS, READERS, BATCH, STEP_ROWS = 3, 4, 50, 160_000
_COUNTER = "SELECT settings::INT FROM explainers WHERE explainer = 'counter'"
_ROWS = "SELECT count(*) FROM leaks"
_PAIRS = "SELECT coalesce(sum(count), 0)::BIGINT FROM problems"


def prepare(root: Path) -> None:
    """The shared counter, at 0."""
    with Catalog(root) as catalog, catalog.write("counter") as tx:
        tx.insert("explainers", [{"explainer": "counter", "provider": "none", "settings": "0"}])


def write(root: Path, name: str, until: float) -> dict[str, Any]:
    """Commit until the time is over. What is kept, and what happened."""
    kept: set[int] = set()
    held: list[float] = []
    commits = moved = refused = 0
    with Catalog(root) as catalog:
        while time.time() < until:
            # Every fourth commit also takes the oldest batch away.
            gone = min(kept) if commits % 4 == 3 else None
            count = catalog.value(_COUNTER)

            def work(tx: Transaction, batch: int = commits, gone: int | None = gone, count: int = count) -> None:
                tx.execute(
                    "INSERT INTO lake.leaks SELECT ?, ? + i FROM range(?) AS t (i)", [name, batch * BATCH, BATCH]
                )
                tx.insert("problems", [{"stage": name, "subject": str(batch), "reason": "batch", "count": BATCH}])
                if gone is not None:
                    tx.execute("DELETE FROM lake.leaks WHERE corpus = ? AND position // ? = ?", [name, BATCH, gone])
                    tx.execute("DELETE FROM lake.problems WHERE stage = ? AND subject = ?", [name, str(gone)])
                tx.execute("UPDATE lake.explainers SET settings = ? WHERE explainer = 'counter'", [str(count + 1)])

            try:
                catalog.commit(f"{name}/{commits}", work, lambda count=count: catalog.value(_COUNTER) == count)
            except InputsMoved:
                moved += 1
            except CatalogLocked:
                refused += 1
            else:
                kept = kept - {gone} | {commits}
                commits += 1
                held.append(catalog.lock_seconds)
    return {"kept": sorted(kept), "commits": commits, "moved": moved, "locked": refused, "held": held}


def read(root: Path, reopen: bool, until: float) -> dict[str, Any]:
    """Read until the time is over. Raises AssertionError for half a commit or a step back in time."""
    before, took = 0, []
    while time.time() < until:
        with Catalog(root, read_only=True) as catalog:
            while time.time() < until:
                since = time.perf_counter()
                rows, pairs, count = catalog.rows(f"SELECT ({_ROWS}), ({_PAIRS}), ({_COUNTER})")[0]
                took.append(time.perf_counter() - since)
                assert rows == pairs, f"half a commit in one query: {rows} rows, {pairs} in the other table"
                assert count >= before, f"a step back in time: commit {before}, then {count}"
                before = count
                catalog.connection.execute("BEGIN")
                rows = catalog.value(_ROWS)
                pairs = catalog.value(_PAIRS)
                catalog.connection.execute("COMMIT")
                assert rows == pairs, f"half a commit in one transaction: {rows} rows, {pairs} in the other table"
                if reopen and len(took) % 5 == 0:
                    break
    return {"reads": len(took), "seconds": took, "seen": before}


def contend(root: Path, seconds: float, writers: int = WRITERS, readers: int = READERS) -> dict[str, Any]:
    """All processes at once on the catalog in `root`; figures. Raises AssertionError for whatever went wrong."""
    prepare(root)
    with Catalog(root, read_only=True) as catalog:
        first = catalog.snapshot()
    until = str(time.time() + seconds)
    reading = [_start("read", root, "reopen" if i % 2 else "", until) for i in range(readers)]
    writing = [_start("write", root, f"writer {i}", until) for i in range(writers)]
    wrote, saw = [_result(process) for process in writing], [_result(process) for process in reading]
    commits = sum(each["commits"] for each in wrote)
    with Catalog(root, read_only=True) as catalog:
        assert catalog.value(_COUNTER) == commits, "commits that another overwrote"
        expected = [(f"writer {i}", batch) for i, each in enumerate(wrote) for batch in each["kept"]]
        rows = catalog.rows(f"SELECT corpus, position // {BATCH} FROM leaks ORDER BY corpus, position")
        assert rows == [key for key in sorted(expected) for _ in range(BATCH)], "rows that are lost or doubled"
        assert len(set(catalog.rows("SELECT corpus, position FROM leaks"))) == len(rows), "rows that are doubled"
        pairs = catalog.rows("SELECT stage, subject::INT FROM problems ORDER BY ALL")
        assert pairs == sorted(expected), "pairs that are lost or doubled"
        messages = [
            row[0] for row in catalog.rows("SELECT commit_message FROM lake.snapshots() WHERE snapshot_id > ?", [first])
        ]
        landed = [f"writer {i}/{n}" for i, each in enumerate(wrote) for n in range(each["commits"])]
        assert sorted(messages) == sorted(landed), "commits without their snapshot, or with two"
    held = [s for each in wrote for s in each["held"]]
    took = [s for each in saw for s in each["seconds"]]
    return {
        "seconds": seconds,
        "commits": commits,
        "moved": sum(each["moved"] for each in wrote),
        "locked": sum(each["locked"] for each in wrote),
        "fewest_commits_of_a_writer": min(each["commits"] for each in wrote),
        "lock_ms": _spread(held),
        "reads": sum(each["reads"] for each in saw),
        "read_ms": _spread(took),
    }


def lock_of_a_step(root: Path, rows: int = STEP_ROWS) -> dict[str, Any]:
    """How long a step whose rows all changed holds the commit lock, and how long it takes, ms."""
    key = ["sae", "feature", "explainer"]
    found: dict[str, Any] = {"rows": rows}
    with Catalog(root) as catalog:

        def stage(salt: int) -> None:
            catalog.connection.execute("CREATE OR REPLACE TEMP TABLE fresh AS FROM lake.labels LIMIT 0")
            catalog.connection.execute(
                "INSERT INTO fresh SELECT 's', i, 'e', 'label ' || hash(i + $salt), NULL, true, NULL, 'm', NULL, 0, 0, "
                "0, md5((i + $salt)::VARCHAR) FROM range($rows) AS t (i)",
                {"salt": salt, "rows": rows},
            )

        for salt, way in enumerate(("first", "write", "commit", "write", "commit", "write", "commit")):
            stage(salt)
            since = time.perf_counter()
            if way == "commit":
                catalog.commit("step", lambda tx: tx.replace("labels", Relation("fresh"), key))
            else:
                with catalog.write("step") as tx:
                    tx.replace("labels", Relation("fresh"), key)
            found.setdefault(way, []).append((catalog.lock_seconds, time.perf_counter() - since))
    return {
        "rows": rows,
        **{
            f"{way}_{what}_ms": round(1000 * statistics.median(pair[i] for pair in found[way]), 1)
            for way in ("write", "commit")
            for i, what in enumerate(("lock", "whole"))
        },
    }


def _spread(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds) or [0.0]
    at = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: round(1000 * ordered[int(share * (len(ordered) - 1))], 1) for name, share in at.items()}


def _start(*arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, __file__, "process", *map(str, arguments)]
    # One thread each: seven processes with all of the machine's threads would measure how they are switched.
    env = {**os.environ, "SAEQL_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY, env=env)


def _result(process: "subprocess.Popen[str]") -> dict[str, Any]:
    said, errors = process.communicate()
    assert process.returncode == 0, errors
    return dict(json.loads(said))


@click.group(invoke_without_command=True)
@click.option("--seconds", default=60.0, show_default=True, help="How long they write and read.")
@click.option("--metadata", type=click.Choice(["sqlite", "postgres", "both"]), default="both", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_context
def main(context: click.Context, seconds: float, metadata: str, as_json: bool) -> None:
    """Writers and readers at once; one row of figures for each kind of metadata."""
    if context.invoked_subcommand:
        return
    kinds = ["sqlite", "postgres"] if metadata == "both" else [metadata]
    found = {kind: _measured(kind, seconds) for kind in kinds}
    if as_json:
        click.echo(json.dumps(found))
        return
    for kind, figures in found.items():
        click.echo(kind)
        for name, value in figures.items():
            click.echo(f"  {name}: {value}")


def _measured(kind: str, seconds: float) -> dict[str, Any]:
    from tests.postgres import programs, running

    bin = programs()
    if kind == "postgres" and bin is None:
        return {"skipped": "no PostgreSQL server is installed"}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "catalog"
        if kind == "postgres":
            assert bin is not None
            Catalog.create(stack.enter_context(running(bin)).location(folder)).close()
        else:
            Catalog.create(folder).close()
        return {"step": lock_of_a_step(folder), **contend(folder, seconds)}


@main.command(hidden=True)
@click.argument("what", type=click.Choice(["write", "read"]))
@click.argument("root", type=click.Path(path_type=Path))
@click.argument("which")
@click.argument("until", type=float)
def process(what: str, root: Path, which: str, until: float) -> None:
    """One writer or reader; its figures as JSON."""
    click.echo(json.dumps(write(root, which, until) if what == "write" else read(root, bool(which), until)))


if __name__ == "__main__":
    main()
