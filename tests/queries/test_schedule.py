"""Which steps run together, on how many threads, and how much each has to read."""

import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from catalog import Catalog
from queries.refresh.context import Context
from queries.refresh.engine import Listener, refresh
from queries.refresh.options import Options
from queries.refresh.order import ordered
from queries.refresh.reads import parent_tables
from queries.refresh.relations import Relations
from queries.refresh.result import StepResult
from queries.refresh.schedule import LITTLE, side_by_side
from queries.refresh.sizes import rows_to_read
from queries.refresh.step import Step, packaged_steps
from tests.queries.made import documents, grow, make, refresh_made

pytestmark = pytest.mark.usefixtures("two_threads")

NAMES = (
    *("concept_positions", "feature_sums", "concept_sums", "feature_stats", "firing_counts", "firing_ranks"),
    *("separation", "shortlist", "contexts_top", "leaks", "token_frequency", "labels", "label_vectors"),
)


@pytest.fixture
def context(mine: Catalog) -> Context:
    return Context(mine, packaged_steps(), Options())


@pytest.fixture
def steps(context: Context) -> list[Step]:
    return [step for step in ordered(context.steps, context.view_parents) if step.name in NAMES]


class Recorder:
    """Stands for the work of steps: notes what runs beside what, on how many threads."""

    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.now: set[str] = set()
        self.beside: dict[str, set[str]] = {}
        self.threads: dict[str, int] = {}
        self.thread_of: dict[str, threading.Thread] = {}
        self.order: list[str] = []
        self._lock = threading.Lock()

    def __call__(self, context: Context, step: Step, listener: Listener) -> StepResult:
        with self._lock:
            self.now.add(step.name)
            for name in self.now:
                self.beside.setdefault(name, set()).update(self.now - {name})
            self.beside[step.name] |= self.now - {step.name}
        self.threads[step.name] = context.catalog.value("SELECT current_setting('threads')")
        self.thread_of[step.name] = threading.current_thread()
        # Real work on the step's own connection.
        context.catalog.rows("SELECT feature, sum(firings) FROM feature_sums GROUP BY feature")
        time.sleep(0.02)
        with self._lock:
            self.now.remove(step.name)
            self.order.append(step.name)
        return StepResult(step.name, "failed" if step.name == self.failing else "done")


def run(context: Context, steps: list[Step], recorder: Recorder, big: set[str] = frozenset()) -> list[StepResult]:  # type: ignore[assignment]
    sizes = {step.name: LITTLE + 1 if step.name in big else 10 for step in steps}
    return side_by_side(context, steps, sizes, Listener(), recorder)


def test_two_small_steps_run_together_and_each_after_what_it_reads(context: Context, steps: list[Step]) -> None:
    context.catalog.connection.execute("SET threads = 3")
    recorder = Recorder()
    results = run(context, steps, recorder)
    assert [r.step for r in results] == [step.name for step in steps]
    for step in steps:
        before = {s.name for s in steps if s.writes in parent_tables(step.parents, context.view_parents)}
        assert all(recorder.order.index(name) < recorder.order.index(step.name) for name in before), step.name
        assert not recorder.beside[step.name] & before
    pairs = {frozenset((name, other)) for name, others in recorder.beside.items() for other in others}
    assert pairs, "no two ran together"
    assert {recorder.threads[step.name] for step in steps if not step.asks} == {1}
    assert context.catalog.value("SELECT current_setting('threads')") == 3


def test_a_big_step_and_one_that_asks_run_alone_on_all_threads(context: Context, steps: list[Step]) -> None:
    context.catalog.connection.execute("SET threads = 3")
    recorder, big = Recorder(), {"feature_sums", "contexts_top", "leaks"}
    run(context, steps, recorder, big)
    for name in (*big, "labels"):
        assert recorder.beside[name] == set(), name
        assert recorder.threads[name] == 3, name
    assert recorder.thread_of["labels"] is threading.main_thread()
    assert recorder.threads["feature_stats"] == 1
    # What asks a model comes after all that can be had without.
    free = {s.name for s in steps} - {"labels", "label_vectors"}
    assert set(recorder.order[: len(free)]) == free


def test_with_one_thread_no_two_run_together(context: Context, steps: list[Step]) -> None:
    context.catalog.connection.execute("SET threads = 1")
    recorder = Recorder()
    run(context, steps, recorder)
    assert not any(others for name, others in recorder.beside.items() if name != "concept_positions")
    assert len(recorder.order) == len(steps)


def test_what_reads_from_a_failed_step_does_not_run(context: Context, steps: list[Step]) -> None:
    recorder = Recorder(failing="feature_sums")
    states = {result.step: result.state for result in run(context, steps, recorder)}
    waiting = {"feature_stats", "separation", "shortlist", "contexts_top", "labels", "label_vectors"}
    assert {name for name, state in states.items() if state == "waiting"} == waiting
    assert not waiting & set(recorder.order)
    assert states["firing_ranks"] == "done"


def test_a_refresh_that_is_broken_off_interrupts_its_queries_and_gives_the_threads_back(
    context: Context, steps: list[Step]
) -> None:
    context.catalog.connection.execute("SET threads = 2")
    broken: list[BaseException] = []

    def endless(context: Context, step: Step, listener: Listener) -> StepResult:
        try:
            context.catalog.rows("SELECT count(*) FROM range(100000000000) AS a, range(100000) AS b WHERE a.range = 7")
        except BaseException as error:
            broken.append(error)
            raise
        return StepResult(step.name, "done")

    def begin(step: Step) -> None:
        if begun:
            time.sleep(0.1)
            raise KeyboardInterrupt
        begun.append(step)

    begun: list[Step] = []
    since = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        side_by_side(context, steps, dict.fromkeys((s.name for s in steps), 1), Listener(begin=begin), endless)
    assert time.monotonic() - since < 20
    assert "INTERRUPT" in str(broken[0])
    assert context.catalog.value("SELECT current_setting('threads')") == 2
    assert context.catalog.value("SELECT count(*) FROM feature_sums") > 0


def test_a_step_that_raises_what_is_not_ours_ends_the_refresh(context: Context, steps: list[Step]) -> None:
    def wrong(context: Context, step: Step, listener: Listener) -> StepResult:
        raise ZeroDivisionError(step.name)

    with pytest.raises(ZeroDivisionError):
        side_by_side(context, steps, dict.fromkeys((s.name for s in steps), 1), Listener(), wrong)
    assert refresh(context.catalog, ("leaks",))[-1].error is None


# How much a step reads.


@pytest.fixture(scope="module")
def texts() -> list[Any]:
    return documents(60, seed=5)


@pytest.fixture
def grown(texts: list[Any], tmp_path: Path) -> Iterator[Catalog]:
    """Forty documents refreshed, and twenty that came since."""
    with make(tmp_path / "grown", texts[:40], shards=2).open() as catalog:
        refresh_made(catalog)
        refresh(catalog, ("firing_ranks",))
        grow(catalog, texts[40:], 3)
        yield catalog


def sizes(catalog: Catalog, **changes: Any) -> dict[str, int]:
    steps = tuple(
        replace(step, query=changes[step.name]) if step.name in changes else step for step in packaged_steps()
    )
    context = Context(catalog, steps, Options())
    return rows_to_read(context, ordered(context.steps, context.view_parents))


def rows_of(catalog: Catalog, table: str, where: str = "true") -> int:
    return int(catalog.value(f"SELECT count(*) FROM {table} WHERE {where}"))


def test_before_its_first_run_a_step_reads_its_tables(raw_root: Path, tmp_path: Path) -> None:
    with Catalog(shutil.copytree(raw_root, tmp_path / "raw")) as catalog:
        found = sizes(catalog)
        assert found["feature_sums"] == rows_of(catalog, "activations")
        assert found["leaks"] == rows_of(catalog, "tokens") + rows_of(catalog, "documents")


def test_a_step_in_parts_reads_the_files_that_came_since(grown: Catalog) -> None:
    new = {table: rows_of(grown, table, "shard = 3") for table in ("activations", "tokens", "documents")}
    assert all(new.values())
    found = sizes(grown)
    assert found["feature_sums"] == new["activations"]
    assert found["firing_counts"] == sum(new.values())
    # All documents, to find those of the contexts that stay.
    assert found["contexts_top"] == (
        new["activations"] + new["tokens"] + rows_of(grown, "documents") + rows_of(grown, "feature_sums")
    )
    # Not in parts.
    assert found["leaks"] == rows_of(grown, "tokens") + rows_of(grown, "documents")
    refresh_made(grown)
    assert sizes(grown)["feature_sums"] == 0


def test_what_follows_an_edit_reads_everything(grown: Catalog) -> None:
    everything = rows_of(grown, "activations")
    query = next(step.query for step in packaged_steps() if step.name == "feature_sums")
    edited = sizes(grown, feature_sums=query.replace("count(*)", "count(*) + 0"))
    assert edited["feature_sums"] == everything
    assert edited["contexts_top"] > everything
    assert edited["concept_sums"] < everything
    with grown.write("another concept") as tx:
        tx.execute("UPDATE lake.concepts SET shortlist = shortlist + 1")
    concept = sizes(grown)
    assert concept["concept_sums"] > everything
    assert concept["feature_sums"] < everything


def test_files_that_were_replaced_count_as_new_and_so_do_all_after_an_expired_snapshot(grown: Catalog) -> None:
    refresh_made(grown)
    with grown.write("harvested again") as tx:
        tx.execute("UPDATE lake.shards SET blake2b = 'other' WHERE relation = 'activations' AND shard = 1")
    assert sizes(grown)["feature_sums"] == rows_of(grown, "activations", "shard = 1")
    now = grown.snapshot()
    grown.connection.execute(f"CALL ducklake_expire_snapshots('lake', versions => {list(range(1, now))})")
    assert sizes(grown)["feature_sums"] == rows_of(grown, "activations")


# Tables hidden behind what a step has to read of them.


@pytest.mark.parametrize(
    "query",
    [
        "SELECT count(*) AS n FROM tokens",
        "-- WITH a comment\n\n/* and\nanother */ SELECT count(*) AS n FROM tokens AS t",
        "-- first\nWITH few AS (SELECT * FROM tokens), more AS (SELECT * FROM few) SELECT count(*) AS n FROM more",
        "with recursive n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) "
        "SELECT (SELECT count(*) FROM tokens) AS n FROM n LIMIT 1",
        "WITH tokens AS (SELECT * FROM tokens) SELECT count(*) AS n FROM tokens",
        'WITH "tokens" (a) AS MATERIALIZED (SELECT position FROM tokens) SELECT count(a) AS n FROM "tokens"',
        "SELECT count(*) AS n FROM (WITH tokens AS (SELECT 1) SELECT * FROM tokens) CROSS JOIN tokens AS t",
        'SELECT count(*) AS n FROM "tokens" SEMI JOIN (SELECT * FROM tokens) AS o USING (corpus, position)',
    ],
)
def test_a_hidden_table_is_read_in_part_wherever_it_is_named(mine: Catalog, query: str) -> None:
    first = "(SELECT * FROM lake.main.tokens WHERE position < 17)"
    text = Relations({}).query(query, ("tokens",), {"tokens": first})
    assert mine.rows(text) == [(17,)]
    assert Relations({}).query(query, ("tokens",), {}) == query


def test_two_threads_commit_without_waiting_for_each_other_for_ever(mine: Catalog) -> None:
    """Each holds its turn before the commit lock; the other way round two threads waited for each other."""
    other = mine.beside()
    before = rows_of(mine, "leaks")
    failed: list[BaseException] = []

    def commit(catalog: Catalog, start: int) -> None:
        try:
            for n in range(start, start + 12):
                row = {"corpus": "x", "position": n}
                if n % 3:
                    catalog.commit("one more", lambda tx, row=row: tx.insert("leaks", [row]))  # type: ignore[misc]
                else:
                    with catalog.write("one more") as tx:
                        tx.insert("leaks", [row])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=commit, args=(catalog, n)) for catalog, n in ((mine, 0), (other, 100))]
    since = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=50)
    other.close()
    assert failed == []
    assert time.monotonic() - since < 30
    assert rows_of(mine, "leaks") == before + 24
    assert mine.value("SELECT count(DISTINCT position) FROM leaks WHERE corpus = 'x'") == 24


@pytest.mark.slow
def test_a_refresh_of_steps_side_by_side_gives_the_same_tables_every_time(
    raw_root: Path, made_root: Path, tmp_path: Path
) -> None:
    tables = sorted({step.writes for step in packaged_steps()} - {"lance"})
    with Catalog(made_root, read_only=True) as made:
        expected = {table: made.rows(f"SELECT * FROM {table} ORDER BY ALL") for table in tables}
    for n in range(4):
        with Catalog(shutil.copytree(raw_root, tmp_path / str(n))) as catalog:
            refresh_made(catalog)
            for table in tables:
                assert catalog.rows(f"SELECT * FROM {table} ORDER BY ALL") == expected[table], table
