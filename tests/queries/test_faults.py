"""A refresh that is killed, overtaken or refused anywhere ends, when run again, in the tables of one that was not."""

import os
import random
import signal
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from catalog import Catalog
from catalog.doctor.examine import CHECKS, examine
from catalog.vectors.collections import Vectors
from catalog.versions.diff import diff
from catalog.versions.gc import collect_garbage
from catalog.versions.log import snapshots
from queries.refresh.engine import Listener, StepResult, plan, refresh
from queries.refresh.step import Step, packaged_steps, parse_step
from tests.once import once
from tests.queries.disturbed import (
    ENVIRONMENT,
    MORE,
    Contents,
    Killer,
    add_text,
    build,
    contents,
    copy,
    differences,
    sent,
    stored,
)
from tests.queries.killed_refresh import BATCHES, STEPS, refresh_all
from tests.scoring.chat_server import Endpoint, answer, serving


@pytest.fixture(scope="module")
def server() -> Iterator[Endpoint]:
    with serving() as endpoint:
        endpoint.answer = answer
        yield endpoint


@pytest.fixture(autouse=True)
def environment(server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**ENVIRONMENT, "OPENAI_BASE_URL": server.url}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def killer(server: Endpoint) -> Iterator[Killer]:
    with Killer(server.url) as running:
        yield running


@pytest.fixture(scope="module")
def built_root(killer: Killer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of two shards, refreshed. Not to be written to."""

    def built(root: Path) -> None:
        build(root)
        assert killer.refresh(root)[0] == 0

    return once(tmp_path_factory, "disturbed", built)


@pytest.fixture(scope="module")
def grown_root(built_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Then given more text: every kind of step has work. Not to be written to."""
    root = copy(built_root, tmp_path_factory.mktemp("grown") / "catalog")
    with Catalog(root) as catalog:
        add_text(catalog, MORE[0], 2)
    return root


@pytest.fixture(scope="module")
def refreshed(grown_root: Path, killer: Killer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Contents, float]:
    """What the grown catalog holds after a refresh that nothing disturbs, and the seconds that it takes."""
    root = copy(grown_root, tmp_path_factory.mktemp("undisturbed") / "catalog")
    code, seconds = killer.refresh(root)
    assert code == 0
    return contents(root), seconds


@pytest.fixture(scope="module")
def expected(refreshed: tuple[Contents, float]) -> Contents:
    """What the grown catalog holds after a refresh that nothing disturbs."""
    return refreshed[0]


@pytest.fixture
def grown(grown_root: Path, tmp_path: Path) -> Path:
    """A copy of the grown catalog."""
    return copy(grown_root, tmp_path / "grown")


def to_collect(root: Path, *, fix: bool = False, every: bool = True) -> set[str]:
    """Examine a catalog, in which nothing may be broken; the checks that found what a killed process left behind."""
    only = None if every else CHECKS.keys() - {"keys", "views"}
    with Catalog(root) as catalog:
        found = examine(catalog, fix=fix, age=timedelta(0), only=only)
    assert [f for f in found if f.severity == "error"] == []
    return {f.check for f in found if f.severity == "warning"} & {"orphans", "vector versions"}


def assert_as_expected(root: Path, expected: Contents) -> None:
    """Nothing is broken, and after all that was left behind is collected the tables are the expected ones."""
    if to_collect(root, fix=True):
        assert to_collect(root, every=False) == set()
    assert differences(contents(root), expected) == []


def paid_again(root: Path, server: Endpoint, work: Callable[[], Any]) -> list[str]:
    """The requests that `work` sent although their answers were stored before."""
    before = stored(root)
    server.requests.clear()
    work()
    return [request for request in sent(server.requests) if request in before]


# --- kill -9

COMMIT, LANCE = "catalog.store.catalog:Catalog._finish", "catalog.vectors.collections:Vectors.write"
ANSWER = "catalog.answers:Answers.put"
BEFORE = {
    "the Lance write of decoder_vectors": (LANCE, "decoder", 1, set()),
    "the commit of a step in SQL": (COMMIT, "refresh feature_sums", 1, {"orphans"}),
    "the commit of the second labels": (COMMIT, "refresh labels", 2, {"orphans"}),
    "the Lance write of label_vectors": (LANCE, "labels", 1, set()),
    "the tag of the Lance version": ("catalog.vectors.collections:_tagged", "labels", 1, {"vector versions"}),
    "the commit of label_vectors": (COMMIT, "refresh label_vectors", 1, {"orphans", "vector versions"}),
    "an answer is stored": (ANSWER, None, 2, set()),
    "the commit of judgements": (COMMIT, "refresh judgements", 2, {"orphans"}),
    "the commit of the last step": (COMMIT, "refresh scores", 1, {"orphans"}),
}
AFTER = {
    "the Lance write of decoder_vectors": (LANCE, "decoder", 1, {"vector versions"}),
    "the commit of a step in SQL": (COMMIT, "refresh feature_sums", 1, set()),
    "the commit lock is taken": ("catalog.store.catalog:Catalog._newest", None, 1, {"orphans"}),
    "the commit of the first labels": (COMMIT, "refresh labels", 1, set()),
    "the Lance write of label_vectors": (LANCE, "labels", 1, {"vector versions"}),
    "the commit of label_vectors": (COMMIT, "refresh label_vectors", 1, set()),
    "an answer is stored": (ANSWER, None, 2, set()),
    "the commit of judgements": (COMMIT, "refresh judgements", 1, set()),
    "the commit of the last step": (COMMIT, "refresh scores", 1, set()),
}
"""Where: what the process was killed at -> (function, what is among its arguments, which call, what it leaves)."""
ALONE = {"the Lance write of decoder_vectors": "decoder_vectors", "the commit of a step in SQL": "feature_sums"}
"""Of steps that run side by side, the one that is refreshed: it must not be done before another is killed."""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_refresh_killed_at_one_point_after_another_ends_with_the_tables_of_one_that_was_not(
    grown: Path, expected: Contents, killer: Killer, server: Endpoint, when: str
) -> None:
    for name, (target, said, n, left) in (BEFORE if when == "before" else AFTER).items():
        job = {"target": target, "said": said, "n": n, "when": when}
        job |= {"steps": [ALONE[name]]} if name in ALONE else {}

        def killed(job: dict[str, Any] = job, name: str = name) -> None:
            assert killer.refresh(grown, **job)[0] == -signal.SIGKILL, name

        assert paid_again(grown, server, killed) == [], name
        # What was left is collected after each kill, or all of it in the end.
        if left:
            assert to_collect(grown, fix=when == "before", every=False) >= left, name
    assert paid_again(grown, server, lambda: killer.refresh(grown)) == []
    assert_as_expected(grown, expected)


@pytest.mark.slow
def test_a_refresh_killed_at_five_random_moments_ends_with_the_tables_of_one_that_was_not(
    grown: Path, refreshed: tuple[Contents, float], killer: Killer, server: Endpoint
) -> None:
    expected, seconds = refreshed
    moments = [random.uniform(0, seconds / 2) for _ in range(5)]
    for after in moments:
        assert paid_again(grown, server, lambda after=after: killer.refresh(grown, after=after)) == [], moments
        to_collect(grown, every=False)
    assert paid_again(grown, server, lambda: killer.refresh(grown)) == [], moments
    assert_as_expected(grown, expected)


# --- a disk that fills, a commit that fails


def batched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commit labels and judgements in small batches in this process too."""
    for kernel, size in BATCHES.items():
        monkeypatch.setattr(kernel, "BATCH", size)


@pytest.mark.slow
def test_a_disk_that_fills_is_said_and_the_refresh_goes_on_after_room_is_made(
    grown_root: Path,
    expected: Contents,
    server: Endpoint,
    small_disk: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batched(monkeypatch)
    disk = small_disk("64m")
    root, filler = copy(grown_root, disk / "catalog"), disk / "filler"
    said: list[str] = []
    for free in (40, 240):
        had = stored(root)
        room = os.statvfs(disk)
        filler.write_bytes(bytes(room.f_bavail * room.f_frsize - free * 1024))
        server.requests.clear()
        said += map(str, refresh_all(root))
        filler.write_bytes(b"")
        requests = set(sent(server.requests))
        assert not requests & had
        # Those that were under way when the first could not be stored.
        assert len(requests - stored(root)) <= 4
        to_collect(root, every=False)
    assert len(said) >= 2
    assert all("is full" in error and "make room, run again" in error for error in said), said
    assert refresh_all(root) == []
    assert_as_expected(root, expected)


class Refusing:
    """A connection, and those that are made from it, that fails at the COMMIT of snapshots with such messages."""

    def __init__(self, connection: Any, refuses: Callable[[str], bool]) -> None:
        self._connection, self._refuses = connection, refuses
        self._message = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def cursor(self) -> "Refusing":
        return Refusing(self._connection.cursor(), self._refuses)

    def __enter__(self) -> "Refusing":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def execute(self, sql: str, *parameters: Any) -> Any:
        if sql == "BEGIN":
            self._message = ""
        if "set_commit_message" in sql:
            self._message = parameters[0][0]
        if sql == "COMMIT" and self._refuses(self._message):
            raise duckdb.IOException("the metadata cannot be written")
        return self._connection.execute(sql, *parameters)


@pytest.mark.slow
def test_vectors_whose_commit_fails_are_not_named_and_the_next_refresh_is_right(
    grown: Path, expected: Contents, server: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    real = Vectors.write

    def write(self: Vectors, collection: str, *rest: Any, **more: Any) -> Any:
        made = real(self, collection, *rest, **more)
        written.append(collection)
        return made

    monkeypatch.setattr(Vectors, "write", write)
    with Catalog(grown) as catalog:
        before = catalog.rows("FROM lance ORDER BY ALL")
        catalog.connection = Refusing(catalog.connection, lambda message: message.endswith("_vectors"))  # type: ignore[assignment]
        results = {r.step: r for r in refresh(catalog, STEPS)}
        failed = {name: str(r.error) for name, r in results.items() if r.state == "failed"}
        assert failed.keys() == {"decoder_vectors", "label_vectors", "text_vectors"}
        assert all("the metadata cannot be written" in error for error in failed.values())
        assert catalog.rows("FROM lance ORDER BY ALL") == before
    assert set(written) == {"decoder", "labels"}
    assert to_collect(grown) == {"vector versions"}
    assert paid_again(grown, server, lambda: refresh_all(grown)) == []
    assert_as_expected(grown, expected)


# --- others who write, or read, meanwhile


@pytest.mark.slow
@pytest.mark.parametrize("overtaken", ["feature_sums", "labels"])
def test_text_that_arrives_between_a_step_and_its_commit_is_not_lost(
    built_root: Path,
    tmp_path: Path,
    expected: Contents,
    server: Endpoint,
    monkeypatch: pytest.MonkeyPatch,
    overtaken: str,
) -> None:
    batched(monkeypatch)
    root = copy(built_root, tmp_path / "overtaken")
    with Catalog(root) as catalog, catalog.write("all of it anew") as tx:
        tx.execute(f"DELETE FROM lake.{overtaken}")
        for table in ("runs", "partitions"):
            tx.execute(f"DELETE FROM lake.{table} WHERE step = ?", [overtaken])
    real = Catalog.commit
    tries: list[str] = []

    def commit(self: Catalog, message: str, *rest: Any, **more: Any) -> Any:
        if message == f"refresh {overtaken}" and message not in tries:
            with Catalog(root) as other:
                add_text(other, MORE[0], 2)
        tries.append(message)
        return real(self, message, *rest, **more)

    monkeypatch.setattr(Catalog, "commit", commit)
    with Catalog(root) as catalog:
        assert paid_again(root, server, lambda: refresh(catalog, (overtaken,))) == []
        assert tries.count(f"refresh {overtaken}") > 1
        if overtaken == "feature_sums":
            assert catalog.value("SELECT count(DISTINCT shard) FROM feature_sums") == 3
    assert paid_again(root, server, lambda: refresh_all(root)) == []
    assert_as_expected(root, expected)


def test_a_plan_that_a_refresh_overtakes_is_about_the_state_before_it(grown: Path) -> None:
    with Catalog(grown, read_only=True) as reader:
        before = plan(reader, STEPS)

        def begin(step: Step) -> None:
            if step.name == "contexts_top":
                with Catalog(grown) as writer:
                    assert [
                        r.error for r in refresh(writer, ("feature_stats", "leaks", "contexts_top")) if r.error
                    ] == []

        def shown(results: list[StepResult]) -> list[StepResult]:
            return [replace(result, seconds=0.0) for result in results]

        assert shown(plan(reader, STEPS, listener=Listener(begin))) == shown(before)
        after = {result.step: result.state for result in plan(reader, STEPS)}
        assert {after[name] for name in ("feature_sums", "feature_stats", "leaks", "contexts_top")} == {"current"}
        assert after["labels"] == "stale"


def test_a_step_that_fails_in_a_plan_fails_alone(grown: Path) -> None:
    header = "-- step: leaks\n-- writes: leaks\n-- key: corpus, position\n-- doc: d\n"
    text = f"{header}SELECT corpus, hash::INT AS position FROM documents"
    steps = [parse_step(text, "leaks.sql") if s.name == "leaks" else s for s in packaged_steps()]
    with Catalog(grown, read_only=True) as catalog:
        whole = {r.step: r for r in plan(catalog, STEPS)}
        broken = {r.step: r for r in plan(catalog, STEPS, steps=tuple(steps))}
    assert broken["leaks"].state == "failed"
    assert "Could not convert string" in str(broken["leaks"].error)
    waiting = {name for name, result in broken.items() if result.state == "waiting"}
    windows = {"contexts_random", "contexts_stratum", "firing_windows"}
    others = {f"judgements_{name}" for name in ("embedding", "example_embedding", "fuzzing", "intruder")}
    assert waiting == windows | {"labels", "judgements", "label_vectors", "text_vectors", "scores"} | others
    for name in broken.keys() - waiting - {"leaks"}:
        assert (broken[name].state, broken[name].changes) == (whole[name].state, whole[name].changes), name
    assert broken["shortlist"].state == "stale"


# --- a damaged file, a clock


@pytest.mark.parametrize("cut", [True, False])
def test_a_lost_or_cut_off_file_of_a_refresh_is_named(grown: Path, cut: bool) -> None:
    with Catalog(grown) as catalog:
        (name, *_), *_ = catalog.rows("SELECT data_file FROM ducklake_list_files('lake', 'contexts')")
        path = Path(name)
        path.write_bytes(path.read_bytes()[:-50]) if cut else path.unlink()
        found = {(f.check, f.subject): f.detail for f in examine(catalog) if f.severity == "error"}
    assert found.keys() >= {("files", str(path)), ("keys", "contexts")}
    detail = "contexts knows it with" if cut else "is gone, and rows of contexts with it"
    assert detail in found["files", str(path)]


@pytest.mark.slow
def test_a_clock_that_was_set_back_changes_nothing(grown: Path, expected: Contents) -> None:
    with sqlite3.connect(grown / "catalog.sqlite") as metadata:
        # What was committed so far is of a day to come: whatever follows has an earlier time.
        metadata.execute("UPDATE ducklake_snapshot SET snapshot_time = '2099-01-01 00:00:00+00'")
    with Catalog(grown) as catalog:
        before = catalog.snapshot()
        planned = {r.step: r for r in plan(catalog, STEPS)}
        assert planned["feature_sums"].why == ("inputs: activations: c grew by shard 2",)
        done = {r.step: r for r in refresh(catalog, STEPS)}
        assert done["feature_sums"].changes == planned["feature_sums"].changes
        assert {r.state for r in plan(catalog, STEPS)} == {"current"}
        rows = snapshots(catalog)
        assert [row["snapshot"] for row in rows] == list(range(catalog.snapshot(), -1, -1))
        assert {row["time"] > "2099" for row in rows if row["snapshot"] > before} == {False}
        assert {row["time"] for row in rows if row["snapshot"] <= before} == {"2099-01-01 00:00:00"}
        changed = {d.table: d for d in diff(catalog, before, catalog.snapshot())}
        assert changed["feature_sums"].added == done["feature_sums"].changes.added > 0
        assert changed["contexts"].added > 0
        # Nothing is old enough to go, and nothing that is needed goes.
        assert collect_garbage(catalog, 1).snapshots == []
    assert_as_expected(grown, expected)
