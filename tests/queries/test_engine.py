"""A refresh does what is stale and nothing else, and a killed one leaves nothing behind that matters."""

import importlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from catalog import Catalog
from catalog.errors import CatalogLocked, StepError
from queries.refresh import engine
from queries.refresh.engine import Listener, Options, refresh
from queries.refresh.step import packaged_steps, parse_step
from tests.forked import Forked
from tests.queries.made import CONCEPT, STEPS, refresh_made

pytestmark = pytest.mark.usefixtures("two_threads")
REPOSITORY = Path(__file__).parents[2]


def states(results: dict[str, engine.StepResult]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, result in results.items():
        found.setdefault(result.state, set()).add(name)
    return found


def contents(catalog: Catalog, *tables: str) -> dict[str, list[tuple[Any, ...]]]:
    return {table: catalog.rows(f"SELECT * FROM lake.{table} ORDER BY ALL") for table in tables}


def test_a_second_refresh_does_nothing_and_leaves_no_snapshot(mine: Catalog) -> None:
    before = mine.snapshot()
    results = refresh_made(mine)
    assert set(states(results)) == {"current"}
    assert mine.snapshot() == before


def test_steps_run_after_those_that_they_read_from(mine: Catalog) -> None:
    order = list(refresh_made(mine))
    for early, late in (
        ("concept_positions", "concept_sums"),
        ("concept_sums", "separation"),
        ("separation", "shortlist"),
        ("shortlist", "contexts_stratum"),
        ("contexts_top", "labels"),
        ("contexts_random", "labels"),
        ("labels", "judgements"),
        ("judgements", "scores"),
    ):
        assert order.index(early) < order.index(late)


def test_an_edited_parameter_reruns_its_step_and_dependents_only(mine: Catalog) -> None:
    gone, kept = mine.rows(
        "SELECT count(*) FILTER (rank > 30), count(*) FILTER (rank <= 30) FROM contexts WHERE kind = 'random'"
    )[0]
    rest = contents(mine, "feature_sums", "shortlist", "separation")
    results = refresh_made(mine, contexts_random__per_split=30)
    others = {f"judgements_{name}" for name in ("embedding", "example_embedding", "fuzzing", "intruder")}
    assert states(results)["done"] == {"contexts_random", "labels", "judgements", "scores", "text_vectors"} | others
    changes = results["contexts_random"].changes
    # Those that stay were less likely to be drawn.
    assert (changes.added, changes.changed, changes.removed) == (0, kept, gone)
    assert contents(mine, "feature_sums", "shortlist", "separation") == rest


def test_a_step_whose_result_is_the_same_does_not_make_its_dependents_stale(mine: Catalog) -> None:
    least = mine.value("SELECT min(firings) FROM feature_stats AS f SEMI JOIN shortlist AS s ON s.feature = f.feature")
    results = refresh_made(mine, shortlist__min_firings=min(33, least))
    assert states(results)["done"] == {"shortlist"}
    assert not results["shortlist"].changes


def test_only_the_changed_row_is_written(mine: Catalog) -> None:
    feature = mine.value("SELECT min(feature) FROM scores")
    with mine.write("spoil") as tx:
        tx.execute("UPDATE lake.scores SET f1 = 0.123 WHERE feature = ?", [feature])
        tx.execute("DELETE FROM lake.runs WHERE step = 'scores'")
    changes = refresh_made(mine)["scores"].changes
    assert (changes.added, changes.changed, changes.removed) == (0, 1, 0)


def test_only_labels_with_other_examples_reach_the_kernel(mine: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = importlib.import_module("scoring.kernels.labels")
    seen: list[int] = []
    real = kernels.labels

    def watched(rows: list[dict[str, Any]], run: Any) -> Iterator[Any]:
        seen.extend(row["feature"] for row in rows)
        yield from real(rows, run)

    monkeypatch.setattr(kernels, "labels", watched)
    feature = mine.value("SELECT max(feature) FROM shortlist")
    others = "SELECT * FROM labels WHERE feature <> ? ORDER BY ALL"
    before = mine.rows(others, [feature])
    with mine.write("a window less") as tx:
        tx.execute("DELETE FROM lake.contexts WHERE feature = ? AND kind = 'random' AND split = 'train'", [feature])
    refresh_made(mine)
    assert seen == [feature]
    assert mine.rows(others, [feature]) == before
    assert mine.value("SELECT problem FROM labels WHERE feature = ?", [feature]) is not None
    assert refresh_made(mine)["labels"].failed == mine.value("SELECT count(problem) FROM labels")


def test_what_is_no_longer_shortlisted_loses_its_labels_and_scores(mine: Catalog) -> None:
    feature = mine.value("SELECT feature FROM shortlist ORDER BY rank DESC")
    size = mine.value("SELECT max(rank) FROM shortlist")
    with mine.write("a shorter list") as tx:
        tx.execute("UPDATE lake.concepts SET shortlist = ?", [size - 1])
    refresh_made(mine)
    for table in ("shortlist", "labels", "judgements", "scores"):
        assert mine.value(f"SELECT count(*) FROM {table} WHERE feature = ?", [feature]) == 0, table
        assert mine.value(f"SELECT count(*) FROM {table}") > 0, table


def test_a_failing_step_leaves_its_table_and_its_dependents_wait(mine: Catalog) -> None:
    before = contents(mine, "concept_positions", "separation", "labels", "scores")
    with mine.write("a concept that cannot be used") as tx:
        tx.execute("UPDATE lake.concepts SET kind = 'predicate', definition = ?", [json.dumps({"predicate": "text ="})])
    results = {r.step: r for r in refresh(mine, STEPS)}
    assert results["concept_positions"].state == "failed"
    assert "is not one SQL expression" in str(results["concept_positions"].error)
    assert states(results)["waiting"] >= {"concept_sums", "separation", "labels", "scores"}
    assert contents(mine, *before) == before
    with mine.write("back") as tx:
        tx.execute("UPDATE lake.concepts SET kind = 'words', definition = ?", [CONCEPT["definition"]])
    refresh_made(mine)
    assert contents(mine, *before) == before


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT 's' AS sae, 'x' AS concept, unnest([1, 1]) AS feature, 0.5 AS auroc", "have the same key"),
        ("SELECT 's' AS sae, 'x' AS concept, NULL::INTEGER AS feature, 0.5 AS auroc", "no value in one of the key"),
        ("SELECT 's' AS sae, 'x' AS concept, 1 AS feature, 'text' AS auroc", "Could not convert"),
        ("SELECT 's' AS sae FROM separation", "concept"),
    ],
)
def test_output_that_breaks_the_contract_is_refused(
    mine: Catalog, monkeypatch: pytest.MonkeyPatch, query: str, message: str
) -> None:
    text = f"-- step: bad\n-- writes: shortlist_auroc\n-- key: sae, concept, feature\n-- doc: d\n{query}\n"
    monkeypatch.setattr(engine, "packaged_steps", lambda: (parse_step(text, "bad.sql"),))
    before = contents(mine, "shortlist_auroc", "runs")
    (result,) = refresh(mine)
    assert result.state == "failed"
    assert message in str(result.error)
    assert contents(mine, "shortlist_auroc", "runs") == before


def test_a_step_that_reads_what_there_is_not_stops_the_refresh_before_it_begins(
    mine: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "-- step: bad\n-- writes: leaks\n-- key: corpus, position\n-- doc: d\nSELECT *\nFROM no_such_table\n"
    before = mine.snapshot()
    with pytest.raises(StepError, match=r"bad.sql, line 6: the catalog has no table or view 'no_such_table'"):
        refresh(mine, steps=(*packaged_steps(), parse_step(text, "bad.sql")))
    assert mine.snapshot() == before


def test_an_unknown_step_or_parameter_names_the_known_ones(mine: Catalog) -> None:
    with pytest.raises(StepError, match=r"there is no step 'label'; the steps are .*labels"):
        refresh(mine, ("label",))
    with pytest.raises(StepError, match=r"no step has the parameter 'labels.tpo'; known are .*labels.top"):
        refresh(mine, (), Options(settings={"labels.tpo": 3}))


def test_a_named_step_brings_what_it_reads_and_nothing_else(mine: Catalog) -> None:
    assert [r.step for r in refresh(mine, ("feature_stats",))] == ["feature_sums", "feature_stats"]


def test_a_run_is_recorded_with_its_counts(mine: Catalog) -> None:
    rows = mine.value("SELECT count(*) FROM feature_sums")
    run = mine.rows("SELECT added, changed, removed, failed, calls FROM runs WHERE step = 'feature_sums'")
    assert run == [(rows, 0, 0, 0, 0)]
    assert {name for (name,) in mine.rows("SELECT step FROM runs")} <= {step.name for step in packaged_steps()}


# --- other processes

HOLD = """
import sys, time
from pathlib import Path
from catalog.store.locks import locked
with locked(Path(sys.argv[1]) / "refresh.lock", wait=0):
    print("ready", flush=True)
    time.sleep(60)
"""

REFRESH = """
import sys
from catalog import Catalog
from queries.refresh.engine import Listener, Options, refresh
from scoring.kernels import judgements, labels
labels.BATCH = judgements.BATCH = 1
def say(*words):
    print(*words, flush=True)
listener = Listener(
    lambda step: say("begin", step.name),
    lambda step, done, total: say("advance", step.name, done),
    lambda result: say("end", result.step),
)
refresh(Catalog(sys.argv[1]), tuple(sys.argv[2:]), None, listener)
"""


@pytest.fixture
def start() -> Iterator[Callable[..., Forked]]:
    running: list[Forked] = []

    def run(code: str, *arguments: object) -> Forked:
        running.append(Forked(code, *arguments))
        return running[-1]

    yield run
    for process in running:
        process.kill()
        process.communicate()


def test_one_refresh_at_a_time(mine: Catalog, start: Callable[..., Forked]) -> None:
    holder = start(HOLD, mine.root)
    assert holder.stdout.readline() == "ready\n"
    with pytest.raises(CatalogLocked, match=f"process {holder.pid}"):
        refresh(mine, ("leaks",))
    command = [sys.executable, "-m", "queries.cli.main", "-C", str(mine.root), "refresh", "leaks"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert (done.returncode, done.stdout) == (4, "")
    assert f"process {holder.pid}" in done.stderr
    assert "Traceback" not in done.stderr
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert [r.state for r in refresh(mine, ("leaks",))] == ["current"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "point",
    ["end separation", "advance labels 2", "advance judgements 3"],
)
def test_a_killed_refresh_goes_on_to_the_same_tables(
    raw_root: Path, made_root: Path, tmp_path: Path, start: Callable[..., Forked], point: str
) -> None:
    root = Path(shutil.copytree(raw_root, tmp_path / "killed"))
    process = start(REFRESH, root, *STEPS)
    lines = iter(process.stdout.readline, "")
    assert any(line.strip() == point for line in lines), "the refresh ended before the point"
    process.send_signal(signal.SIGKILL)
    process.wait()
    begun: list[str] = []
    with Catalog(root) as catalog, Catalog(made_root, read_only=True) as undisturbed:
        listener = Listener(begin=lambda step: begun.append(step.name))
        results = refresh(catalog, STEPS, None, listener)
        assert [r.error for r in results if r.error] == []
        tables = sorted({step.writes for step in packaged_steps()} - {"lance"})
        assert contents(catalog, *tables) == contents(undisturbed, *tables)
        before = catalog.snapshot()
        assert set(states(refresh_made(catalog))) == {"current"}
        assert catalog.snapshot() == before
        if point == "end separation":
            done = {r.step for r in results if r.state == "current"}
            assert {"concept_positions", "concept_sums", "feature_sums", "separation"} <= done


@pytest.mark.slow
def test_a_refresh_killed_while_it_embeds_ends_with_the_same_vectors(
    mine: Catalog, tmp_path: Path, start: Callable[..., Forked]
) -> None:
    from catalog.vectors.collections import Vectors

    def vectors(catalog: Catalog) -> list[tuple[Any, ...]]:
        (version, rows) = catalog.rows("SELECT version, rows FROM lance WHERE collection = 'labels'")[0]
        table = Vectors(catalog.vectors).read("labels", version)
        assert len(table) == rows == catalog.value("SELECT count(label) FROM labels")
        return sorted(zip(table["feature"].to_pylist(), map(tuple, table["vector"].to_pylist()), strict=True))

    killed = Path(shutil.copytree(mine.root, tmp_path / "killed"))
    process = start(REFRESH, killed, "label_vectors")
    # The kernel says so after it has embedded, before Lance and the commit.
    assert any(line.startswith("advance label_vectors") for line in iter(process.stdout.readline, ""))
    process.send_signal(signal.SIGKILL)
    process.wait()
    refresh(mine, ("label_vectors",))
    with Catalog(killed) as catalog:
        refresh(catalog, ("label_vectors",))
        assert vectors(catalog) == vectors(mine)
