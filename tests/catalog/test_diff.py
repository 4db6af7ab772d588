"""diff against a naive comparison of whole tables, over random histories, also after snapshots were expired."""

import random
from pathlib import Path
from typing import Any

import pytest

from catalog import Catalog
from catalog.errors import UnknownName
from catalog.store.snapshots import numbers
from catalog.versions.diff import TableDifference, diff, diff_rows
from catalog.versions.gc import collect_garbage
from catalog.versions.tags import set_tag
from tests.catalog.small_catalog import activations, shard
from tests.empty import make_empty

COLUMNS = ("precision", "f1", "recall")


def change(catalog: Catalog, chance: random.Random) -> None:
    """One snapshot: some rows of `scores` come, go or get another value, as a refresh or as a statement does it."""
    with catalog.write("change") as tx:
        if chance.random() < 0.5:
            state = {f: chance.choice([None, 0.25, 0.5, float("nan")]) for f in chance.sample(range(12), 6)}
            rows = [
                {"sae": "s", "feature": f, "explainer": "e", "scorer": "d", "n": 1, "failed": 0, "n_null": 0, "f1": v}
                for f, v in state.items()
            ]
            tx.replace("scores", rows, ["sae", "feature", "explainer", "scorer"])
        elif chance.random() < 0.5:
            tx.execute("UPDATE lake.scores SET f1 = ? WHERE feature = ?", [chance.random(), chance.randrange(12)])
        else:
            tx.execute("DELETE FROM lake.scores WHERE feature = ?", [chance.randrange(12)])


def state(catalog: Catalog, at: int) -> dict[int, str]:
    return dict(catalog.rows(f"SELECT feature, f1::VARCHAR FROM lake.scores AT (VERSION => {at})"))


def naive(catalog: Catalog, a: int, b: int) -> tuple[set[int], set[int], set[int]]:
    old, new = state(catalog, a), state(catalog, b)
    changed = {f for f in old.keys() & new.keys() if old[f] != new[f]}
    return new.keys() - old.keys(), old.keys() - new.keys(), changed


# 101: a change that only stands in a file of deletions which was merged with later ones.
@pytest.mark.parametrize("seed", [0, 101])
def test_a_diff_is_what_comparing_whole_tables_gives(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    with make_empty(tmp_path / "c") as catalog:
        first = catalog.snapshot()
        for _ in range(14):
            change(catalog, chance)
        for name in chance.sample(range(first, catalog.snapshot()), 5):
            set_tag(catalog, f"t{name}", name)
        for _ in range(2):
            there = [n for n in numbers(catalog) if n >= first]
            for a, b in [(chance.choice(there), chance.choice(there)) for _ in range(6)]:
                added, removed, changed = naive(catalog, a, b)
                found = {d.table: d for d in diff(catalog, a, b)}.get("scores", TableDifference("scores", 0, 0, 0))
                assert (found.added, found.removed, found.changed) == tuple(map(len, (added, removed, changed)))
                rows = diff_rows(catalog, a, b, "scores")
                by_kind: dict[str, set[int]] = {"added": set(), "removed": set(), "changed": set()}
                for row in rows.rows:
                    by_kind[row.change].add(row.key["feature"])
                assert by_kind == {"added": added, "removed": removed, "changed": changed}
                assert rows.total == len(rows.rows)
            collect_garbage(catalog, 0)  # and once more, with most snapshots gone


@pytest.fixture
def scored(tmp_path: Path) -> Any:
    """Four scores, and a second snapshot with one better, one worse, one gone, one new."""
    with make_empty(tmp_path / "c") as catalog:
        key = ["sae", "feature", "explainer", "scorer"]
        fixed = {"sae": "s", "explainer": "e", "scorer": "d", "failed": 0, "n_null": 0}

        def put(values: dict[int, tuple[float | None, int]]) -> int:
            rows = [{**fixed, "feature": f, "f1": f1, "n": n} for f, (f1, n) in values.items()]
            with catalog.write("scores") as tx:
                tx.replace("scores", rows, key)
            return catalog.snapshot()

        a = put({0: (0.5, 10), 1: (0.75, 10), 2: (0.25, 10), 3: (0.5, 10)})
        yield catalog, a, put({0: (0.75, 10), 1: (0.25, 12), 3: (0.5, 11), 4: (1.0, 9)})


def test_scores_are_sorted_by_the_change_of_f1_biggest_loss_first(scored: tuple[Catalog, int, int]) -> None:
    catalog, a, b = scored
    rows = diff_rows(catalog, a, b, "scores").rows
    assert [(r.change, r.key["feature"], r.delta, r.old, r.new) for r in rows] == [
        ("changed", 1, -0.5, {"n": 10, "f1": 0.75}, {"n": 12, "f1": 0.25}),
        ("changed", 3, 0.0, {"n": 10}, {"n": 11}),
        ("changed", 0, 0.25, {"f1": 0.5}, {"f1": 0.75}),
        ("removed", 2, None, {"f1": 0.25}, None),
        ("added", 4, None, None, {"f1": 1.0}),
    ]
    back = diff_rows(catalog, b, a, "scores", limit=2)
    assert back.total == 5
    assert [(r.key["feature"], r.delta) for r in back.rows] == [(0, -0.25), (3, 0.0)]


def test_what_changed_back_is_no_difference(scored: tuple[Catalog, int, int]) -> None:
    catalog, _, b = scored
    for value in (0.1, 0.75):
        with catalog.write("there and back") as tx:
            tx.execute("UPDATE lake.scores SET f1 = ? WHERE feature = 0", [value])
    assert diff(catalog, b, catalog.snapshot()) == []
    assert diff_rows(catalog, b, catalog.snapshot(), "scores").rows == []
    assert diff(catalog, b, b) == []


def test_a_table_or_column_that_came_later_is_told(scored: tuple[Catalog, int, int]) -> None:
    catalog, a, b = scored
    with catalog.write("schema") as tx:
        tx.execute("ALTER TABLE lake.scores ADD COLUMN mood VARCHAR")
    altered = catalog.snapshot()
    assert diff(catalog, b, altered) == [TableDifference("scores", 0, 0, 0, f"column mood only at {altered}")]
    with catalog.write("mood") as tx:
        tx.execute("UPDATE lake.scores SET mood = 'glad' WHERE feature = 4")
    (row,) = diff_rows(catalog, b, catalog.snapshot(), "scores").rows
    assert (row.key["feature"], row.old, row.new) == (4, {"mood": None}, {"mood": "glad"})
    (row,) = diff_rows(catalog, catalog.snapshot(), b, "scores").rows
    assert (row.old, row.new) == ({"mood": "glad"}, {"mood": None})
    born = {d.table: d for d in diff(catalog, 0, a)}["scores"]
    assert born == TableDifference("scores", 4, 0, 0, f"only at snapshot {a}")
    assert {d.table: d.removed for d in diff(catalog, a, 0)}["scores"] == 4
    with pytest.raises(UnknownName, match="has a table 'score'; they have"):
        diff_rows(catalog, a, b, "score")


def test_a_table_that_was_made_anew_is_compared_whole(scored: tuple[Catalog, int, int]) -> None:
    catalog, _, b = scored
    with catalog.write("anew") as tx:
        tx.execute("CREATE TABLE lake.other AS SELECT * REPLACE (if(feature = 0, 0.1, f1) AS f1) FROM lake.scores")
        tx.execute("DROP TABLE lake.scores")
        tx.execute("ALTER TABLE lake.other RENAME TO scores")
    (row,) = diff_rows(catalog, b, catalog.snapshot(), "scores").rows
    assert (row.change, row.key["feature"], row.new) == ("changed", 0, {"f1": 0.1})


def test_bulk_tables_are_counted_by_their_files(store: Catalog) -> None:
    before = store.snapshot()
    with store.write("harvest again") as tx:
        tx.execute("DELETE FROM lake.activations WHERE shard = 0")
        tx.execute("DELETE FROM lake.shards WHERE relation = 'activations' AND shard = 0")
        path = shard(store, tx, "activations", activations(0).slice(0, 30), 0, "s")
    after = store.snapshot()
    counts = {d.table: (d.added, d.removed, d.changed, d.note) for d in diff(store, before, after)}
    assert counts == {"activations": (30, 40, 0, None), "shards": (1, 1, 0, None)}
    rows = diff_rows(store, before, after, "activations").rows
    assert [(r.change, r.key["rows"]) for r in rows] == [("added", 30), ("removed", 40)]
    assert rows[0].key["path"] == str(path.relative_to(store.data))
    with store.write("by hand") as tx:
        tx.execute("UPDATE lake.documents SET text = 'other' WHERE document = 1")
        tx.execute("UPDATE lake.documents SET hash = 'x' WHERE document = 0")
    (found,) = diff(store, after, store.snapshot())
    assert (found.table, found.added, found.note) == (
        "documents",
        0,
        "changed other than by shards: see --table documents",
    )
    (row,) = diff_rows(store, after, store.snapshot(), "documents").rows
    assert (row.key, row.old, row.new) == ({"corpus": "c", "document": 0}, {"hash": "h0"}, {"hash": "x"})
