"""New text costs what the new text costs, and ends in the tables that all of it at once would have made."""

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from catalog import Catalog
from catalog.doctor.examine import examine
from catalog.errors import InputError, SaeqlError
from queries.refresh.engine import StepResult, plan, refresh
from queries.refresh.options import Options, where
from queries.refresh.rollback import rollback
from queries.refresh.step import Step, packaged_steps, parse_step
from tests.once import once
from tests.queries.made import STEPS, Document, documents, grow, make

LAST = 40
ALL = (*STEPS, "firing_ranks", "token_frequency")

AT = (
    "SELECT {columns}, d.hash, x.{position} - d.start AS at FROM {table} AS x "
    "ASOF JOIN documents AS d ON d.corpus = x.corpus AND d.start <= x.{position} ORDER BY ALL"
)
PLACED = {
    "contexts": (
        "x.sae, x.feature, x.kind, x.split, x.stratum, x.rank, x.length, x.peak - x.start, x.activation",
        "start",
    ),
    "concept_positions": ("x.concept", "position"),
    "leaks": ("x.corpus", "position"),
    "judgements": (
        "x.feature, x.label_feature, x.explainer, x.scorer, x.active, x.activation, x.predicted, x.probability",
        "example",
    ),
}
PLAIN = ("feature_stats", "separation", "shortlist", "shortlist_auroc", "scores", "firing_ranks", "token_frequency")


def by_content(catalog: Catalog) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of every table with places as (document hash, offset): equal for equal text, whatever came when."""
    found = {table: catalog.rows(f"SELECT * FROM {table} ORDER BY ALL") for table in PLAIN}
    for table, (columns, position) in PLACED.items():
        found[table] = catalog.rows(AT.format(columns=columns, table=table, position=position))
    found["labels"] = catalog.rows("SELECT sae, feature, explainer, label, problem FROM labels ORDER BY ALL")
    return found


def run(catalog: Catalog, **settings: Any) -> dict[str, StepResult]:
    named = {name.replace("__", "."): value for name, value in settings.items()}
    results = {result.step: result for result in refresh(catalog, ALL, Options(settings=named))}
    assert [result.error for result in results.values() if result.error] == []
    return results


@pytest.fixture(scope="module")
def texts() -> list[Document]:
    return documents(150, seed=3)


@pytest.fixture(scope="module")
def at_once(texts: list[Document], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[Any, ...]]]:
    with make(tmp_path_factory.mktemp("once"), texts, shards=1).open() as catalog:
        run(catalog)
        return by_content(catalog)


@pytest.fixture(scope="module")
def begun_root(texts: list[Document], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All but the last documents, in two shards, refreshed. Not to be written to."""

    def build(root: Path) -> None:
        with make(root, texts[:-LAST], shards=2).open() as catalog:
            run(catalog)

    return once(tmp_path_factory, "begun", build)


@pytest.fixture
def begun(begun_root: Path, tmp_path: Path) -> Any:
    with Catalog(shutil.copytree(begun_root, tmp_path / "begun")) as catalog:
        yield catalog


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_text_added_in_any_order_gives_the_tables_of_all_of_it_at_once(
    seed: int, texts: list[Document], at_once: dict[str, list[tuple[Any, ...]]], tmp_path: Path
) -> None:
    chance = random.Random(seed)
    # The first document stays the first: it alone has the feature that fires once.
    rest = texts[1:]
    chance.shuffle(rest)
    order = [texts[0], *rest]
    cuts = sorted(chance.sample(range(20, len(order)), 2 + seed % 2))
    with make(tmp_path / "c", order[: cuts[0]], shards=1 + seed % 2).open() as catalog:
        run(catalog)
        for number, (first, last) in enumerate(zip(cuts, [*cuts[1:], len(order)], strict=True), start=2):
            grow(catalog, order[first:last], number)
            if chance.random() < 0.8:
                run(catalog)
        run(catalog)
        found = by_content(catalog)
    for table, rows in at_once.items():
        assert rows, table
        assert found[table] == rows, table


def test_a_shard_that_is_there_is_not_read_again(begun: Catalog, texts: list[Document]) -> None:
    before = begun.rows("SELECT step, part, digest, rows, content FROM partitions ORDER BY ALL")
    old = begun.rows("SELECT * EXCLUDE (bins) FROM feature_sums ORDER BY ALL")
    grow(begun, texts[-LAST:], 2)
    results = run(begun)
    for step in ("feature_sums", "concept_sums", "concept_positions"):
        assert results[step].changes.added > 0, step
        assert results[step].changes.changed == results[step].changes.removed == 0, step
    assert results["feature_sums"].why == ("inputs: activations: c grew by shard 2",)
    assert set(before) <= set(begun.rows("SELECT step, part, digest, rows, content FROM partitions"))
    assert set(old) <= set(begun.rows("SELECT * EXCLUDE (bins) FROM feature_sums"))


def test_a_shard_that_was_harvested_anew_is_taken_out_before_it_is_put_in(
    begun: Catalog, texts: list[Document], tmp_path: Path
) -> None:
    with begun.write("half the activations of shard 0") as tx:
        tx.execute("UPDATE lake.activations SET activation = activation / 2 WHERE shard = 0")
        tx.execute("UPDATE lake.shards SET blake2b = 'other' WHERE shard = 0 AND relation = 'activations'")
    run(begun)
    grown = by_content(begun)
    with begun.write("forget") as tx:
        for table in ("runs", "partitions", "contexts", "feature_sums", "firing_counts", "concept_sums"):
            tx.execute(f"DELETE FROM lake.{table}")
    run(begun)
    assert by_content(begun) == grown


def test_a_plan_shows_what_the_refresh_then_does(begun: Catalog, texts: list[Document]) -> None:
    grow(begun, texts[-LAST:], 2)
    before = begun.snapshot()
    planned = {result.step: result for result in plan(begun, ALL)}
    assert begun.snapshot() == before
    done = run(begun)
    free = [step.name for step in packaged_steps() if step.name in done and not step.kernel]
    for name in set(free) - {"scores"}:
        assert planned[name].changes == done[name].changes, name
        assert (planned[name].state == "stale") == bool(done[name].changes), name
    assert planned["concept_positions"].changes.added == 1
    assert planned["labels"].changes.changed >= done["labels"].changes.changed > 0
    assert planned["scores"].state == "after"


def test_a_plan_with_nothing_to_do_says_so(begun: Catalog) -> None:
    assert {result.state for result in plan(begun, ALL)} == {"current"}


def written(root: Path) -> dict[str, int]:
    """Every file of a catalog with its size, but for those that SQLite has while it is open."""
    return {
        str(path): path.stat().st_size
        for path in root.rglob("*")
        if path.is_file() and not path.name.endswith(("-wal", "-shm", ".lock"))
    }


def test_a_plan_on_a_read_only_catalog_writes_nothing(begun: Catalog, texts: list[Document]) -> None:
    grow(begun, texts[-LAST:], 2)
    before = written(begun.root)
    with Catalog(begun.root, read_only=True) as catalog:
        assert any(result.state == "stale" for result in plan(catalog, ALL))
    assert written(begun.root) == before


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (("-- param: k = 20", "-- param: k = 5"), "parameter k: 20 -> 5"),
        (("ORDER BY b.activation DESC", "ORDER BY b.activation DESC, b.length"), "query edited"),
    ],
)
def test_a_plan_says_why(begun: Catalog, edit: tuple[str, str], why: str) -> None:
    steps = []
    for step in packaged_steps():
        if step.name == "contexts_top":
            assert edit[0] in step.query
            step = parse_step(step.query.replace(*edit), step.file)
        steps.append(step)
    results = {result.step: result for result in plan(begun, ALL, steps=tuple(steps))}
    assert results["contexts_top"].why == (why,)
    assert {name for name, result in results.items() if result.state == "current"} >= {"feature_sums", "separation"}


def test_a_comment_or_a_layout_in_a_step_changes_nothing(begun: Catalog) -> None:
    steps = tuple(
        parse_step("-- a remark\n" + step.query.replace("\nFROM ", "\n  from ").replace(" AS ", " as "), step.file)
        for step in packaged_steps()
    )
    assert {result.state for result in plan(begun, ALL, steps=steps)} == {"current"}


def test_a_part_of_the_keys_is_refreshed_and_the_rest_stays_stale(begun: Catalog) -> None:
    features = [f for (f,) in begun.rows("SELECT feature FROM labels ORDER BY feature")]
    middle = features[len(features) // 2]
    with begun.write("spoil") as tx:
        tx.execute("UPDATE lake.labels SET label = 'spoiled', input = ''")
        tx.execute("DELETE FROM lake.runs WHERE step = 'labels'")
    options = Options(where=where(f"feature < {middle}", begun))
    results = {result.step: result for result in refresh(begun, ("labels",), options)}
    assert results["labels"].state == "part"
    spoiled = {f for (f,) in begun.rows("SELECT feature FROM labels WHERE label = 'spoiled'")}
    assert spoiled == {f for f in features if f >= middle}
    assert next(r for r in plan(begun, ("labels",)) if r.step == "labels").changes.changed == len(spoiled)
    run(begun)
    assert begun.value("SELECT count(*) FROM labels WHERE label = 'spoiled'") == 0


@pytest.mark.parametrize(
    "text", ["feature < 3; DROP TABLE x", "feature IN (SELECT 1)", "feature <", "1 = 1) OR (true", "true ORDER BY 1"]
)
def test_a_condition_that_is_more_than_one_is_refused(begun: Catalog, text: str) -> None:
    with pytest.raises(SaeqlError):
        where(text, begun)


@pytest.mark.parametrize("text", ["foo < 1", "feature < 3 AND foo = 'x'", "selec = 1"])
@pytest.mark.parametrize("names", [(), ("labels",)])
def test_a_condition_that_would_limit_nothing_is_refused(begun: Catalog, text: str, names: tuple[str, ...]) -> None:
    options = Options(where=where(text, begun))
    snapshot = begun.snapshot()
    for run_or_plan in (refresh, plan):
        with pytest.raises(InputError, match=r"(foo|selec).*; key columns are .*\bfeature\b"):
            run_or_plan(begun, names, options)
    assert begun.snapshot() == snapshot


def test_kept_labels_are_scored_on_the_new_text(begun: Catalog, texts: list[Document]) -> None:
    before = begun.rows("SELECT feature, label FROM labels ORDER BY ALL")
    grow(begun, texts[-LAST:], 2)
    results = {result.step: result for result in refresh(begun, ALL, Options(keep=frozenset({"labels"})))}
    assert begun.rows("SELECT feature, label FROM labels ORDER BY ALL") == before
    assert results["labels"].state == "part"
    assert results["labels"].left > 0
    assert results["scores"].changes.changed > 0
    after = run(begun)
    assert after["labels"].changes.changed > 0


def altered(catalog: Catalog, sample: int | None = None) -> list[tuple[str, str]]:
    """(step, detail) of each part that the doctor finds altered."""
    found = examine(catalog, only=["parts"], sample=sample)
    return [(f.subject, f.detail.partition(":")[0]) for f in found if f.severity == "error"]


@pytest.mark.parametrize("table", ["feature_sums", "concept_sums"])
def test_a_row_of_a_part_that_was_lost_or_altered_is_found(begun: Catalog, table: str) -> None:
    assert altered(begun) == []
    made, then = begun.rows(f"SELECT * FROM {table} ORDER BY ALL"), begun.snapshot()
    shards = dict(begun.rows(f"SELECT shard, count(*) FROM {table} GROUP BY shard"))
    with begun.write("behind the engine's back") as tx:
        tx.execute(f"DELETE FROM lake.{table} WHERE shard = 0 AND feature = 2")
        tx.execute(f"UPDATE lake.{table} SET firings = firings + 1 WHERE shard = 1 AND feature = 2")
    concept = "concept = 'algebra', " if table == "concept_sums" else ""
    part = f"the part sae = 's', {concept}corpus = 'c', shard = "
    assert sorted(altered(begun)) == [
        (table, f"{part}0 has {shards[0] - 1} rows, not {shards[0]}"),
        (table, f"{part}1 has other rows than the {shards[1]} that were made"),
    ]
    assert altered(begun, sample=0) == []
    assert len(altered(begun, sample=1)) == 1
    # As the finding says.
    rollback(begun, table, then)
    run(begun)
    assert altered(begun) == []
    assert begun.rows(f"SELECT * FROM {table} ORDER BY ALL") == made


def edited(step: str, old: str, new: str) -> tuple[Step, ...]:
    """The steps, with one query edited."""
    steps = {s.name: s for s in packaged_steps()}
    assert old in steps[step].query
    steps[step] = parse_step(steps[step].query.replace(old, new), steps[step].file)
    return tuple(steps.values())


@pytest.mark.parametrize(
    ("step", "edit"),
    [
        ("feature_sums", ("max(maximum) AS", "2 * max(maximum) AS")),
        ("firing_counts", ("f.firings + coalesce", "2 * f.firings + coalesce")),
        ("labels", ("WHERE c.split IN", "WHERE c.kind <> 'stratum' AND c.split IN")),
    ],
)
def test_an_edit_that_was_refreshed_for_some_keys_and_taken_back_leaves_nothing(
    begun: Catalog, step: str, edit: tuple[str, str]
) -> None:
    before = by_content(begun)
    some = Options(where=where("feature < 5", begun))
    results = {r.step: r for r in refresh(begun, ALL, some, steps=edited(step, *edit))}
    assert results[step].state == "part"
    assert results[step].changes.changed > 0
    assert by_content(begun) != before
    assert altered(begun) == []
    planned = next(r for r in plan(begun, (step,)) if r.step == step)
    assert planned.changes.changed == results[step].changes.changed
    assert "the last refresh left some of its rows as they were" in planned.why
    run(begun)
    assert by_content(begun) == before
    assert altered(begun) == []


def test_new_text_that_was_refreshed_for_some_keys_is_counted_once(
    begun: Catalog, texts: list[Document], at_once: dict[str, list[tuple[Any, ...]]]
) -> None:
    grow(begun, texts[-LAST:], 2)
    for condition in ("feature < 4", "feature < 6"):
        refresh(begun, ALL, Options(where=where(condition, begun)))
        assert altered(begun) == []
    run(begun)
    assert by_content(begun) == at_once
    assert altered(begun) == []


def test_a_refresh_of_some_keys_keeps_the_vectors_of_the_others(begun: Catalog) -> None:
    run(begun)
    assert [r.error for r in refresh(begun, ("label_vectors",)) if r.error] == []
    labels, least = begun.rows("SELECT count(label), min(feature) FILTER (label IS NOT NULL) FROM labels")[0]
    with begun.write("another label") as tx:
        tx.execute("UPDATE lake.labels SET label = 'another' WHERE feature = ?", [least])
    step = [s for s in packaged_steps() if s.name == "label_vectors"]
    results = refresh(begun, (), Options(where=where(f"feature <= {least}", begun)), steps=tuple(step))
    assert [(r.state, r.changes.changed) for r in results] == [("done", 1)]
    assert begun.value("SELECT rows FROM lance WHERE collection = 'labels'") == labels > 1
