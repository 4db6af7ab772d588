"""Cosine of a pool's documents with a seed set, by a sentence-transformers encoder; each document is embedded once.

The vectors are kept in Lance, a collection per encoder, so that a later selection only compares. A document longer
than the encoder's window (MiniLM: 256 word pieces, Contriever: 512) is what its first window says: that is what the
encoder does by itself and what Specialized SAEs (section 2.3) asks of Contriever; all windows would cost as many
times more.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catalog import Catalog
from catalog.vectors import Vectors, Version, name_version
from ingest.encoder import encoder_digest, load_encoder
from ingest.select.documents import Documents

BATCH = 64
CHUNK = 16_384
"""Documents between two commits of a long embedding: what an interrupted run has to do again."""
_BLOCK = 8192

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Embedded:
    """The vectors of some lists of documents."""

    matrices: list[Matrix]
    """`[n, dim]` for each list, rows of norm 1."""
    version: Version
    """What holds them: to be named by the commit of the rows that were made from them."""
    fresh: int
    """Documents that were embedded now."""


def dense_scores(pool: Matrix, seed: Matrix, pooling: str) -> npt.NDArray[np.float64]:
    """Cosine of each row of `pool` `[n, dim]` with the rows of `seed` `[m, dim]`, all of norm 1: mean or max, `[n]`."""
    if pooling == "mean":
        seed = seed.mean(0, keepdims=True)
    found = np.empty(len(pool))
    for start in range(0, len(pool), _BLOCK):
        found[start : start + _BLOCK] = (pool[start : start + _BLOCK] @ seed.T).max(1)
    return found


def embedded(
    catalog: Catalog, encoder: str, lists: list[Documents], progress: Callable[[int, int], None] | None = None
) -> Embedded:
    """The vectors of each list of documents; a text that has one, in any corpus, is not embedded again.

    Finished chunks are committed as they come, the last one is left to the caller's commit. Hold `refresh.lock`.
    Raises InputError if the encoder cannot be loaded.
    """
    collection = collection_of(encoder)
    store = Vectors(catalog.vectors)
    version = catalog.value("SELECT version FROM lance WHERE collection = ?", [collection])
    there = None if version is None else store.read(collection, version)
    known: dict[str, npt.NDArray[np.float32]] = {}
    if there is not None:
        known = dict(zip(there["hash"].to_pylist(), _matrix(there), strict=True))
    missing = {key: None for documents in lists for key in documents.hashes if key not in known}
    texts: dict[str, str] = {}
    for documents in lists:
        new = np.flatnonzero([key in missing and key not in texts for key in documents.hashes])
        if len(new):
            part = documents.take(new)
            texts.update(zip(part.hashes, part.texts(catalog), strict=True))
    # Longest first over all chunks, as the encoder sorts within one: batches of like length, and memory peaks at once.
    order = sorted(texts, key=lambda key: (-len(texts[key]), key))
    made = None
    for start in range(0, len(order), CHUNK):
        keys = order[start : start + CHUNK]
        vectors = load_encoder(encoder).encode(
            [texts.pop(key) for key in keys],
            batch_size=BATCH,
            convert_to_numpy=True,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        known.update(zip(keys, np.asarray(vectors, np.float32), strict=True))
        if progress:
            progress(min(start + CHUNK, len(order)), len(order))
        if start + CHUNK < len(order):
            made = store.write(collection, _rows(there, lists, known, encoder), key=["corpus", "hash"])
            with catalog.write(f"embeddings of {len(known)} documents") as tx:
                name_version(tx, made)
    made = store.write(collection, _rows(there, lists, known, encoder), key=["corpus", "hash"])
    matrices = [np.stack([known[key] for key in documents.hashes]) for documents in lists]
    return Embedded(matrices, made, len(order))


def collection_of(encoder: str) -> str:
    """The collection of an encoder's vectors; other weights under the same name get another."""
    last = re.sub(r"[^A-Za-z0-9_-]", "-", encoder.rstrip("/").rpartition("/")[2])
    return f"documents-{last}-{encoder_digest(encoder)[:8]}"


def _rows(
    there: pa.Table | None, lists: list[Documents], known: dict[str, npt.NDArray[np.float32]], encoder: str
) -> pa.Table:
    """What the collection holds: the vectors that it had, and those known by now of the lists' documents."""
    keys: dict[tuple[str, str], None] = {}
    if there is not None:
        keys = dict.fromkeys(zip(there["corpus"].to_pylist(), there["hash"].to_pylist(), strict=True))
    keys.update(dict.fromkeys((d.corpus, key) for d in lists for key in d.hashes if key in known))
    matrix = np.stack([known[key] for _, key in keys])
    flat = pa.array(matrix.ravel(), pa.float32())
    return pa.table(
        {
            "corpus": pa.array([corpus for corpus, _ in keys], pa.string()),
            "hash": pa.array([key for _, key in keys], pa.string()),
            "encoder": pa.array([encoder] * len(keys), pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1]),
        }
    )


def _matrix(table: pa.Table) -> Matrix:
    column = table["vector"].combine_chunks()
    width = column.type.list_size
    found: Matrix = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return found
