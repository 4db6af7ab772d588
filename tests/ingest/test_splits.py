"""The split follows from the hash alone; leaked windows are those that share 16 tokens in a row with train text."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.text.splits import SHINGLE, Shares, document_hash, leaked_windows, shingles, split_of, unique_documents

few_tokens = st.lists(st.integers(0, 2), max_size=80).map(lambda ids: np.array(ids, np.int32))


def runs(ids: np.ndarray, size: int = SHINGLE) -> list[tuple[int, ...]]:
    return [tuple(ids[i : i + size].tolist()) for i in range(len(ids) - size + 1)]


def test_a_hash_is_blake2b_of_the_utf8_text() -> None:
    assert document_hash("") == "cae66941d9efbd404e4d88758ea67670"
    assert document_hash("日本") != document_hash("日本 ")


@pytest.mark.parametrize(
    ("share", "split"),
    [(0, "train"), (0.7999, "train"), (0.8001, "val"), (0.8999, "val"), (0.9001, "test"), (1 - 2**-53, "test")],
)
def test_the_first_64_bits_of_the_hash_decide_the_split(share: float, split: str) -> None:
    key = f"{int(share * 2**64):016x}"
    assert split_of(key + "0" * 16) == split
    assert split_of(key + "f" * 16) == split


@pytest.mark.parametrize(("val", "test"), [(0.1, 0.1), (0.1, 0.2), (0.05, 0.4), (0.3, 0.3)])
def test_a_document_leaves_train_as_more_is_held_out_and_goes_back_never(val: float, test: float) -> None:
    keys = [document_hash(f"document {i}") for i in range(4_000)]
    found = [split_of(key, Shares(val, test)) for key in keys]
    for split, share in {"train": 1 - val - test, "val": val, "test": test}.items():
        assert abs(found.count(split) - 4_000 * share) < 4.5 * math.sqrt(4_000 * share * (1 - share))
    more = [split_of(key, Shares(val, test + 0.05)) for key in keys]
    assert {pair for pair in zip(found, more, strict=True) if pair[0] != pair[1]} == {("train", "val"), ("val", "test")}


def test_the_largest_hash_is_test() -> None:
    assert split_of("f" * 32) == "test"


def test_shares_are_80_10_10_within_binomial_bounds() -> None:
    n = 20_000
    found = [split_of(document_hash(f"document {i}")) for i in range(n)]
    for split, share in {"train": 0.8, "val": 0.1, "test": 0.1}.items():
        assert abs(found.count(split) - n * share) < 4.5 * math.sqrt(n * share * (1 - share))


@given(few_tokens, st.integers(1, 20))
def test_equal_shingles_are_equal_runs_of_tokens(ids: np.ndarray, size: int) -> None:
    naive, hashed = runs(ids, size), shingles(ids, size).tolist()
    assert len(hashed) == len(naive)
    assert len(set(zip(naive, hashed, strict=True))) == len(set(naive)) == len(set(hashed))


def test_a_shingle_depends_on_the_order_of_its_tokens() -> None:
    ids = np.arange(SHINGLE)
    assert shingles(ids)[0] != shingles(ids[::-1].copy())[0]


@given(few_tokens, few_tokens, st.integers(1, 40))
def test_a_window_leaks_if_a_run_that_touches_it_stands_in_train(
    ids: np.ndarray, train: np.ndarray, window: int
) -> None:
    known = set(runs(train))
    leaked = {j // window for i, run in enumerate(runs(ids)) if run in known for j in range(i, i + SHINGLE)}
    flags = leaked_windows(ids, np.unique(shingles(train)), window)
    assert flags.tolist() == [w in leaked for w in range(math.ceil(len(ids) / window))]


def test_a_copy_inside_other_text_leaks_only_where_it_stands() -> None:
    rng = np.random.default_rng(0)
    train = rng.integers(0, 1000, 200)
    ids = rng.integers(1000, 2000, 128)
    ids[40:60] = train[90:110]
    assert leaked_windows(ids, np.sort(shingles(train)), 32).tolist() == [False, True, False, False]


def test_nothing_leaks_from_no_train_text() -> None:
    assert not leaked_windows(np.arange(50), np.empty(0, np.int64), 32).any()


def test_unique_documents_keep_the_first_of_equal_texts() -> None:
    assert [text for _, text in unique_documents(["b", "a", "b", "c", "a"])] == ["b", "a", "c"]
