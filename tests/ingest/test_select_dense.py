"""The vectors of documents: each is written once, and read by who asks for it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from catalog import Catalog
from catalog.vectors.collections import Vectors
from catalog.vectors.references import name_version
from ingest.model.language_model import LanguageModel
from ingest.selection import dense
from ingest.selection.dense import embedded
from ingest.selection.documents import Documents, read_pool
from ingest.text.corpus import ingest_corpus
from tests.ingest.test_select_run import TOPICS, ingested
from tests.ingest.tiny import corpus_of, texts, write_lines

__all__ = ["ingested"]

ENCODER = "all-MiniLM-L6-v2"
CHUNK = 12


@pytest.fixture
def small(ingested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Catalog]:
    monkeypatch.setattr(dense, "CHUNK", CHUNK)
    with Catalog(shutil.copytree(ingested, tmp_path / "catalog")) as catalog:
        yield catalog


def committed(catalog: Catalog, lists: list[Documents]) -> dense.Embedded:
    found = embedded(catalog, ENCODER, lists)
    with catalog.write("the last chunk") as tx:
        name_version(tx, found.version)
    return found


def files(catalog: Catalog) -> dict[str, int]:
    """Rows of each data file of any version of the collection."""
    vectors, collection = Vectors(catalog.vectors), dense.collection_of(ENCODER)
    versions = vectors.tagged(collection)
    fragments = [f for version in versions for f in vectors.open(collection, version).get_fragments()]
    return {file.path: fragment.physical_rows for fragment in fragments for file in fragment.data_files()}


def test_a_chunk_is_written_once_and_what_was_there_is_not_written_again(small: Catalog) -> None:
    pool, seed = read_pool(small, "pool"), read_pool(small, "seed")
    total = len(pool) + len(seed)
    assert total > 3 * CHUNK
    assert committed(small, [pool, seed]).fresh == total
    assert sum(files(small).values()) == total
    assert max(files(small).values()) == CHUNK


def test_each_list_has_its_vectors_in_its_order(small: Catalog) -> None:
    pool, seed = read_pool(small, "pool"), read_pool(small, "seed")
    first = committed(small, [pool, seed])
    assert [matrix.shape for matrix in first.matrices] == [(len(pool), 384), (len(seed), 384)]
    # What is stored is read, whatever is asked for, and nothing is written.
    some = pool.take(np.arange(1, len(pool), 3))
    again = embedded(small, ENCODER, [seed, some, pool])
    assert (again.fresh, again.version.version) == (0, first.version.version)
    wanted = [first.matrices[1], first.matrices[0][1::3], first.matrices[0]]
    for found, expected in zip(again.matrices, wanted, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_text_of_two_corpora_is_embedded_once_and_has_a_row_in_each(
    small: Catalog, llama: LanguageModel, tmp_path: Path
) -> None:
    pool = read_pool(small, "pool")
    first = committed(small, [pool])
    shared = [f"{TOPICS[i % 3]} {text}" for i, text in enumerate(texts(60))][:20]
    lines = write_lines(tmp_path / "other.jsonl", [*shared, "a text that stands nowhere else"])
    ingest_corpus(small, corpus_of(lines, name="other"), llama)
    with small.write("all of it is train") as tx:
        tx.execute("UPDATE lake.documents SET split = 'train' WHERE corpus = 'other'")
    other = read_pool(small, "other")
    assert len(other) == 21
    new = set(other.hashes) - set(pool.hashes)
    assert 0 < len(new) < 21
    second = committed(small, [other])
    assert second.fresh == len(new)
    assert second.version.rows == first.version.rows + 21
    table = Vectors(small.vectors).read(second.version.collection, second.version.version, ["corpus", "hash"])
    rows = list(zip(table["corpus"].to_pylist(), table["hash"].to_pylist(), strict=True))
    assert sorted(rows) == sorted([("pool", key) for key in pool.hashes] + [("other", key) for key in other.hashes])
    vectors = dict(zip(pool.hashes, first.matrices[0], strict=True))
    for key, vector in zip(other.hashes, second.matrices[0], strict=True):
        if key in vectors:
            np.testing.assert_array_equal(vector, vectors[key])
