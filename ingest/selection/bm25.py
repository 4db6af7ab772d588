"""Scores a pool's documents by BM25 against a seed set (Robertson and Zaragoza 2009), with bm25s.

Each seed document is a query; a word that it says twice counts twice. BM25 is a sum over the words of the query, so
the mean over the seed documents orders the pool as one query of the whole seed set would, which is how Specialized
SAEs (section 2.3) asks, and it is read off in one pass over the postings. For the maximum each query is divided by
the number of its words, or the longest seed document would decide alone.
"""

from collections.abc import Sequence

import bm25s
import numpy as np
import numpy.typing as npt

Words = Sequence[Sequence[int]]


def bm25_scores(pool: list[str], seed: list[str], pooling: str) -> npt.NDArray[np.float64]:
    """BM25 of each text of `pool` by the texts of `seed`, their mean or max: `[pool]`, 0 where no word is shared.

    Lucene's variant with k1 1.5 and b 0.75. Words are runs of two or more word characters, in lower case, without
    English stop words.
    """
    words, vocabulary = bm25s.tokenize(pool, stopwords="en", show_progress=False)
    if not vocabulary:
        return np.zeros(len(pool))
    index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    index.index((words, vocabulary), create_empty_token=False, show_progress=False)
    asked = bm25s.tokenize(seed, stopwords="en", return_ids=False, show_progress=False)
    # A word that the pool lacks finds nothing; for the maximum it still counts, or a foreign text would weigh most.
    queries = [np.array([vocabulary[w] for w in query if w in vocabulary], np.int64) for query in asked]
    if pooling == "mean":
        return _one_query(index, np.concatenate(queries), len(pool)) / len(queries)
    best = np.zeros(len(pool))
    for query, said in zip(queries, asked, strict=True):
        np.maximum(best, _one_query(index, query, len(pool)) / max(len(said), 1), out=best)
    return best


def _one_query(index: bm25s.BM25, query: npt.NDArray[np.int64], documents: int) -> npt.NDArray[np.float64]:
    """Sum over the words of `query` of their scores in each document; bm25s' own loop would repeat repeated words."""
    words, counts = np.unique(query, return_counts=True)
    starts = index.scores["indptr"][words]
    lengths = index.scores["indptr"][words + 1] - starts
    at = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths) + np.arange(lengths.sum())
    weights = index.scores["data"][at] * np.repeat(counts, lengths).astype(np.float64)
    found = np.zeros(documents)
    np.add.at(found, index.scores["indices"][at], weights)
    return found
