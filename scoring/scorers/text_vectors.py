"""Reads the embeddings of texts by the texts' MD5, as the step `text_vectors` has written them to Lance."""

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from catalog import Catalog

COLLECTION = "texts"


def text_hash(text: str) -> str:
    """The key of a text: its MD5, as DuckDB's `md5` gives it."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def text_vectors(catalog: Catalog, hashes: Iterable[str]) -> dict[str, npt.NDArray[np.float32]]:
    """Hash -> embedding `[d]` of norm 1, of those of `hashes` that are there; no text is embedded here."""
    from catalog.vectors.collections import Vectors

    wanted = set(hashes)
    version = catalog.value("SELECT version FROM lance WHERE collection = ?", [COLLECTION])
    if version is None or not wanted:
        return {}
    table = Vectors(catalog.vectors).read(COLLECTION, version, ["hash", "vector"])
    column = table["vector"].combine_chunks()
    matrix = column.flatten().to_numpy().reshape(len(column), -1)
    return {key: matrix[at] for at, key in enumerate(table["hash"].to_pylist()) if key in wanted}
