"""Gives a document its identity and its split (train, val, test) by its content alone.

Nothing here looks at order, time or neighbours, so a document keeps its split whatever else is added.
Hashes alone leak: near-copies land on both sides. `shingles` and `leaked_windows` find val and test
windows that repeat train text, so that nobody scores a label on what its explainer has seen.
"""

import hashlib
from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Split = Literal["train", "val", "test"]
SHINGLE = 16
"""Tokens of a shingle: a val or test window that shares one with train text is not eligible."""


class Shares(NamedTuple):
    """The shares of documents that are held out of training."""

    val: float = 0.1
    test: float = 0.1


HELD_OUT = Shares()
"""Where a study says nothing: 80% train, 10% val, 10% test."""

# Two odd 64-bit constants (splitmix64, Steele et al. 2014) mix token ids into a shingle's hash.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)


def document_hash(text: str) -> str:
    """BLAKE2b-128 of the UTF-8 text, 32 hexadecimal digits: the document's identity."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def split_of(document: str, shares: Shares = HELD_OUT) -> Split:
    """The split of a document, given its hash, read as a fraction of 1: the lowest are train, the highest test."""
    fraction = int(document[:16], 16) / 2**64
    if fraction >= 1 - shares.test:
        return "test"
    return "train" if fraction < 1 - shares.val - shares.test else "val"


def shingles(tokens: npt.NDArray[np.integer], size: int = SHINGLE) -> npt.NDArray[np.int64]:
    """A 64-bit hash of the `size` tokens that start at each token of one document.

    Returns `[max(n - size + 1, 0)]`; the last `size - 1` tokens start no shingle. Equal runs of tokens
    have equal hashes; unequal runs collide with probability 2^-64.
    """
    n = len(tokens) - size + 1
    if n <= 0:
        return np.empty(0, np.int64)
    ids = tokens.astype(np.uint64)
    state = np.zeros(n, np.uint64)
    for i in range(size):
        state = (state ^ (ids[i : i + n] + _GOLDEN)) * _MIX
        state ^= state >> np.uint64(29)
    return state.view(np.int64)


def leaked_windows(
    tokens: npt.NDArray[np.integer], train_shingles: npt.NDArray[np.int64], window: int
) -> npt.NDArray[np.bool_]:
    """Which windows of `window` tokens, laid end to end over one document, repeat train text.

    `train_shingles` is sorted. Returns one flag per window, the last one possibly short.
    """
    flags = np.zeros(-(-len(tokens) // window), bool)
    found = shingles(tokens)
    if not len(found) or not len(train_shingles):
        return flags
    at = np.searchsorted(train_shingles, found).clip(max=len(train_shingles) - 1)
    for start in np.flatnonzero(train_shingles[at] == found):
        flags[start // window : (start + SHINGLE - 1) // window + 1] = True
    return flags


def unique_documents(texts: Iterable[str]) -> Iterable[tuple[str, str]]:
    """(hash, text) of each distinct document, in the order of first appearance."""
    seen: set[str] = set()
    for text in texts:
        key = document_hash(text)
        if key not in seen:
            seen.add(key)
            yield key, text
