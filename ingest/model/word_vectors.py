"""Gives words the vectors of the packaged encoder's own word table: what a label may mean by "words like these".

A word's vector is the mean of its pieces' rows in the table, less the mean of all whole words, scaled to norm 1.
Nothing is run: thousands of words take milliseconds, and PyTorch is not imported. A text is the sum of its words, rare
ones weighing more: the table is ordered by frequency, so that the logarithm of a row's number says how rare a word is.
Vectors are rounded to multiples of 2^-12: the products of two are exact sums, the same in whatever order, and norms lie
within 1% of 1.
"""

from collections.abc import Iterable
from functools import cache

import numpy as np
import numpy.typing as npt

from catalog.errors import InputError
from ingest.model.text_encoder import encoder_folder

_COMMONEST = 1_995
"""Rows before the commonest word are special tokens, unused ones and single characters."""
_TABLE = "word_embeddings.weight"

Vector = npt.NDArray[np.float64]
_STEPS = 4096


@cache
def _table() -> tuple[object, Vector, Vector]:
    """(the tokenizer, the table `[pieces, d]`, the mean `[d]` of its whole words)."""
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    folder = encoder_folder()
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tensors = load_file(folder / "model.safetensors")
    except Exception as error:  # the bindings raise what they like
        raise InputError(f"the packaged encoder in {folder} cannot be read: {error}; install it anew") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    table = next(tensor for name, tensor in tensors.items() if name.endswith(_TABLE)).astype(np.float64)
    whole = sorted(row for piece, row in tokenizer.get_vocab().items() if piece.isalpha())
    return tokenizer, table, table[whole].mean(0)


@cache
def _word(word: str) -> tuple[Vector, float]:
    tokenizer, table, mean = _table()
    rows = tokenizer.encode(word, add_special_tokens=False).ids  # type: ignore[attr-defined]
    if not rows:
        return np.zeros(table.shape[1]), 0.0
    vector = table[rows].mean(0) - mean
    rarity = float(np.mean([np.log(max(row - _COMMONEST, 1)) for row in rows]))
    return _unit(vector), rarity


def word_vectors(words: Iterable[str]) -> Vector:
    """`[n, d]`, each of norm 1; a word that the table cannot say is zeros."""
    rows = [_word(word)[0] for word in words]
    return np.array(rows, np.float64).reshape(len(rows), _table()[1].shape[1])


def text_vector(words: Iterable[str]) -> Vector:
    """`[d]` of norm 1: the words' sum, each weighted by how rare it is; zeros without a word."""
    found = [_word(word) for word in words]
    total = np.zeros(_table()[1].shape[1])
    for vector, rarity in found:
        total += rarity * vector
    return _unit(total)


def _unit(vector: Vector) -> Vector:
    norm = float(np.linalg.norm(vector))
    return np.round(vector / norm * _STEPS) / _STEPS if norm else vector
