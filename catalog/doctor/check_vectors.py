"""Checks vectors: each version that a snapshot names opens, tagged and complete, and each vector has its row."""

from collections.abc import Iterator, Mapping

from catalog.doctor.finding import Examination, Finding
from catalog.errors import CatalogError, UnknownName
from catalog.quote import named
from catalog.vectors.collections import Vectors
from catalog.vectors.garbage import collect, unreferenced
from catalog.vectors.references import referenced_versions

# What the rows of a collection stand for: collection -> (key, query that gives the keys).
_ROWS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "labels": (("sae", "feature", "explainer"), "SELECT sae, feature, explainer FROM labels WHERE label IS NOT NULL"),
    "decoder": (("sae", "feature"), "SELECT sae, unnest(range(width)) AS feature FROM saes"),
}


def vector_versions(examination: Examination) -> Iterator[Finding]:
    """Named versions are there, complete and tagged; what nobody names is garbage."""
    catalog = examination.catalog
    vectors = Vectors(catalog.vectors)
    named_rows = dict(catalog.rows("SELECT (collection, version), rows FROM lance"))
    referenced = referenced_versions(catalog.connection)
    for collection, versions in sorted(referenced.items()):
        for version in sorted(versions):
            subject = f"{collection} version {version}"
            try:
                rows = vectors.open(collection, version).count_rows()
                tagged = version in vectors.tagged(collection)
            except (CatalogError, UnknownName, OSError, ValueError) as error:
                yield Finding("vector versions", "error", subject, f"cannot be opened: {error}")
                continue
            stated = named_rows.get((collection, version), rows)
            if rows != stated:
                yield Finding("vector versions", "error", subject, f"has {rows} vectors, not {stated}")
            if not tagged:
                if examination.fix:
                    vectors.tag(collection, version)
                detail = "has no tag, so that a clean-up could drop it"
                yield Finding("vector versions", "warning", subject, detail, fixed=examination.fix)
    if examination.fix:
        garbage = collect(vectors, referenced, age=examination.age)
    else:
        garbage = unreferenced(vectors, referenced, age=examination.age)
    for collection, stale in sorted(garbage.items()):
        detail = f"versions that no snapshot names: {', '.join(map(str, stale))}"
        yield Finding("vector versions", "warning", collection, detail, fixed=examination.fix)


def vector_rows(examination: Examination) -> Iterator[Finding]:
    """Each vector belongs to a row, each row has its vector, and the files of the vectors can be read."""
    catalog = examination.catalog
    vectors = Vectors(catalog.vectors)
    for collection, version in catalog.rows("SELECT collection, version FROM lance ORDER BY collection"):
        try:
            there = vectors.read(collection, version)
        except (CatalogError, UnknownName) as error:
            yield Finding("vector rows", "error", collection, str(error))
            continue
        if collection not in _ROWS:
            continue
        key, query = _ROWS[collection]
        keys = ", ".join(map(named, key))
        catalog.connection.register("_vectors", there.select(list(key)))
        try:
            strays = catalog.value(f"SELECT count(*) FROM _vectors ANTI JOIN ({query}) USING ({keys})")
            bare = catalog.value(f"SELECT count(*) FROM ({query}) ANTI JOIN _vectors USING ({keys})")
        finally:
            catalog.connection.unregister("_vectors")
        if strays:
            yield Finding("vector rows", "warning", collection, f"{strays} vectors have no row: run refresh")
        if bare:
            yield Finding("vector rows", "warning", collection, f"{bare} rows have no vector: run refresh")
