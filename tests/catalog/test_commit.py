"""A commit works without the lock, lands on the snapshot that it began at, and is done again if another came first."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from catalog import Catalog
from catalog.doctor.examine import examine
from catalog.errors import CatalogLocked, InputError, InputsMoved
from catalog.store.locks import locked, shared
from catalog.store.transaction import Transaction


def row(number: int) -> dict[str, Any]:
    return {"corpus": "mine", "position": number}


def put(catalog: Catalog, corpus: str, position: int) -> None:
    """A commit of someone else."""
    with Catalog(catalog.root) as other, other.write(corpus) as tx:
        tx.insert("leaks", [{"corpus": corpus, "position": position}])


def leaks(catalog: Catalog) -> list[tuple[Any, ...]]:
    return catalog.rows("SELECT corpus, position FROM leaks ORDER BY ALL")


def is_free(catalog: Catalog) -> bool:
    """Whether another process could commit now."""
    try:
        with locked(catalog.root / "commit.lock", wait=0):
            return True
    except CatalogLocked:
        return False


def stray_files(catalog: Catalog) -> list[str]:
    return [f.subject for f in examine(catalog, age=timedelta(0), only=["orphans"]) if f.severity != "ok"]


def test_work_is_done_without_the_lock_and_lands_as_one_snapshot(store: Catalog) -> None:
    def work(tx: Transaction) -> str:
        assert is_free(store)
        tx.insert("leaks", [row(1), row(2)])
        tx.details["added"] = 2
        return "done"

    before = store.snapshot()
    assert store.commit("both", work, lambda: True, step="s") == "done"
    assert leaks(store) == [("mine", 1), ("mine", 2)]
    assert store.rows("SELECT snapshot_id, commit_message, commit_extra_info FROM lake.snapshots()")[-1] == (
        before + 1,
        "both",
        '{"added": 2, "step": "s"}',
    )
    assert is_free(store)
    assert 0 < store.lock_seconds < 5


def test_work_that_changes_nothing_leaves_no_snapshot(store: Catalog) -> None:
    before = store.snapshot()
    assert store.commit("nothing", lambda tx: tx.connection.execute("SELECT 7").fetchall()) == [(7,)]
    assert store.snapshot() == before
    store.commit("something", lambda tx: tx.insert("leaks", [row(1)]))
    assert store.snapshot() == before + 1


@pytest.mark.parametrize("others", [1, 2])
def test_a_commit_that_another_came_before_is_done_again_on_what_it_left(store: Catalog, others: int) -> None:
    seen: list[tuple[bool, list[int]]] = []

    def work(tx: Transaction) -> int:
        there = [position for (position,) in store.rows("SELECT position FROM leaks ORDER BY ALL")]
        seen.append((is_free(store), there))
        tx.insert("leaks", [row(100 + len(there))])
        if len(seen) <= others:
            put(store, "other", len(seen))
        return len(there)

    before = store.snapshot()
    assert store.commit("mine", work, lambda: True) == others
    # The third time is under the lock, so that it ends however many others commit.
    assert seen == [(True, []), (True, [1]), (False, [1, 2])][: others + 1]
    assert leaks(store) == [("mine", 100 + others), *(("other", i + 1) for i in range(others))]
    assert store.snapshot() == before + others + 1
    assert stray_files(store) == []


def test_a_commit_whose_inputs_moved_is_not_made(store: Catalog) -> None:
    def holds() -> bool:
        return not leaks(store)

    put(store, "other", 1)
    worked: list[Transaction] = []
    with pytest.raises(InputsMoved, match="read it again"):
        store.commit("too late", worked.append, holds)
    assert not worked

    with store.write("clear") as tx:
        tx.execute("DELETE FROM lake.leaks")

    def work(tx: Transaction) -> None:
        worked.append(tx)
        tx.insert("leaks", [row(1)])
        put(store, "other", 2)

    before = store.snapshot()
    with pytest.raises(InputsMoved):
        store.commit("moved while at work", work, holds)
    assert len(worked) == 1
    assert leaks(store) == [("other", 2)]
    assert store.snapshot() == before + 1
    assert stray_files(store) == []
    store.commit("and the catalog can be written again", lambda tx: tx.insert("leaks", [row(1)]))


def test_work_that_fails_leaves_the_files_of_others_alone(store: Catalog) -> None:
    """Under the old rule, a file that no snapshot names was the failing transaction's own: here it is another's."""

    def fail(tx: Transaction) -> None:
        tx.execute("INSERT INTO lake.leaks SELECT 'failed', i FROM range(10) AS t (i)")
        raise InputError("no")

    def work(tx: Transaction) -> None:
        tx.execute("INSERT INTO lake.leaks SELECT 'mine', i FROM range(1000) AS t (i)")
        with Catalog(store.root) as other, pytest.raises(InputError, match="no"):
            other.commit("fails beside it", fail)
        with Catalog(store.root) as other, pytest.raises(InputError, match="no"), other.write("fails too") as failing:
            fail(failing)

    before = store.snapshot()
    store.commit("whole", work)
    assert store.snapshot() == before + 1
    assert store.value("SELECT sum(position) FROM leaks") == 499_500
    assert stray_files(store) == []


def test_what_a_dead_writer_left_is_swept_by_the_next_failure_when_nobody_writes(store: Catalog) -> None:
    (store.data / "main" / "leaks").mkdir(exist_ok=True)
    left = store.data / "main" / "leaks" / "ducklake-left.parquet"
    left.write_bytes(b"part of a file")
    with pytest.raises(InputError), store.write("fails"):
        raise InputError("no")
    assert not left.exists()
    left.write_bytes(b"part of a file")
    with (
        shared(store.root / "writing.lock"),
        pytest.raises(InputError),
        store.write("fails beside another writer"),
    ):
        raise InputError("no")
    assert left.exists()


def test_a_shared_lock_is_taken_alone_by_its_last_holder(tmp_path: Path) -> None:
    with shared(tmp_path / "lock") as mine:
        with shared(tmp_path / "lock") as theirs:
            assert not theirs()
        assert mine()
