"""Shard files hold every activation above zero, to half precision, sorted by feature; names are never reused."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog import Catalog
from catalog.errors import InputError
from catalog.store.shards import WrittenFile, file_digest, write_parquet
from ingest.activations.activation_file import SCHEMA, stable_order, write_activations


def code(n_tokens: int, width: int, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """k distinct latents for each token, some far more frequent than others."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, width + 1) ** 0.6
    features = np.argsort(-(rng.random((n_tokens, width)) ** (1 / weights)), axis=1)[:, :k]
    values = rng.lognormal(0, 1, (n_tokens, k)).astype(np.float32)
    return features.astype(np.int32).ravel(), np.repeat(np.arange(n_tokens) + 5000, k), values.ravel()


def write(folder: Path, *columns: np.ndarray) -> WrittenFile:
    return write_activations(folder, "s", "c", 3, *columns)


def one(features: list[int], positions: list[int], values: list[float]) -> tuple[np.ndarray, ...]:
    return np.array(features, np.int32), np.array(positions, np.int64), np.array(values, np.float32)


def test_a_file_holds_the_activations_in_half_precision_sorted_by_feature_then_position(tmp_path: Path) -> None:
    features, positions, values = code(200, 50, 5)
    file = write(tmp_path, features, positions, values)
    table = pq.read_table(file.path)
    assert table.schema.names == SCHEMA.names
    rows = [(r["feature"], r["position"], r["activation"]) for r in table.to_pylist()]
    naive = sorted(zip(features.tolist(), positions.tolist(), values.astype(np.float16).tolist(), strict=True))
    assert rows == naive
    assert set(zip(*(table.column(c).to_pylist() for c in ("sae", "corpus", "shard")), strict=True)) == {("s", "c", 3)}


def test_what_rounds_to_zero_is_no_activation(tmp_path: Path) -> None:
    file = write(tmp_path, *one([0, 1, 2, 3], [0, 1, 2, 3], [1e-9, 6e-8, 0.0, 1.0]))
    assert pq.read_table(file.path).column("feature").to_pylist() == [1, 3]
    assert file.rows == 2


def test_the_record_says_rows_size_and_digest(tmp_path: Path) -> None:
    file = write(tmp_path, *code(50, 20, 3))
    assert (file.rows, file.size, file.blake2b) == (150, file.path.stat().st_size, file_digest(file.path))
    assert len(file.blake2b) == 32


def test_a_large_shard_takes_at_most_four_bytes_per_activation(tmp_path: Path) -> None:
    file = write(tmp_path, *code(20_000, 512, 16))
    assert file.size / file.rows <= 4.0


def test_equal_content_gets_a_name_of_its_own_each_time(tmp_path: Path) -> None:
    files = [write(tmp_path, *code(20, 20, 3)) for _ in range(5)]
    assert len({file.path for file in files}) == 5
    assert len({file.blake2b for file in files}) == 1
    assert {file.path for file in files} == set(tmp_path.iterdir())


def test_no_activation_at_all_gives_a_file_that_the_catalog_takes(catalog: Catalog) -> None:
    file = write(catalog.data / "main" / "activations", *one([], [], []))
    assert file.rows == 0
    with catalog.write("empty shard") as tx:
        tx.register("activations", file.path)
    assert catalog.value("SELECT count(*) FROM activations") == 0


def test_what_half_precision_cannot_hold_keeps_as_many_bits(tmp_path: Path) -> None:
    values = [65504.0, 65535.0, 70001.0, 1e6 + 1, 3e38]
    file = write(tmp_path, *one([0, 1, 2, 3, 4], [0, 1, 2, 3, 4], values))
    kept = pq.read_table(file.path).column("activation").to_pylist()
    # Spacing of 11 bits: 2^5 below 2^16, 2^6 to 2^17, 2^9 to 2^20.
    assert kept[:4] == [65504.0, 65536.0, 70016.0, round((1e6 + 1) / 512) * 512]
    assert kept[4] == pytest.approx(3e38, rel=2**-11)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_no_number_is_refused_with_its_place(tmp_path: Path, value: float) -> None:
    with pytest.raises(InputError) as raised:
        write(tmp_path, *one([4, 7], [11, 12], [1.0, value]))
    assert f"activation {np.float32(value)} of feature 7 at position 12 of corpus 'c'" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_the_largest_half_is_kept(tmp_path: Path) -> None:
    file = write(tmp_path, *one([0], [0], [65504.0]))
    assert pq.read_table(file.path).column("activation").to_pylist() == [65504.0]


@given(st.lists(st.integers(0, 200_000), max_size=60))
def test_the_order_is_that_of_a_stable_sort_for_any_width(features: list[int]) -> None:
    keys = np.array(features, np.int32)
    assert stable_order(keys).tolist() == sorted(range(len(features)), key=lambda i: features[i])


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="NO_SUCH_ENCODING"):
        write_parquet(pa.table({"x": [1]}), tmp_path, "t", column_encoding={"x": "NO_SUCH_ENCODING"})
    assert list(tmp_path.iterdir()) == []
