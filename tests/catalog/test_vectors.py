"""Lance collections: only changes are written, a named version stays, an unnamed one can be collected."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from catalog import Catalog
from catalog.errors import CatalogError, InputError, StepError, UnknownName
from catalog.vectors.collections import Vectors
from catalog.vectors.garbage import collect, unreferenced
from catalog.vectors.references import name_version, named_version, referenced_versions

KEY = ["sae", "feature"]
NOW = timedelta(0)


def rows(features: list[int], *, width: int = 8, salt: int = 0) -> pa.Table:
    """One random vector per feature; the same feature and salt give the same vector."""
    vectors = np.stack([np.random.default_rng([f, salt]).normal(size=width) for f in features]).astype(np.float32)
    return pa.table(
        {
            "sae": pa.array(["s"] * len(features)),
            "feature": pa.array(features, pa.int32()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), width),
            "text": pa.array([f"{f}/{salt}" for f in features]),
        }
    )


def content(table: pa.Table) -> dict[int, tuple[str, tuple[float, ...]]]:
    return {r["feature"]: (r["text"], tuple(r["vector"])) for r in table.to_pylist()}


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.lance") if path.is_file())


def test_each_version_keeps_what_was_written(tmp_path: Path) -> None:
    vectors = Vectors(tmp_path)
    states = [
        rows(list(range(50))),
        pa.concat_tables([rows(list(range(5, 40))), rows(list(range(40, 55)), salt=1)]),
        rows(list(range(5, 40))),
        rows([1, 2], salt=3),
        rows([1, 2, 3], width=4),
    ]
    made = [vectors.write("labels", state, KEY) for state in states]
    for state, version in zip(states, made, strict=True):
        assert content(vectors.read("labels", version.version)) == content(state)
        assert version.rows == len(state)
    assert vectors.tagged("labels") == {m.version for m in made}
    assert (made[1].added, made[1].changed, made[1].removed) == (5, 10, 5)
    assert (made[2].added, made[2].changed, made[2].removed) == (0, 0, 15)


def test_only_changed_rows_are_written(tmp_path: Path) -> None:
    vectors = Vectors(tmp_path)
    first = vectors.write("labels", rows(list(range(2000)), width=64), KEY)
    before = bytes_of(tmp_path)
    same = vectors.write("labels", rows(list(range(1999, -1, -1)), width=64), KEY)
    assert same.version == first.version
    assert bytes_of(tmp_path) == before
    state = pa.concat_tables([rows(list(range(10, 2000)), width=64), rows(list(range(2000, 2010)), width=64)])
    vectors.write("labels", state, KEY)
    assert bytes_of(tmp_path) - before < before / 20


def test_many_small_writes_do_not_fragment_without_end(tmp_path: Path) -> None:
    vectors = Vectors(tmp_path)
    for i in range(40):
        version = vectors.write("labels", rows(list(range(100 + i))), KEY).version
    assert len(vectors.open("labels", version).get_fragments()) <= 32


def test_an_append_writes_its_rows_and_no_others(tmp_path: Path) -> None:
    vectors = Vectors(tmp_path)
    parts = [rows(list(range(at, at + 50)), width=64) for at in (0, 50, 100)]
    version, sizes = None, []
    for part in parts:
        before = bytes_of(tmp_path)
        made = vectors.append("labels", part, KEY, version)
        version = made.version
        sizes.append(bytes_of(tmp_path) - before)
        assert made.added == 50
    assert max(sizes) < 1.1 * min(sizes)
    assert content(vectors.read("labels", made.version)) == content(pa.concat_tables(parts))
    assert (made.rows, vectors.tagged("labels")) == (150, {1, 2, 3})
    none = vectors.append("labels", parts[0].slice(0, 0), KEY, version)
    assert (none.version, none.rows, none.added) == (version, 150, 0)
    with pytest.raises(StepError, match="other columns than its version 3"):
        vectors.append("labels", rows([200], width=4), KEY, version)
    with pytest.raises(StepError, match="2 rows for the collection labels have the same"):
        vectors.append("labels", rows([200, 200], width=64), KEY, version)


def test_an_append_leaves_out_what_was_written_after_its_version(tmp_path: Path) -> None:
    vectors = Vectors(tmp_path)
    first = vectors.append("labels", rows([1, 2]), KEY, None).version
    lost = vectors.append("labels", rows([3, 4]), KEY, first).version
    made = vectors.append("labels", rows([3, 5], salt=1), KEY, first)
    assert content(vectors.read("labels", made.version)) == content(
        pa.concat_tables([rows([1, 2]), rows([3, 5], salt=1)])
    )
    assert vectors.tagged("labels") == {first, lost, made.version}
    assert unreferenced(vectors, {"labels": {first, made.version}}, age=NOW) == {"labels": [lost]}
    assert collect(vectors, {"labels": {first, made.version}}, age=NOW) == {"labels": [lost]}
    assert content(vectors.read("labels", first)) == content(rows([1, 2]))
    assert made.rows == vectors.read("labels", made.version).num_rows == 4
    # One that was killed before its rows were written.
    vectors.open("labels", first).restore()
    third = vectors.append("labels", rows([6]), KEY, made.version)
    assert sorted(content(vectors.read("labels", third.version))) == [1, 2, 3, 5, 6]
    anew = vectors.append("labels", rows([9]), KEY, None)
    assert content(vectors.read("labels", anew.version)) == content(rows([9]))


def test_many_small_appends_do_not_fragment_without_end(tmp_path: Path) -> None:
    vectors, version = Vectors(tmp_path), None
    for i in range(40):
        version = vectors.append("labels", rows([i]), KEY, version).version
    assert version is not None
    assert len(vectors.open("labels", version).get_fragments()) <= 32
    assert content(vectors.read("labels", version)) == content(rows(list(range(40))))


def test_rows_are_read_at_their_places(tmp_path: Path) -> None:
    vectors = Vectors(tmp_path)
    vectors.write("labels", rows(list(range(10))), KEY)
    version = vectors.write("labels", rows([0, 1, 2, 5, 6, 7, 8, 9]), KEY).version
    held = vectors.read("labels", version, ["feature"]).column("feature").to_pylist()
    found = vectors.read("labels", version, ["feature", "text"], np.array([3, 0, 7]))
    assert found.column("feature").to_pylist() == [held[3], held[0], held[7]]
    assert found.column_names == ["feature", "text"]


def test_large_strings_and_views_are_no_change(tmp_path: Path) -> None:
    vectors = Vectors(tmp_path)
    first = vectors.write("labels", rows([1, 2, 3]), KEY)
    table = rows([1, 2, 3])
    large = table.set_column(3, "text", table.column("text").cast(pa.large_string()))
    assert vectors.write("labels", large, KEY).version == first.version


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (rows([1, 1]), "2 rows for the collection labels have the same sae, feature"),
        (rows([1]).set_column(1, "feature", pa.array([None], pa.int32())), "no value"),
        (rows([1]).drop_columns(["vector"]), "lack the column vector"),
        (rows([1]).set_column(2, "vector", pa.array([[1.0]])), "not a fixed-size list"),
        (
            rows([1]).set_column(2, "vector", pa.FixedSizeListArray.from_arrays(pa.array([np.nan], pa.float32()), 1)),
            "not finite",
        ),
    ],
)
def test_rows_that_break_the_contract_are_refused(table: pa.Table, said: str, tmp_path: Path) -> None:
    with pytest.raises(StepError, match=said):
        Vectors(tmp_path).write("labels", table, KEY)
    assert Vectors(tmp_path).collections() == []


def test_search_finds_what_a_plain_product_finds(tmp_path: Path) -> None:
    vectors, table = Vectors(tmp_path), rows(list(range(300)))
    version = vectors.write("labels", table, KEY).version
    matrix = np.array(table.column("vector").to_pylist())
    query = np.random.default_rng(9).normal(size=8)
    cosine = matrix @ query / np.linalg.norm(matrix, axis=1) / np.linalg.norm(query)
    expected = np.argsort(-cosine)[:10]
    found = vectors.search("labels", version, query, 10)
    assert found.column("feature").to_pylist() == expected.tolist()
    np.testing.assert_allclose(found.column("similarity").to_numpy(), cosine[expected], atol=1e-6)
    some = vectors.search("labels", version, query, 3, "feature < 50")
    assert some.column("feature").to_pylist() == [f for f in np.argsort(-cosine) if f < 50][:3]


def test_a_search_that_cannot_be_says_why(tmp_path: Path) -> None:
    vectors = Vectors(tmp_path)
    version = vectors.write("labels", rows([1]), KEY).version
    with pytest.raises(InputError, match="needs 8 finite numbers"):
        vectors.search("labels", version, [1.0], 1)
    with pytest.raises(InputError, match="not all zero"):
        vectors.search("labels", version, [0.0] * 8, 1)
    with pytest.raises(UnknownName, match="known: labels"):
        vectors.read("label", version)
    with pytest.raises(CatalogError, match="no version 99"):
        vectors.read("labels", 99)
    with pytest.raises(CatalogError, match="no name for a collection"):
        vectors.read("../x", 1)


def test_collect_drops_what_no_snapshot_names_and_nothing_else(tmp_path: Path) -> None:
    vectors = Vectors(tmp_path)
    states = [rows(list(range(100)), salt=i) for i in range(4)]
    made = [vectors.write("labels", state, KEY).version for state in states]
    vectors.write("lost", states[0], KEY)
    named = {"labels": {made[1], made[2]}}
    assert unreferenced(vectors, named) == {}, "all are younger than the age limit"
    before = bytes_of(tmp_path)
    assert collect(vectors, named, age=NOW) == {"labels": [made[0], made[3]], "lost": [1]}
    assert bytes_of(tmp_path) < before * 0.5
    assert vectors.collections() == ["labels"]
    for i in (1, 2):
        assert content(vectors.read("labels", made[i])) == content(states[i])
    assert unreferenced(vectors, named, age=NOW) == {}
    again = vectors.write("labels", states[3], KEY)
    assert content(vectors.read("labels", again.version)) == content(states[3])
    assert vectors.tagged("labels") == {made[1], made[2], again.version}


def test_collect_touches_nothing_where_a_named_version_is_missing(tmp_path: Path) -> None:
    vectors = Vectors(tmp_path)
    version = vectors.write("labels", rows([1]), KEY).version
    with pytest.raises(CatalogError, match="lacks version 99"):
        collect(vectors, {"labels": {99}}, age=NOW)
    assert vectors.read("labels", version).num_rows == 1


def test_a_snapshot_names_the_version_that_belongs_to_it(tmp_path: Path) -> None:
    with Catalog.create(tmp_path / "c") as catalog:
        vectors = Vectors(catalog.vectors)
        snapshots = []
        for i in range(3):
            made = vectors.write("labels", rows([1, 2, 3], salt=i), KEY)
            with catalog.write("labels") as tx:
                name_version(tx, made)
            snapshots.append(catalog.snapshot())
        for i, snapshot in enumerate(snapshots):
            version = named_version(catalog.connection, "labels", snapshot)
            assert content(vectors.read("labels", version)) == content(rows([1, 2, 3], salt=i))
        assert referenced_versions(catalog.connection) == {"labels": {1, 2, 3}}
        with catalog.write("again") as tx:
            name_version(tx, made)
        assert catalog.snapshot() == snapshots[-1]
        with pytest.raises(UnknownName, match="known: labels"):
            named_version(catalog.connection, "decoder")


def test_lancedb_opens_the_collections(tmp_path: Path) -> None:
    lancedb = pytest.importorskip("lancedb")
    Vectors(tmp_path).write("labels", rows([1, 2]), KEY)
    assert lancedb.connect(str(tmp_path)).open_table("labels").count_rows() == 2


def test_no_version_is_ever_dropped_by_lance_itself(tmp_path: Path) -> None:
    version = Vectors(tmp_path).write("labels", rows([1, 2]), KEY).version
    assert not any("auto_cleanup" in key for key in Vectors(tmp_path).open("labels", version).config())


def test_a_version_that_no_collection_comes_to_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="names version 1000000000000"):
        Vectors(tmp_path).write("labels", rows([1, 2]), KEY, above=10**12)
