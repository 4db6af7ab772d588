"""BM25 against the formula written out, on six documents."""

import math
import re

import numpy as np
import pytest
from bm25s.stopwords import STOPWORDS_EN

from ingest.selection.bm25 import bm25_scores

POOL = [
    "The eigenvalues of a symmetric matrix are real.",
    "Matrix matrix MATRIX products cost cubic time.",
    "A soup of carrots and of leeks.",
    "Real soup needs real carrots, real time and patience; a matrix does not help here at all.",
    "?!",
    "Sphinx of black quartz",
]
SEED = ["eigenvalues of a matrix, a real matrix", "cubic time", "unheard words"]
K1, B = 1.5, 0.75


def words(text: str) -> list[str]:
    return [word for word in re.findall(r"\w\w+", text.lower()) if word not in STOPWORDS_EN]


def naive(query: list[str], at: int) -> float:
    """sum over query words of log(1 + (N - n + 0.5) / (n + 0.5)) tf / (tf + k1 (1 - b + b length / mean length))."""
    pool = [words(text) for text in POOL]
    mean = sum(map(len, pool)) / len(pool)
    total = 0.0
    for word in query:
        holding = sum(word in document for document in pool)
        frequency = pool[at].count(word)
        idf = math.log(1 + (len(pool) - holding + 0.5) / (holding + 0.5))
        total += idf * frequency / (frequency + K1 * (1 - B + B * len(pool[at]) / mean))
    return total


def test_the_mean_is_one_query_of_the_whole_seed_set() -> None:
    whole = [word for text in SEED for word in words(text)]
    expected = [naive(whole, at) / len(SEED) for at in range(len(POOL))]
    found = bm25_scores(POOL, SEED, "mean")
    assert found == pytest.approx(expected, abs=1e-6)
    assert (found > 0).tolist() == [True, True, False, True, False, False]


def test_the_maximum_is_over_queries_of_which_none_counts_more_for_its_length() -> None:
    def score(text: str, at: int) -> float:
        return naive(words(text), at) / max(len(words(text)), 1)

    expected = [max(score(text, at) for text in SEED) for at in range(len(POOL))]
    assert bm25_scores(POOL, SEED, "max") == pytest.approx(expected, abs=1e-6)


def test_words_that_the_pool_lacks_count_in_the_length_of_a_query() -> None:
    """The seed document foreign to the pool says one of its five words: it finds a fifth of what "alpha" finds."""
    pool = ["alpha beta", "gamma delta"]
    (short, none), (long, _) = (bm25_scores(pool, [seed], "max") for seed in ("alpha", "alpha xx1 xx2 xx3 xx4"))
    assert long == pytest.approx(short / 5)
    # log(1 + (2 - 1 + 0.5) / (1 + 0.5)) / (1 + 1.5), both documents being as long as the mean.
    assert (short, none) == (pytest.approx(math.log(2) / 2.5), 0)


def test_texts_without_words_have_no_score() -> None:
    assert bm25_scores(["", "..."], ["matrix"], "mean").tolist() == [0, 0]
    assert bm25_scores(POOL, [""], "max").tolist() == [0] * 6
    assert np.isfinite(bm25_scores(POOL, ["", "matrix"], "mean")).all()
