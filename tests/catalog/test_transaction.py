"""One transaction: what replace does is what a dictionary would do; all of it is committed, or nothing."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog import Catalog
from catalog.errors import CatalogError, StepError
from catalog.store.scratch import Relation
from tests.catalog.small_catalog import activations, shard
from tests.postgres import Postgres

KEY = ["sae", "feature", "explainer"]
Rows = dict[tuple[int, str], tuple[str | None, float]]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, metadata: Postgres | None) -> Catalog:
    folder = tmp_path_factory.mktemp("shared") / "catalog"
    return Catalog.create(metadata.location(folder) if metadata else folder)


def load(catalog: Catalog, rows: list[tuple[Any, ...]]) -> None:
    """Rows (feature, explainer, label, cost) as the temporary table `fresh`, with the columns of labels."""
    catalog.connection.execute(
        "CREATE OR REPLACE TEMP TABLE fresh (sae VARCHAR, feature BIGINT, explainer VARCHAR, label VARCHAR, "
        "problem VARCHAR, kept_constraints BOOLEAN, details VARCHAR, model VARCHAR, prompt_hash VARCHAR, "
        "prompt_tokens BIGINT, completion_tokens BIGINT, cost DOUBLE, input VARCHAR)"
    )
    for feature, explainer, label, cost in rows:
        catalog.connection.execute(
            "INSERT INTO fresh VALUES ('s', ?, ?, ?, NULL, true, NULL, 'm', NULL, 0, 0, ?, 'i')",
            [feature, explainer, label, cost],
        )


def held(catalog: Catalog, where: str = "true") -> Rows:
    rows = catalog.rows(f"SELECT feature, explainer, label, cost FROM labels WHERE {where}")
    assert len({row[:2] for row in rows}) == len(rows)
    return {row[:2]: row[2:] for row in rows}


states = st.dictionaries(
    st.tuples(st.integers(0, 5), st.sampled_from(["a", "b"])),
    st.tuples(st.sampled_from(["x", "y", None]), st.sampled_from([0.1, 0.25])),
    max_size=8,
)


@settings(max_examples=25, deadline=None)
@given(before=states, after=states, sliced=st.booleans())
def test_replace_is_what_a_dictionary_would_be(shared: Catalog, before: Rows, after: Rows, sliced: bool) -> None:
    with shared.write("clear") as tx:
        tx.execute("DELETE FROM lake.labels")
        load(shared, [(*k, *v) for k, v in before.items()])
        tx.replace("labels", Relation("fresh"), KEY)
    scope = "explainer = 'a'" if sliced else "true"
    inside = {k: v for k, v in before.items() if not sliced or k[1] == "a"}
    outside = {k: v for k, v in before.items() if k not in inside}
    after = {k: v for k, v in after.items() if not sliced or k[1] == "a"}
    load(shared, [(*k, *v) for k, v in after.items()])
    snapshot = shared.snapshot()
    with shared.write("replace") as tx:
        changes = tx.replace("labels", Relation("fresh"), KEY, scope)
    assert held(shared) == outside | after
    assert changes.added == len(after.keys() - inside.keys())
    assert changes.removed == len(inside.keys() - after.keys())
    assert changes.changed == sum(inside[k] != after[k] for k in inside.keys() & after.keys())
    assert (shared.snapshot() > snapshot) == bool(changes) == (inside != after)


def test_only_touched_rows_are_in_the_snapshot(shared: Catalog) -> None:
    load(shared, [(i, "a", "x", 0.0) for i in range(100)])
    with shared.write("all") as tx:
        tx.execute("DELETE FROM lake.labels")
        tx.replace("labels", Relation("fresh"), KEY)
    load(shared, [(i, "a", "y" if i == 7 else "x", 0.0) for i in range(1, 101)])
    with shared.write("some") as tx:
        tx.replace("labels", Relation("fresh"), KEY)
    changes = shared.rows(
        "SELECT change_type, feature FROM lake.table_changes('labels', ?, ?)", [shared.snapshot(), shared.snapshot()]
    )
    assert {feature for _, feature in changes} == {0, 7, 100}


def test_a_double_for_a_float_column_is_no_change_the_second_time(store: Catalog) -> None:
    store.connection.execute(
        "CREATE TEMP TABLE fresh AS SELECT 's' AS sae, i AS feature, 'top' AS side, 1 AS rank, 2 AS token, "
        "0.1::DOUBLE AS logit FROM range(3) AS t (i)"
    )
    key = ["sae", "feature", "side", "rank"]
    with store.write("once") as tx:
        assert tx.replace("logit_lens", Relation("fresh"), key).added == 3
    with store.write("twice") as tx:
        assert not tx.replace("logit_lens", Relation("fresh"), key)


def test_a_scope_over_several_columns_and_a_subquery(store: Catalog) -> None:
    store.connection.execute("CREATE TEMP TABLE asked AS SELECT 1 AS feature, 'a' AS explainer")
    load(store, [(1, "a", "x", 0.0), (2, "a", "x", 0.0), (1, "b", "x", 0.0)])
    with store.write("all") as tx:
        tx.replace("labels", Relation("fresh"), KEY)
    load(store, [])
    scope = "(feature, explainer) IN (SELECT (feature, explainer) FROM asked)"
    with store.write("some") as tx:
        assert tx.replace("labels", Relation("fresh"), KEY, scope).removed == 1
    assert held(store).keys() == {(2, "a"), (1, "b")}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [(1, "a", "x", 0.0), (1, "a", "y", 0.0)],
            r"2 rows for labels have the same key: .*feature = 1, explainer = 'a'",
        ),
        ([(None, "a", "x", 0.0)], "1 rows for labels have no value in one of the key columns"),
        ([(1, "b", "x", 0.0)], "1 rows for labels lie outside of what this step writes"),
    ],
)
def test_rows_that_break_the_contract_are_refused_whole(store: Catalog, rows: list[Any], said: str) -> None:
    load(store, [(5, "a", "kept", 0.0), (9, "a", "kept", 0.0)])
    with store.write("before") as tx:
        tx.replace("labels", Relation("fresh"), KEY)
    before, snapshot = held(store), store.snapshot()
    load(store, [(9, "a", "new", 0.0), *rows])
    with pytest.raises(StepError, match=said), store.write("bad") as tx:
        tx.replace("labels", Relation("fresh"), KEY, "explainer = 'a'")
    assert (held(store), store.snapshot()) == (before, snapshot)


def test_an_exception_inside_leaves_nothing(store: Catalog) -> None:
    def interrupted() -> None:
        with store.write("bad") as tx:
            tx.insert("leaks", [{"corpus": "c", "position": 1}])
            shard(store, tx, "activations", activations(1), 1, "s")
            raise ZeroDivisionError

    before = store.snapshot()
    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert store.snapshot() == before
    assert store.value("SELECT count(*) FROM leaks") == 0
    with store.write("good") as tx:
        tx.insert("leaks", [{"corpus": "c", "position": 2}])
    assert store.rows("SELECT position FROM leaks") == [(2,)]


def test_a_transaction_that_changes_nothing_leaves_no_snapshot(store: Catalog) -> None:
    before = store.snapshot()
    with store.write("nothing") as tx:
        tx.insert("leaks", [])
    assert store.snapshot() == before


def test_a_snapshot_keeps_its_message_and_details(store: Catalog) -> None:
    with store.write("why", cost=1.5) as tx:
        tx.insert("leaks", [{"corpus": "c", "position": 1}])
        tx.details["rows"] = 1
    found = store.rows(
        "SELECT commit_message, commit_extra_info FROM lake.snapshots() ORDER BY snapshot_id DESC LIMIT 1"
    )
    assert found == [("why", '{"cost": 1.5, "rows": 1}')]


def test_a_write_inside_a_write_is_refused(store: Catalog) -> None:
    with (
        pytest.raises(CatalogError, match="already in a transaction"),
        store.write("outer") as tx,
        store.write("inner"),
    ):
        tx.insert("leaks", [{"corpus": "c", "position": 1}])
    assert store.value("SELECT count(*) FROM leaks") == 0


def test_a_file_is_never_registered_twice(store: Catalog) -> None:
    with store.write("one") as tx:
        path = shard(store, tx, "activations", activations(1), 5, "s")
        with pytest.raises(CatalogError, match="registered before"):
            tx.register("activations", path)
    rows = store.value("SELECT count(*) FROM activations")
    with store.write("delete") as tx:
        tx.execute("DELETE FROM lake.activations WHERE shard = 5 OR position = 40")
        tx.execute("DELETE FROM lake.shards WHERE shard = 5")
    with pytest.raises(CatalogError, match="registered before"), store.write("again") as tx:
        tx.register("activations", path)
    assert store.value("SELECT count(*) FROM activations") < rows


def test_a_file_that_would_not_move_with_the_catalog_is_refused(store: Catalog, tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="belong under"), store.write("x") as tx:
        tx.register("activations", tmp_path / "a.parquet")
