"""The packaged embedding model, without a network."""

import numpy as np
import pytest

from catalog.errors import InputError
from ingest.model.embed import dimension, embed


def test_vectors_have_norm_one_and_close_meanings_lie_close() -> None:
    vectors = embed(["products of matrices", "multiplying two matrices", "a recipe for soup", ""])
    assert vectors.shape == (4, 384)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert vectors[0] @ vectors[1] > 0.6 > vectors[0] @ vectors[2]


def test_a_text_has_the_same_vector_alone_and_in_a_batch() -> None:
    texts = ["matrix", "a much longer text about quite another thing " * 5]
    assert np.allclose(embed(texts)[:1], embed(texts[:1]), atol=1e-5)


def test_no_texts_give_no_vectors() -> None:
    assert embed([]).shape == (0, dimension()) == (0, 384)


def test_what_cannot_be_embedded_is_refused() -> None:
    with pytest.raises(InputError, match="no/such-model"):
        embed(["a"], "no/such-model")
    with pytest.raises(InputError, match="list of texts"):
        embed("one string")
