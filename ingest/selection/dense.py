"""Scores a pool's documents by cosine with a seed set, and embeds each document once.

The vectors are kept in Lance, a collection per encoder, so that a later selection only compares. A document longer
than the encoder's window (MiniLM: 256 word pieces, Contriever: 512) is what its first window says: that is what the
encoder does by itself and what Specialized SAEs (section 2.3) asks of Contriever; all windows would cost as many
times more.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from catalog import Catalog
from catalog.vectors.collections import Vectors, Version
from catalog.vectors.references import name_version
from ingest.model.text_encoder import encoder_digest, load_encoder
from ingest.selection.documents import Documents

BATCH = 64
CHUNK = 16_384
"""Documents between two commits of a long embedding: what an interrupted run has to do again."""
_BLOCK = 8192
_KEY = ("corpus", "hash")

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

    Finished chunks are committed as they come, the last one is left to the caller's commit. Of what the collection
    holds, only the hashes and the vectors of these documents are read; a chunk is appended. Hold `refresh.lock`.
    Raises InputError if the encoder cannot be loaded.
    """
    collection = collection_of(encoder)
    store = Vectors(catalog.vectors)
    version = catalog.value("SELECT version FROM lance WHERE collection = ?", [collection])
    wanted = _Wanted(lists)
    if version is not None:
        wanted.read(store, collection, version)
    pending, texts = wanted.known(), _missing_texts(catalog, lists, wanted)
    # Longest first over all chunks, as the encoder sorts within one: batches of like length, and memory peaks at once.
    order = sorted(texts, key=lambda key: (-len(texts[key]), key))
    for start in range(0, len(order), CHUNK):
        keys = order[start : start + CHUNK]
        vectors = load_encoder(encoder).encode(
            [texts.pop(key) for key in keys],
            batch_size=BATCH,
            convert_to_numpy=True,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        wanted.put(wanted.places(keys), np.asarray(vectors, np.float32))
        pending += keys
        if progress:
            progress(min(start + CHUNK, len(order)), len(order))
        if start + CHUNK < len(order):
            made = store.append(collection, wanted.rows(pending, encoder), _KEY, version)
            with catalog.write(f"embeddings of {made.rows} documents") as tx:
                name_version(tx, made)
            version, pending = made.version, []
    made = store.append(collection, wanted.rows(pending, encoder), _KEY, version)
    return Embedded([wanted.matrix(documents) for documents in lists], made, len(order))


def collection_of(encoder: str) -> str:
    """The collection of an encoder's vectors; other weights under the same name get another."""
    last = re.sub(r"[^A-Za-z0-9_-]", "-", encoder.rstrip("/").rpartition("/")[2])
    return f"documents-{last}-{encoder_digest(encoder)[:8]}"


class _Wanted:
    """The vectors of some lists of documents, those of one text once, and which of them the collection lacks."""

    def __init__(self, lists: list[Documents]):
        texts = dict.fromkeys(key for documents in lists for key in documents.hashes)
        self._place: dict[str, int] = {key: place for place, key in enumerate(texts)}
        self._known = np.zeros(len(self._place), bool)
        self._vectors: Matrix = np.empty((len(self._place), 0), np.float32)
        self._lacking: dict[str, set[str]] = {}
        """By corpus, hashes of documents that have no row in the collection."""
        for documents in lists:
            self._lacking.setdefault(documents.corpus, set()).update(documents.hashes)

    def read(self, store: Vectors, collection: str, version: int) -> None:
        """Take what the collection has."""
        there = store.read(collection, version, _KEY)
        for corpus, lacking in self._lacking.items():
            held = there.filter(pc.field("corpus") == corpus)["hash"]
            keys = pa.array(list(lacking), pa.string())
            lacking.difference_update(keys.filter(pc.is_in(keys, value_set=held)).to_pylist())
        rows = pc.index_in(pa.array(list(self._place), pa.string()), value_set=there["hash"]).fill_null(-1).to_numpy()
        # In the order of the collection's files.
        places = np.argsort(rows, kind="stable")[np.count_nonzero(rows < 0) :]
        for start in range(0, len(places), _BLOCK):
            some = places[start : start + _BLOCK]
            found = store.read(collection, version, ["vector"], rows[some])["vector"].combine_chunks()
            self.put(some, found.flatten().to_numpy().reshape(len(some), -1))

    def put(self, places: npt.NDArray[np.int64], vectors: Matrix) -> None:
        """Set the vectors `[n, dim]` of the texts at `places` `[n]`."""
        if not self._vectors.shape[1]:
            self._vectors = np.empty((len(self._place), vectors.shape[1]), np.float32)
        self._vectors[places] = vectors
        self._known[places] = True

    def places(self, keys: Collection[str]) -> npt.NDArray[np.int64]:
        """Where the texts with these hashes stand."""
        return np.fromiter((self._place[key] for key in keys), np.int64, len(keys))

    def known(self) -> list[str]:
        """Hashes of the texts that have a vector."""
        return [key for key, known in zip(self._place, self._known, strict=True) if known]

    def unknown(self, documents: Documents) -> npt.NDArray[np.int64]:
        """The places in `documents` of texts that have none."""
        return np.flatnonzero(~self._known[self.places(documents.hashes)])

    def matrix(self, documents: Documents) -> Matrix:
        """`[n, dim]`: the vectors of the documents; a view where they stand in a row, as those of the first list."""
        places = self.places(documents.hashes)
        if len(places) and np.array_equal(places, np.arange(places[0], places[0] + len(places))):
            return self._vectors[places[0] : places[0] + len(places)]
        return self._vectors[places]

    def rows(self, keys: list[str], encoder: str) -> pa.Table:
        """What the collection lacks of the texts with these hashes: a row for each corpus that has the text."""
        lacking = [(corpus, key) for corpus, hashes in self._lacking.items() for key in keys if key in hashes]
        vectors = self._vectors[self.places([key for _, key in lacking])]
        return pa.table(
            {
                "corpus": pa.array([corpus for corpus, _ in lacking], pa.string()),
                "hash": pa.array([key for _, key in lacking], pa.string()),
                "encoder": pa.array([encoder] * len(lacking), pa.string()),
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), vectors.shape[1]),
            }
        )


def _missing_texts(catalog: Catalog, lists: list[Documents], wanted: _Wanted) -> dict[str, str]:
    """The texts, by their hash, that have no vector yet."""
    found: dict[str, str] = {}
    for documents in lists:
        part = documents.take(wanted.unknown(documents))
        if len(part):
            found.update(zip(part.hashes, part.texts(catalog), strict=True))
    return found
