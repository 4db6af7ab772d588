"""Reads the documents of a selection: the pool's split train, and the seed set, which must not touch the split test.

Documents stand in order of their hash, so that a stable sort by score breaks ties by hash.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catalog import Catalog
from catalog.errors import InputError, UnknownName
from catalog.study.selection import Selection

_COLUMNS = "SELECT document, hash, tokens FROM documents WHERE corpus = ?"


@dataclass(frozen=True)
class Documents:
    """Some documents of one corpus, in order of their hash."""

    corpus: str
    numbers: npt.NDArray[np.int32]
    """`[n]`: numbers in the corpus."""
    hashes: npt.NDArray[np.object_]
    """`[n]`: BLAKE2b-128 of the texts."""
    tokens: npt.NDArray[np.int64]
    """`[n]`: tokens of each."""

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, which: npt.NDArray[np.int64]) -> "Documents":
        """Those at the places `which`, which must ascend."""
        return Documents(self.corpus, self.numbers[which], self.hashes[which], self.tokens[which])

    def texts(self, catalog: Catalog) -> list[str]:
        """The text of each document."""
        wanted = pa.table({"document": self.numbers})
        catalog.connection.register("_wanted", wanted)
        try:
            sql = "SELECT text FROM documents SEMI JOIN _wanted USING (document) WHERE corpus = ? ORDER BY hash"
            found: list[str] = catalog.arrow(sql, [self.corpus]).column("text").to_pylist()
        finally:
            catalog.connection.unregister("_wanted")
        return found


def read_pool(catalog: Catalog, corpus: str) -> Documents:
    """The documents of split train of a corpus. Raises UnknownName, or InputError if there are none."""
    check_corpora(catalog, [corpus])
    found = _read_train(catalog, corpus)
    if not len(found):
        raise InputError(f"the pool {corpus!r} has no document of split train: add text")
    return found


def read_seed(catalog: Catalog, spec: Selection) -> Documents:
    """The seed documents of a selection, at most `seed_tokens` of them; for method seed those of split train alone.

    Raises UnknownName for a corpus or a hash that is not there. Raises InputError if there are none, if method seed
    names one that is not of split train, and, since what is chosen by test text can no longer be tested on it, if one
    is of the split test or if its text stands in the split test of the pool or of a corpus of `evaluations`; the
    message counts and names them.
    """
    corpus = str(spec.seed)
    named = list(dict.fromkeys([spec.pool, *(spec.evaluations or ())]))
    check_corpora(catalog, [corpus, *named])
    if spec.seed_documents:
        asked, where = list(spec.seed_documents), "list_contains(?, hash)"
    else:
        asked, where = list(spec.seed_splits), "list_contains(?, split)"
    found = _read(catalog, corpus, f"{_COLUMNS} AND {where} ORDER BY hash", [corpus, asked])
    missing = sorted(set(spec.seed_documents) - set(found.hashes))
    if missing:
        raise UnknownName(f"selection {spec.name!r}: corpus {corpus!r} has no document with the hash {missing[0]}")
    _refuse_test(catalog, spec, found, [corpus])
    _refuse_test(catalog, spec, found, named)
    if spec.method == "seed":
        found = _trainable(catalog, spec, found)
    if not len(found):
        said = ", ".join(spec.splits)
        raise InputError(f"selection {spec.name!r}: corpus {corpus!r} has no document in {said}: add text")
    if spec.seed_tokens is not None:
        enough = int(np.searchsorted(np.cumsum(found.tokens), spec.seed_tokens)) + 1
        found = found.take(np.arange(min(enough, len(found))))
    return found


def check_corpora(catalog: Catalog, names: list[str]) -> None:
    """Raises UnknownName for the first corpus that the catalog does not have."""
    known = [name for (name,) in catalog.rows("SELECT corpus FROM corpora ORDER BY corpus")]
    for name in names:
        if name not in known:
            raise UnknownName(f"there is no corpus {name!r}; known: {', '.join(known) or 'none'}")


def _refuse_test(catalog: Catalog, spec: Selection, seed: Documents, corpora: list[str]) -> None:
    catalog.connection.register("_wanted", pa.table({"hash": pa.array(seed.hashes, pa.string())}))
    try:
        found = catalog.rows(
            "SELECT hash, corpus, source FROM documents SEMI JOIN _wanted USING (hash) "
            "WHERE split = 'test' AND list_contains(?, corpus) ORDER BY corpus, hash",
            [corpora],
        )
    finally:
        catalog.connection.unregister("_wanted")
    if found:
        some = ", ".join(f"{key} ({source}, {corpus})" for key, corpus, source in found[:3])
        count = len({key for key, *_ in found})
        raise InputError(
            f"selection {spec.name!r}: {count} of {len(seed)} seed documents stand in the split test: {some}"
            f"{', ...' if len(found) > 3 else ''}. Nothing chosen by them could be tested there: leave them out"
        )


def _trainable(catalog: Catalog, spec: Selection, seed: Documents) -> Documents:
    """The seed documents of split train, since training reads no others. Raises InputError if another one is named."""
    kept = np.isin(seed.numbers, _read_train(catalog, seed.corpus).numbers)
    if spec.seed_documents and not kept.all():
        others = seed.hashes[~kept]
        raise InputError(
            f"selection {spec.name!r}: {len(others)} of {len(seed)} seed documents are not of split train, such as "
            f"{others[0]}: method 'seed' trains on them, and training reads no others; leave them out"
        )
    return seed.take(np.flatnonzero(kept))


def _read_train(catalog: Catalog, corpus: str) -> Documents:
    return _read(catalog, corpus, f"{_COLUMNS} AND split = 'train' ORDER BY hash", [corpus])


def _read(catalog: Catalog, corpus: str, sql: str, parameters: list[object]) -> Documents:
    columns = catalog.connection.execute(sql, parameters).fetchnumpy()
    return Documents(
        corpus,
        np.asarray(columns["document"], np.int32),
        np.asarray(columns["hash"], object),
        np.asarray(columns["tokens"], np.int64),
    )
