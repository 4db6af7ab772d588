"""Embeds text as unit vectors with sentence-transformers; the default model needs no network."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from catalog.errors import InputError
from ingest.model.text_encoder import MINILM, encoder_dimension, load_encoder


def embed(texts: Sequence[str], model: str = MINILM, batch: int = 64) -> npt.NDArray[np.float32]:
    """The texts' embeddings, float32 `[n, dim]`, each of norm 1; `[0, dim]` for no texts.

    `model` is the packaged default, a directory, or a Hugging Face id. The model is loaded once per process.
    The same text may differ in the last bits with the batch that it stands in. Raises InputError for a model
    that cannot be loaded, or if one string is given in place of a list.
    """
    if isinstance(texts, str):
        raise InputError("embed() takes a list of texts, not one string")
    encoder = load_encoder(model)
    if not texts:
        return np.empty((0, encoder_dimension(model)), np.float32)
    vectors = encoder.encode(
        list(texts), batch_size=batch, convert_to_numpy=True, normalize_embeddings=True, show_progress_bar=False
    )
    return np.ascontiguousarray(vectors, dtype=np.float32)


def dimension(model: str = MINILM) -> int:
    """The length of the model's vectors: 384 for the default."""
    return encoder_dimension(model)
