"""Takes the best documents until the budget of tokens is reached, the crossing document included."""

import hashlib

import numpy as np
import numpy.typing as npt

from ingest.selection.documents import Documents


def best_first(scores: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """The places of `scores` `[n]`, highest first; equal ones in the order in which they stand: by hash."""
    return np.argsort(-scores, kind="stable")


def by_hash(documents: Documents, rng: int) -> npt.NDArray[np.int64]:
    """The places in an order that follows from each document's hash and `rng` alone."""
    keys = [hashlib.blake2b(f"{rng}:{key}".encode(), digest_size=16).digest() for key in documents.hashes]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)


def within(tokens: npt.NDArray[np.int64], budget: int) -> int:
    """How many of the documents with `tokens` `[n]`, best first, are taken: at least one if there is one."""
    return min(int(np.searchsorted(np.cumsum(tokens), budget)) + 1, len(tokens))


def passes(tokens: npt.NDArray[np.int64], budget: int) -> npt.NDArray[np.int64]:
    """How often each document counts when all are counted in turn, again and again, until the budget is reached."""
    whole, rest = divmod(budget, int(tokens.sum()))
    found = np.full(len(tokens), whole, np.int64)
    if rest:
        found[: within(tokens, rest)] += 1
    return found
