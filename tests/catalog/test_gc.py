"""gc: what no remaining snapshot names goes, in all stores; the newest and the tagged stay whole."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from catalog import Catalog
from catalog.doctor.examine import examine
from catalog.errors import CatalogError, CatalogLocked, InputError, UnknownName
from catalog.quote import TABLES
from catalog.store.locks import locked
from catalog.store.snapshots import numbers, resolve
from catalog.vectors.collections import Vectors
from catalog.vectors.references import name_version, named_version, referenced_versions
from catalog.versions.gc import collect_garbage
from catalog.versions.tags import set_tag
from tests.catalog.small_catalog import activations, decoder, digest, shard

KEY = ["sae", "feature"]
COMPARED = ("activations", "tokens", "documents", "shards", "saes", "lance", "training")


def content(catalog: Catalog, at: int | None = None) -> dict[str, list[tuple[object, ...]]]:
    """Every row of the tables, now or at a snapshot."""
    when = "" if at is None else f" AT (VERSION => {at})"
    return {table: catalog.rows(f"FROM lake.{table}{when} ORDER BY ALL") for table in COMPARED}


def errors(catalog: Catalog) -> list[str]:
    return [f"{f.check}: {f.subject}: {f.detail}" for f in examine(catalog) if f.severity == "error"]


def write_decoder(catalog: Catalog, salt: int) -> int:
    """A snapshot that names a new Lance version; that version."""
    made = Vectors(catalog.vectors).write("decoder", decoder(salt=salt), KEY)
    with catalog.write(f"decoder {salt}") as tx:
        name_version(tx, made)
    return made.version


def harvest_again(catalog: Catalog, number: int) -> Path:
    """Replace a shard of activations, as ingest does; the file that holds it now."""
    with catalog.write(f"harvest {number} again") as tx:
        tx.execute("DELETE FROM lake.activations WHERE shard = ?", [number])
        tx.execute("DELETE FROM lake.shards WHERE relation = 'activations' AND shard = ?", [number])
        return shard(catalog, tx, "activations", activations(number), number, "s")


def age(catalog: Catalog, snapshot: int, days: float) -> None:
    """Make a snapshot older, or younger, than it is: what a clock does that is set."""
    at = (datetime.now(UTC) - timedelta(days=days)).strftime("%Y-%m-%d %H:%M:%S.%f+00")
    catalog.rows(f"UPDATE {TABLES}.ducklake_snapshot SET snapshot_time = ? WHERE snapshot_id = ?", [at, snapshot])


def test_after_a_reharvest_and_changed_vectors_all_reads_whole(store: Catalog) -> None:
    lost = store.data / store.value("SELECT path FROM shards WHERE relation = 'activations' AND shard = 0")
    size = lost.stat().st_size
    kept = harvest_again(store, 0)
    for salt in (1, 2):
        write_decoder(store, salt)
    before = content(store)
    freed = collect_garbage(store, 0)
    assert content(store) == before
    assert errors(store) == []
    assert not lost.exists()
    assert kept.exists()
    assert freed.bytes >= size
    assert freed.versions == {"decoder": [1, 2]}
    assert Vectors(store.vectors).read("decoder", 3).num_rows == 4
    assert not set(freed.snapshots) & set(numbers(store))
    again = collect_garbage(store, 0)
    assert (again.files, again.bytes, again.versions, again.weights) == (0, 0, {}, [])
    assert content(store) == before


def test_a_tagged_snapshot_between_expired_ones_reads_as_it_was_in_both_stores(store: Catalog) -> None:
    for salt in (1, 2):
        write_decoder(store, salt)
    harvest_again(store, 0)
    marked = set_tag(store, "release")
    before = content(store, marked)
    vectors = Vectors(store.vectors).read("decoder", named_version(store.connection, "decoder", marked))
    harvest_again(store, 0)
    harvest_again(store, 1)
    for salt in (3, 4):
        write_decoder(store, salt)
    now = content(store)
    freed = collect_garbage(store, 0)
    assert freed.kept == {"release": marked}
    assert freed.versions == {"decoder": [1, 2, 4]}
    # Version 3 was recorded by a snapshot that is gone, and is named by two that remain.
    assert referenced_versions(store.connection) == {"decoder": {3, 5}}
    assert content(store, marked) == before
    assert content(store) == now
    with Catalog(store.root, read_only=True, snapshot=resolve(store, "release")) as then:
        assert content(then) == before
        version = then.value("SELECT version FROM lance WHERE collection = 'decoder'")
        assert Vectors(then.vectors).read("decoder", version).equals(vectors)
    assert errors(store) == []
    assert examine(store, fix=True, age=timedelta(0))
    assert Vectors(store.vectors).read("decoder", version).equals(vectors)


def test_referenced_versions_are_those_of_the_remaining_snapshots(store: Catalog) -> None:
    assert referenced_versions(store.connection) == {"decoder": {1}}
    first = store.snapshot()
    for salt in (1, 2, 3):
        write_decoder(store, salt)
    last = store.snapshot()
    assert referenced_versions(store.connection) == {"decoder": {1, 2, 3, 4}}
    assert referenced_versions(store.connection, [first, last]) == {"decoder": {1, 4}}
    assert referenced_versions(store.connection, [last - 1]) == {"decoder": {3}}
    assert referenced_versions(store.connection, [1]) == {}
    store.rows("SELECT snapshot_id FROM ducklake_expire_snapshots('lake', versions => ?)", [[*range(first), last - 1]])
    assert referenced_versions(store.connection) == {"decoder": {1, 2, 4}}


@pytest.mark.parametrize("seed", range(2))
def test_referenced_versions_are_found_whatever_the_files_look_like(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    with Catalog.create(tmp_path / "c") as catalog:
        for _ in range(15):
            with catalog.write("change") as tx:
                if chance.random() < 0.4:
                    names = chance.sample("abcdef", 4)
                    rows = [{"collection": name, "version": chance.randrange(9), "rows": 0} for name in names]
                    tx.replace("lance", rows, ["collection"])
                else:
                    tx.execute("DELETE FROM lake.lance WHERE collection = ?", [chance.choice("abcdef")])
        for _ in range(2):
            there = numbers(catalog)
            for _ in range(5):
                some = chance.sample(there, min(len(there), 4))
                expected: dict[str, set[int]] = {}
                for number in some:
                    if number > 0:
                        for name, version in catalog.rows(
                            f"SELECT collection, version FROM lake.lance AT (VERSION => {number})"
                        ):
                            expected.setdefault(name, set()).add(version)
                assert referenced_versions(catalog.connection, some) == expected
            gone = chance.sample(there[:-1], len(there) // 2)
            catalog.rows("SELECT snapshot_id FROM ducklake_expire_snapshots('lake', versions => ?)", [gone])


def test_only_snapshots_of_that_age_go(store: Catalog) -> None:
    there = numbers(store)
    assert collect_garbage(store, 1).snapshots == []
    assert numbers(store) == there, "nothing to expire makes no snapshot"
    for number in there[:-2]:
        age(store, number, 10)
    age(store, there[-2], 3)
    assert collect_garbage(store, 5).snapshots == there[:-2]
    assert collect_garbage(store, 2).snapshots == [there[-2]]
    assert there[-1] in numbers(store)
    assert errors(store) == []


def test_a_clock_that_was_set_back_is_no_error(store: Catalog) -> None:
    there = numbers(store)
    for number in there[2:5]:
        age(store, number, -400)
    for number in there[5:]:
        age(store, number, 400)
    freed = collect_garbage(store, 30)
    assert freed.snapshots == there[5:-1], "what is from the future is kept, and the newest by number"
    assert set(numbers(store)) >= {*there[:5], there[-1]}
    assert errors(store) == []
    write_decoder(store, 1)
    assert collect_garbage(store, 30, now=datetime(1990, 1, 1, tzinfo=UTC)).snapshots == []
    assert collect_garbage(store, 1e9).snapshots == []


def test_a_dry_run_says_the_same_and_changes_nothing(store: Catalog) -> None:
    write_decoder(store, 1)
    harvest_again(store, 0)
    there, files = numbers(store), sorted(store.data.rglob("*"))
    with Catalog(store.root, read_only=True) as reader:
        foreseen = collect_garbage(reader, 0, dry_run=True)
    assert (numbers(store), sorted(store.data.rglob("*"))) == (there, files)
    freed = collect_garbage(store, 0)
    assert (foreseen.snapshots, foreseen.versions, foreseen.kept) == (freed.snapshots, freed.versions, freed.kept)
    assert (foreseen.files, foreseen.bytes) == (freed.files, freed.bytes)
    assert foreseen.files >= 1
    assert foreseen.vector_bytes > 0


def test_weights_go_with_the_last_snapshot_that_names_them(store: Catalog) -> None:
    for name, tagged in (("s-2", True), ("s-3", False), ("s-4", False)):
        path = store.weights / name / "sae.safetensors"
        path.parent.mkdir()
        path.write_bytes(name.encode())
        with store.write("retrained") as tx:
            tx.execute("UPDATE lake.saes SET weights = ?, digest = ?", [name, digest(path)])
        if tagged:
            set_tag(store, "second")
    unfinished = store.weights / "s-5"
    unfinished.mkdir()
    freed = collect_garbage(store, 0)
    assert freed.weights == ["s", "s-3"]
    assert freed.weight_bytes == len(b"weights") + len(b"s-3")
    assert sorted(path.name for path in store.weights.iterdir()) == ["s-2", "s-4", "s-5"]
    assert errors(store) == []


def test_weights_with_a_name_that_leads_elsewhere_stay(store: Catalog, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("..", "../../elsewhere", str(elsewhere), ".", ""):
        with store.write("hostile") as tx:
            tx.execute("UPDATE lake.saes SET weights = ?", [name])
    with store.write("mended") as tx:
        tx.execute("UPDATE lake.saes SET weights = 's'")
    collect_garbage(store, 0)
    assert elsewhere.is_dir()
    assert errors(store) == []


def test_a_file_that_is_gone_already_does_not_stop_it(store: Catalog) -> None:
    old = store.data / store.value("SELECT path FROM shards WHERE relation = 'activations' AND shard = 0")
    harvest_again(store, 0)
    old.unlink()
    collect_garbage(store, 0)
    assert errors(store) == []
    assert collect_garbage(store, 0).files == 0


def test_a_file_in_use_that_is_marked_for_deletion_is_not_unlinked(store: Catalog) -> None:
    live = store.data / store.value("SELECT path FROM shards WHERE relation = 'tokens' AND shard = 0")
    store.rows(
        f"INSERT INTO {TABLES}.ducklake_files_scheduled_for_deletion VALUES (9999, ?, 1, ?)",
        [str(live.relative_to(store.data)), "2020-01-01 00:00:00+00"],
    )
    with pytest.raises(CatalogError, match="marked for deletion, and a snapshot names it"):
        collect_garbage(store, 0)
    assert live.exists()


def test_it_waits_for_a_refresh_and_refuses_nonsense(store: Catalog) -> None:
    with locked(store.root / "refresh.lock", wait=0), pytest.raises(CatalogLocked):
        collect_garbage(store, 0)
    with pytest.raises(InputError, match="0 or more"):
        collect_garbage(store, -1)


def test_the_last_change_of_a_table_is_known_after_its_snapshot_expired(store: Catalog) -> None:
    harvest_again(store, 0)
    write_decoder(store, 1)
    before = {table: at for table, at in store.last_changes().items() if table != "last_changes"}
    for _ in range(3):
        collect_garbage(store, 0)
        assert {t: at for t, at in store.last_changes().items() if t != "last_changes"} == before
    newest = store.snapshot()
    collect_garbage(store, 0)
    assert store.snapshot() == newest, "with nothing left to forget, no snapshot is made"
    write_decoder(store, 2)
    assert store.last_changes()["lance"] == store.snapshot()


def test_an_expired_snapshot_cannot_be_read_and_the_message_says_so(store: Catalog) -> None:
    gone = store.snapshot()
    write_decoder(store, 1)
    collect_garbage(store, 0)
    with pytest.raises(UnknownName, match=f"snapshot {gone} was expired; there are "):
        Catalog(store.root, read_only=True, snapshot=gone)
