"""Snapshots as a person uses them: reading at one, tags, log, rollback, blame, and all of it after a gc."""

import json
from pathlib import Path
from typing import Any

import pytest

from catalog import Catalog
from catalog.doctor.examine import CHECKS, examine
from catalog.errors import CatalogError, CatalogLocked, InputError, QueryRefused, StepError, UnknownName
from catalog.store.locks import locked
from catalog.store.snapshots import numbers, resolve, tags
from catalog.vectors.collections import Vectors
from catalog.vectors.references import name_version
from catalog.versions.blame import blame
from catalog.versions.diff import diff
from catalog.versions.gc import collect_garbage
from catalog.versions.log import snapshots
from catalog.versions.tags import delete_tag, open_at, set_tag
from queries.ask.guard import check, run
from queries.refresh.rollback import rollback
from queries.session import connect
from tests.catalog.small_catalog import decoder
from tests.queries.made import refresh_made

LABELS = "SELECT feature, label FROM labels ORDER BY feature"


def labels(catalog: Catalog, at: int | None = None) -> dict[int, str | None]:
    when = "" if at is None else f" AT (VERSION => {at})"
    return dict(catalog.rows(f"SELECT feature, label FROM lake.labels{when}"))


def labelled(catalog: Catalog) -> int:
    """The first feature for which a rule was found."""
    return min(feature for feature, label in labels(catalog).items() if label is not None)


def edit(catalog: Catalog, feature: int, label: str, why: str = "an edit") -> int:
    """A snapshot in which one label is another."""
    with catalog.write(f"edit {feature}", why=[why]) as tx:
        tx.execute("UPDATE lake.labels SET label = ? WHERE feature = ?", [label, feature])
    return catalog.snapshot()


def write_decoder(catalog: Catalog, salt: int) -> int:
    made = Vectors(catalog.vectors).write("decoder", decoder(9, salt=salt), ["sae", "feature"])
    with catalog.write("decoder") as tx:
        name_version(tx, made)
    return catalog.snapshot()


def same(catalog: Catalog, a: int, b: int) -> bool:
    """Whether the tables of the steps are alike; the engine's own records may differ."""
    return not [d for d in diff(catalog, a, b) if d.table not in ("runs", "partitions", "tags", "last_changes")]


# --- reading at a snapshot


def test_tables_views_and_vectors_are_those_of_the_snapshot(mine: Catalog) -> None:
    write_decoder(mine, 1)
    then = mine.snapshot()
    before = mine.rows("FROM features ORDER BY ALL")
    vectors = Vectors(mine.vectors).read("decoder", 1)
    edit(mine, 0, "another")
    write_decoder(mine, 2)
    with mine.write("fewer") as tx:
        tx.execute("DELETE FROM lake.scores WHERE feature = 1")
    assert mine.rows("FROM features ORDER BY ALL") != before
    with Catalog(mine.root, read_only=True, snapshot=then) as old:
        assert (old.snapshot(), old.newest()) == (then, mine.snapshot())
        assert old.rows("FROM features ORDER BY ALL") == before
        version = old.value("SELECT version FROM lance WHERE collection = 'decoder'")
        assert Vectors(old.vectors).read("decoder", version).equals(vectors)
    session = connect(mine.root)
    query = "SELECT * FROM features ORDER BY ALL"
    assert [tuple(row.values()) for row in session.sql(query, at=then).to_pylist()] == before
    assert session.feature(0, at=then).row["label"] == before[0][2]
    assert session.feature(0).row["label"] == "another"


def test_what_is_not_there_at_a_snapshot_is_told(mine: Catalog) -> None:
    with pytest.raises(UnknownName, match=r"no table or view 'labels'.*; it has"):
        connect(mine.root).sql("FROM labels", at=0)
    with pytest.raises(CatalogError, match="snapshot 0 does not have what this needs"):
        connect(mine.root).feature(0, at=0)
    with pytest.raises(UnknownName, match="the catalog has no SAE; known: none"):
        connect(mine.root).feature(0, at=1)
    with pytest.raises(UnknownName, match="'nonsense' is neither a snapshot nor a tag; there are snapshots 0-"):
        connect(mine.root).sql("SELECT 1", at="nonsense")
    with pytest.raises(UnknownName, match=r"snapshot 999 is not there yet; there are 0-\d+$"):
        connect(mine.root).sql("SELECT 1", at=999)
    with pytest.raises(CatalogError, match="can be read, not written"):
        Catalog(mine.root, snapshot=1)
    assert connect(mine.root).sql("SELECT 1 AS one", at=0).to_pylist() == [{"one": 1}]


def test_at_in_a_query_reads_one_table_as_it_was(mine: Catalog) -> None:
    then, old = mine.snapshot(), labels(mine)
    feature = labelled(mine)
    edit(mine, feature, "another")
    set_tag(mine, "v1.0", then)
    query = (
        "SELECT o.feature, o.label AS was, n.label FROM labels AS o AT (VERSION => {}) JOIN labels AS n "
        "USING (sae, feature, explainer) WHERE o.label <> n.label"
    )
    for at in (str(then), f"'{then}'", "'v1.0'"):
        with Catalog(mine.root, read_only=True) as catalog:
            found = run(query.format(at), catalog).read_all().to_pylist()
            assert found == [{"feature": feature, "was": old[feature], "label": "another"}]
            assert f"AT (VERSION => {then})" in check(query.format(at), catalog).sql
    nested = "WITH a AS (FROM labels AT (VERSION => 'v1.0')) SELECT count(*) AS n FROM a WHERE label = $label"
    # The tags of today count, also where the catalog is read as it was before they were given.
    with open_at(mine.root, then) as catalog:
        assert run(nested, catalog, {"label": old[feature]}).read_all().to_pylist() == [{"n": 1}]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("FROM features AT (VERSION => 20)", "'features' is a view, and AT reads tables: .* --at"),
        ("FROM features AT (TIMESTAMP => '2100-01-01')", "is a view"),
        ("WITH a AS (SELECT 1) FROM a AT (VERSION => 20)", "'a' is no table of the catalog"),
        ("FROM labels AT (VERSION => 'gone')", "neither a snapshot nor a tag; there are snapshots 0-"),
        ("FROM labels AT (VERSION => 999)", "is not there yet; there are 0-"),
        ("FROM labels AT (VERSION => 0)", "labels does not exist at version 0"),
        ("FROM labels AT (VERSION => (SELECT 20))", "a snapshot's number, or a tag in quotes"),
        ("FROM labels AT (VERSION => abs(20))", "a snapshot's number, or a tag in quotes"),
    ],
)
def test_at_takes_a_table_and_a_constant(made_root: Path, query: str, said: str) -> None:
    with Catalog(made_root, read_only=True) as catalog, pytest.raises((QueryRefused, UnknownName), match=said):
        run(query, catalog)


# --- tags


def test_a_tag_is_a_name_wherever_a_number_is(mine: Catalog) -> None:
    then = mine.snapshot()
    assert set_tag(mine, "release") == then
    assert set_tag(mine, "release", then) == then, "the same again is no change"
    assert mine.snapshot() == then + 1
    assert (resolve(mine, "release"), resolve(mine, str(then)), resolve(mine, then)) == (then, then, then)
    with pytest.raises(InputError, match=f"release is taken, by snapshot {then}: move it with --move"):
        set_tag(mine, "release", 12)
    assert set_tag(mine, "release", "12", move=True) == 12
    set_tag(mine, "also", "release")
    assert tags(mine) == {"also": 12, "release": 12}
    with pytest.raises(UnknownName, match=r"tags: also \(12\), release \(12\)$"):
        resolve(mine, "relase")
    assert delete_tag(mine, "release") == 12
    assert tags(mine) == {"also": 12}
    with pytest.raises(UnknownName, match="known: also"):
        delete_tag(mine, "release")


@pytest.mark.parametrize("name", ["12", "1a", "", "a b", "-x", "é", "a'b", "a\n"])
def test_a_tag_that_could_be_taken_for_something_else_is_refused(mine: Catalog, name: str) -> None:
    with pytest.raises(InputError, match="cannot be a tag"):
        set_tag(mine, name)


# --- log


def test_log_tells_tables_steps_and_tags(mine: Catalog) -> None:
    then = edit(mine, 0, "another", why="for a test")
    set_tag(mine, "edited", then)
    found = snapshots(mine)
    assert [row["snapshot"] for row in found] == sorted(numbers(mine), reverse=True)
    by_number = {row["snapshot"]: row for row in found}
    assert by_number[then]["tables"] == ["labels"]
    assert by_number[then]["tags"] == ["edited"]
    assert by_number[then]["why"] == "for a test"
    assert by_number[then + 1]["tables"] == ["tags"]
    made = snapshots(mine, step="labels")
    assert {row["message"] for row in made} == {"refresh labels"}
    changed = mine.rows(
        "SELECT DISTINCT snapshot_id FROM ducklake_table_changes('lake', 'main', 'labels', 2, ?)", [then]
    )
    touched = [row["snapshot"] for row in snapshots(mine, table="labels")]
    born = next(n for n, row in by_number.items() if row["message"].startswith("migrations 0001"))
    assert sorted(touched) == sorted([born, *(number for (number,) in changed)])
    assert snapshots(mine, limit=1, table="labels")[0]["snapshot"] == then
    with pytest.raises(UnknownName, match="no step 'label'; known: concept_positions"):
        snapshots(mine, step="label", steps=["concept_positions"])
    with pytest.raises(UnknownName, match="no table 'label'; known: activations"):
        snapshots(mine, table="label")
    with pytest.raises(InputError):
        snapshots(mine, 0)


# --- rollback


def test_a_rollback_is_a_new_snapshot_with_the_old_rows(mine: Catalog) -> None:
    then = mine.snapshot()
    edit(mine, 0, "another")
    with mine.write("fewer") as tx:
        tx.execute("DELETE FROM lake.labels WHERE feature = 1")
    newest = mine.snapshot()
    done = rollback(mine, "labels", then)
    assert done.snapshot == mine.snapshot() == newest + 1
    assert labels(mine) == labels(mine, then)
    assert [(r.step, r.changes.added, r.changes.changed, r.changes.removed) for r in done.steps] == [
        ("labels", 1, 1, 0)
    ]
    assert labels(mine, newest)[0] == "another", "what was undone can still be read"
    (row,) = snapshots(mine, 1)
    assert row["message"] == f"rollback labels to {then}"
    assert (row["added"], row["changed"], row["removed"]) == (1, 1, 0)
    assert row["why"] == f"rolled back to snapshot {then}"
    for table in {"runs", "partitions"} & mine.last_changes().keys():
        assert mine.rows(f"SELECT step FROM {table} WHERE step = 'labels'") == []
    assert {r.step for r in refresh_made(mine).values() if r.state == "done"} >= {"labels"}
    assert same(mine, then, mine.snapshot())


def test_a_rollback_with_what_follows_is_one_snapshot(mine: Catalog) -> None:
    then = mine.snapshot()
    set_tag(mine, "good")
    with mine.write("all is worse") as tx:
        tx.execute("UPDATE lake.labels SET label = 'x'")
        tx.execute("UPDATE lake.judgements SET predicted = false")
        tx.execute("UPDATE lake.scores SET f1 = 0")
        tx.execute("UPDATE lake.separation SET separation = 0")
    newest = mine.snapshot()
    done = rollback(mine, "labels", "good", downstream=True)
    assert mine.snapshot() == newest + 1
    assert [r.step for r in done.steps if r.changes] == ["labels", "judgements", "scores"]
    assert {d.table for d in diff(mine, then, mine.snapshot())} - {"runs", "partitions", "tags"} == {"separation"}
    assert {row["snapshot"] for row in snapshots(mine, step="scores")} >= {mine.snapshot()}
    rollback(mine, "separation", then)
    assert same(mine, then, mine.snapshot())


def test_a_rollback_touches_only_the_slice_of_its_step(mine: Catalog) -> None:
    then = mine.snapshot()
    with mine.write("no contexts") as tx:
        tx.execute("DELETE FROM lake.contexts")
    done = rollback(mine, "contexts_random", then)
    kinds = "SELECT kind, count(*) FROM contexts GROUP BY kind"
    assert mine.rows(kinds) == [("random", done.steps[0].changes.added)]
    old = dict(mine.rows(f"SELECT kind, count(*) FROM lake.contexts AT (VERSION => {then}) GROUP BY kind"))
    assert old["random"] == done.steps[0].changes.added
    rollback(mine, "contexts_top", then)
    rollback(mine, "contexts_stratum", then)
    assert same(mine, then, mine.snapshot())


def test_a_rollback_of_vectors_names_the_old_lance_version(mine: Catalog) -> None:
    first = write_decoder(mine, 1)
    old = Vectors(mine.vectors).read("decoder", 1)
    write_decoder(mine, 2)
    rollback(mine, "decoder_vectors", first)
    assert mine.rows("SELECT collection, version, rows FROM lance") == [("decoder", 1, 9)]
    version = mine.value("SELECT version FROM lance WHERE collection = 'decoder'")
    assert Vectors(mine.vectors).read("decoder", version).equals(old)
    collect_garbage(mine, 0)
    assert Vectors(mine.vectors).read("decoder", version).equals(old)
    write_decoder(mine, 3)
    assert Vectors(mine.vectors).read("decoder", mine.value("SELECT version FROM lance")).num_rows == 9


def test_a_rollback_to_vectors_that_are_lost_is_refused(mine: Catalog) -> None:
    first = write_decoder(mine, 1)
    write_decoder(mine, 2)
    newest = mine.snapshot()
    for path in (mine.vectors / "decoder.lance" / "_versions").iterdir():
        path.unlink()
    with pytest.raises(CatalogError, match="no version 1"):
        rollback(mine, "decoder_vectors", first)
    assert mine.snapshot() == newest


def test_nothing_to_roll_back_makes_no_snapshot(mine: Catalog) -> None:
    newest = mine.snapshot()
    done = rollback(mine, "labels", newest, downstream=True)
    assert done.snapshot is None
    assert mine.snapshot() == newest
    assert all(r.state == "current" for r in refresh_made(mine).values())


def test_a_rollback_that_cannot_be_says_why(mine: Catalog) -> None:
    newest = mine.snapshot()
    with pytest.raises(StepError, match="no step 'label'; the steps are concept_positions"):
        rollback(mine, "label", 20)
    with pytest.raises(CatalogError, match="to snapshot 0: the table labels was not there yet"):
        rollback(mine, "labels", 0)
    with pytest.raises(UnknownName, match="neither a snapshot nor a tag"):
        rollback(mine, "labels", "gone")
    with locked(mine.root / "refresh.lock", wait=0), pytest.raises(CatalogLocked):
        rollback(mine, "labels", newest - 1)
    assert mine.snapshot() == newest
    collect_garbage(mine, 0)
    with pytest.raises(UnknownName, match=f"snapshot {newest - 1} was expired"):
        rollback(mine, "labels", newest - 1)


def test_a_column_that_came_later_gets_its_default_back(mine: Catalog) -> None:
    then = mine.snapshot()
    with mine.write("migration") as tx:
        tx.execute("ALTER TABLE lake.scores ADD COLUMN mood VARCHAR DEFAULT 'calm'")
    with mine.write("mood") as tx:
        tx.execute("UPDATE lake.scores SET mood = 'glad', f1 = 0")
    rollback(mine, "scores", then)
    assert mine.rows("SELECT DISTINCT mood FROM scores") == [("calm",)]
    old = mine.rows(f"SELECT feature, f1 FROM lake.scores AT (VERSION => {then}) ORDER BY ALL")
    assert mine.rows("SELECT feature, f1 FROM scores ORDER BY ALL") == old


# --- blame


def test_blame_tells_each_change_of_a_label_or_score_and_why(mine: Catalog) -> None:
    feature = labelled(mine)
    made = labels(mine)[feature]
    first = edit(mine, feature, "second thoughts", why="prompt edited")
    edit(mine, max(other for other in labels(mine) if other != feature), "of another feature")
    with mine.write("not the label") as tx:
        tx.execute("UPDATE lake.labels SET input = 'other' WHERE feature = ?", [feature])
    with mine.write("a score") as tx:
        tx.execute("UPDATE lake.scores SET f1 = 0.125 WHERE feature = ?", [feature])
    last = mine.snapshot()
    rollback(mine, "labels", first - 1)
    rows = blame(mine, "s", feature)
    told = [(r["table"], r["change"], r["old_label"], r["new_label"], r["why"]) for r in rows if r["table"] == "labels"]
    assert told[0][:4] == ("labels", "added", None, made)
    assert told[1:] == [
        ("labels", "changed", made, "second thoughts", "prompt edited"),
        ("labels", "changed", "second thoughts", made, f"rolled back to snapshot {first - 1}"),
    ]
    scores = [(r["snapshot"], r["change"], r["old_f1"], r["new_f1"]) for r in rows if r["table"] == "scores"]
    f1 = mine.value(f"SELECT f1 FROM lake.scores AT (VERSION => {first}) WHERE feature = ?", [feature])
    assert scores[0][1:] == ("added", None, f1)
    assert scores[1] == (last, "changed", f1, 0.125)
    assert [r["snapshot"] for r in rows] == sorted(r["snapshot"] for r in rows)
    assert {r["explainer"] for r in rows} == {"lexical"}
    with pytest.raises(UnknownName, match="features 0 to 8, not 9"):
        blame(mine, "s", 9)


def test_blame_of_what_expired_snapshots_made_says_so(mine: Catalog) -> None:
    feature = labelled(mine)
    made = labels(mine)[feature]
    marked = set_tag(mine, "base")
    gone = edit(mine, feature, "second")
    edit(mine, feature, "third")
    with mine.write("another") as tx:
        tx.execute("UPDATE lake.study SET name = 'x'")
    collect_garbage(mine, 0)
    rows = [r for r in blame(mine, "s", feature) if r["table"] == "labels"]
    assert (rows[0]["snapshot"], rows[0]["change"], rows[0]["new_label"]) == (marked, "there before", made)
    assert rows[0]["why"] == "older snapshots were expired"
    assert rows[-1]["new_label"] == "third"
    assert rows[-1]["snapshot"] >= gone
    assert rows[-1]["time"] is None
    assert rows[-1]["why"] == "a snapshot that was expired"


# --- gc


def test_after_a_gc_no_step_is_stale_and_all_is_whole(mine: Catalog) -> None:
    then = mine.snapshot()
    edit(mine, 0, "another")
    rollback(mine, "labels", then, downstream=True)
    refresh_made(mine)
    write_decoder(mine, 1)
    write_decoder(mine, 2)
    tables = [name for (name,) in mine.rows("SELECT table_name FROM ducklake_table_info('lake')")]
    tables.remove("last_changes")
    before = {table: mine.rows(f"FROM lake.{table} ORDER BY ALL") for table in tables}
    freed = collect_garbage(mine, 0)
    assert freed.files > 0
    assert freed.versions == {"decoder": [1]}
    assert {table: mine.rows(f"FROM lake.{table} ORDER BY ALL") for table in tables} == before
    # The made SAE has no weights on disk.
    whole = examine(mine, only=[name for name in CHECKS if name != "weights"])
    assert [f for f in whole if f.severity == "error"] == []
    assert {r.state for r in refresh_made(mine).values()} == {"current"}


def test_a_catalog_of_before_there_were_tags_can_be_read(mine: Catalog) -> None:
    with mine.write("as it was") as tx:
        tx.execute("DROP TABLE lake.tags")
        tx.execute("DROP TABLE lake.last_changes")
    assert tags(mine) == {}
    assert snapshots(mine, 1)[0]["tags"] == []
    with pytest.raises(UnknownName, match=r"there are snapshots 0-\d+$"):
        resolve(mine, "x")
    assert "labels" in mine.last_changes()


def details(catalog: Catalog) -> dict[str, Any]:
    extra = catalog.value("SELECT commit_extra_info FROM lake.snapshots() ORDER BY snapshot_id DESC LIMIT 1")
    found: dict[str, Any] = json.loads(extra)
    return found


def test_a_rollback_records_what_it_did(mine: Catalog) -> None:
    then = mine.snapshot()
    edit(mine, 0, "another")
    set_tag(mine, "good", then)
    rollback(mine, "labels", "good")
    assert details(mine) == {
        "step": "labels",
        "to": then,
        "added": 0,
        "changed": 1,
        "removed": 0,
        "steps": ["labels"],
        "why": [f"rolled back to snapshot {then} (good)"],
    }
