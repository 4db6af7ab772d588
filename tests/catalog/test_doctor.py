"""The doctor names what is broken, and one broken thing does not keep it from naming another."""

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from catalog import Catalog
from catalog.doctor.examine import CHECKS, examine
from catalog.doctor.finding import Finding
from catalog.errors import CatalogError, UnknownName
from catalog.vectors.collections import Vectors
from catalog.vectors.references import name_version
from tests.catalog.small_catalog import activations, decoder, documents, shard, tokens

FileOf = Callable[[str], Path]
KEY = ["sae", "feature"]


def found(catalog: Catalog, check: str) -> list[Finding]:
    return [f for f in examine(catalog, only=[check]) if f.severity != "ok"]


def test_a_whole_catalog_has_nothing_wrong(store: Catalog) -> None:
    findings = examine(store)
    assert [(f.check, f.severity) for f in findings] == [(name, "ok") for name in CHECKS]
    with pytest.raises(UnknownName, match="known: schema, files"):
        examine(store, only=["everything"])
    with Catalog(store.root, read_only=True) as reader:
        assert examine(reader, only=["files"])[0].severity == "ok"
        with pytest.raises(CatalogError, match="open for reading"):
            examine(reader, fix=True)


def test_a_lost_file_is_named_by_all_who_miss_it_and_the_rest_is_examined(store: Catalog, file_of: FileOf) -> None:
    path = file_of("activations")
    path.unlink()
    findings = examine(store)
    assert {f.check for f in findings} == CHECKS.keys()
    for check in ("files", "shards"):
        named = [f for f in findings if f.check == check and f.severity == "error"]
        assert [f.subject for f in named] == [str(path)]
        assert "is gone" in named[0].detail
    assert next(f for f in findings if f.check == "activations").severity == "error"
    assert next(f for f in findings if f.check == "vector rows").severity == "ok"


@pytest.mark.parametrize("relation", ["documents", "tokens", "activations"])
def test_a_truncated_file_is_named(store: Catalog, file_of: FileOf, relation: str) -> None:
    path = file_of(relation)
    path.write_bytes(path.read_bytes()[:-100])
    assert [f.subject for f in found(store, "files")] == [str(path)]
    (finding,) = found(store, "shards")
    assert finding.subject == str(path)
    assert "cut off or altered" in finding.detail


def test_a_byte_altered_in_place_is_noticed_by_its_digest(store: Catalog, file_of: FileOf) -> None:
    path = file_of("activations")
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(bytes(data))
    assert found(store, "files") == []
    (finding,) = found(store, "shards")
    assert finding.subject == str(path)
    assert "BLAKE2b" in finding.detail
    assert [f.severity for f in examine(store, sample=0, only=["shards"])] == ["ok"]


def test_a_file_with_other_rows_than_recorded_is_noticed(store: Catalog) -> None:
    with store.write("wrong record") as tx:
        tx.execute("UPDATE lake.shards SET rows = rows + 1 WHERE relation = 'tokens' AND shard = 0")
    (finding,) = found(store, "shards")
    assert "has 40 rows, not 41" in finding.detail


def test_orphans_are_named_when_old_and_removed_when_asked(store: Catalog) -> None:
    stray = store.data / "main" / "activations" / "s-c-9.parquet.partial"
    stray.write_bytes(b"half")
    assert found(store, "orphans") == []
    os.utime(stray, (time.time() - 7200,) * 2)
    (finding,) = found(store, "orphans")
    assert (finding.subject, finding.severity, finding.fixed) == (str(stray), "warning", False)
    assert [f.fixed for f in examine(store, fix=True, only=["orphans"])] == [True]
    assert not stray.exists()
    assert found(store, "orphans") == []


def test_files_of_older_snapshots_are_no_orphans(store: Catalog) -> None:
    before = store.snapshot()
    with store.write("delete") as tx:
        tx.execute("DELETE FROM lake.activations WHERE shard = 0")
    examine(store, fix=True, age=timedelta(0), only=["orphans"])
    assert store.value(f"SELECT count(*) FROM activations AT (VERSION => {before})") == 80


def test_duplicate_keys_are_named(store: Catalog) -> None:
    with store.write("twice") as tx:
        tx.insert("leaks", [{"corpus": "c", "position": 3}] * 2)
        shard(store, tx, "activations", activations(0), 0, "s")
    assert {(f.subject, f.detail.split(":")[0]) for f in found(store, "keys")} == {
        ("leaks", "2 rows have the same key"),
        ("activations", "2 rows have the same key"),
    }


def test_activations_outside_of_their_shard_or_their_sae_are_named(store: Catalog) -> None:
    with store.write("off") as tx:
        shard(store, tx, "documents", documents(2), 2)
        shard(store, tx, "tokens", tokens(2), 2)
        shard(store, tx, "activations", activations(2, shift=7), 2, "s")
        tx.execute("UPDATE lake.saes SET width = 3")
    details = {(f.subject, f.detail) for f in found(store, "activations")}
    assert ("s, corpus c, shard 2", "positions 87 to 126 lie outside of the shard, which holds 80 to 119") in details
    assert ("s, corpus c, shard 0", "features 0 to 3 lie outside of the SAE's 3 latents") in details


def test_a_half_done_harvest_is_a_warning(store: Catalog) -> None:
    with store.write("more text") as tx:
        shard(store, tx, "documents", documents(2), 2)
        shard(store, tx, "tokens", tokens(2), 2)
    (finding,) = found(store, "harvest")
    assert finding.severity == "warning"
    assert "1 of 3 shards of c have no activations, first 2" in finding.detail


def test_a_view_that_lost_a_column_is_named(store: Catalog) -> None:
    with store.write("drop") as tx:
        tx.execute("ALTER TABLE lake.contexts DROP COLUMN peak")
    assert [f.subject for f in found(store, "views")] == ["context_tokens"]


def test_lost_and_changed_weights_are_named(store: Catalog) -> None:
    path = store.weights / "s" / "sae.safetensors"
    path.write_bytes(b"other")
    assert "is not the file that was recorded" in found(store, "weights")[0].detail
    path.unlink()
    assert "holds no safetensors file" in found(store, "weights")[0].detail


def test_lost_vectors_are_named(store: Catalog) -> None:
    for path in (store.vectors / "decoder.lance" / "data").iterdir():
        path.unlink()
    assert [f.subject for f in found(store, "vector rows")] == ["decoder"]
    for path in (store.vectors / "decoder.lance" / "_versions").iterdir():
        path.unlink()
    assert [f.subject for f in found(store, "vector versions")] == ["decoder version 1"]


def test_vectors_that_do_not_match_the_tables_are_named(store: Catalog) -> None:
    made = Vectors(store.vectors).write("decoder", decoder(6).slice(1), KEY)
    with store.write("other") as tx:
        name_version(tx, made)
    assert {f.detail.split(":")[0] for f in found(store, "vector rows")} == {
        "2 vectors have no row",
        "1 rows have no vector",
    }
    with store.write("count") as tx:
        tx.execute("UPDATE lake.lance SET rows = 7")
    assert "has 5 vectors, not 7" in found(store, "vector versions")[0].detail


def test_a_version_without_its_tag_gets_it_back(store: Catalog) -> None:
    vectors = Vectors(store.vectors)
    vectors.open("decoder", 1).tags.delete("v1")
    assert "has no tag" in found(store, "vector versions")[0].detail
    assert [f.fixed for f in examine(store, fix=True, only=["vector versions"])] == [True]
    assert vectors.tagged("decoder") == {1}


def test_the_fixture_is_real_parquet(file_of: FileOf) -> None:
    assert pq.read_metadata(file_of("tokens")).num_rows == 40
