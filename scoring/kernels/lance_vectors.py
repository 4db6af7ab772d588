"""Writes decoder directions and embeddings to Lance, before the commit that names their version."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from catalog.errors import CatalogError, InputError, UnknownName
from scoring.kernels.kernel import Run

_EMBEDDED = 512
"""Texts between two reports of progress."""


def decoder_vectors(rows: list[dict[str, Any]], run: Run) -> Iterator[list[dict[str, Any]]]:
    """The decoder rows of every SAE, `[width, d]` each, as the collection `decoder`.

    Raises InputError for SAEs on hookpoints of different widths: their directions cannot share a collection.
    """
    import numpy as np
    import pyarrow as pa

    from catalog.vectors.collections import Vectors
    from ingest.sae.model import SAE

    parts = []
    for number, row in enumerate(rows):
        decoder = SAE.load(run.catalog.weights_of(row["weights"])).weights.decoder.numpy()
        parts.append(
            pa.table(
                {
                    "sae": pa.array([row["sae"]] * len(decoder)),
                    "feature": pa.array(np.arange(len(decoder), dtype=np.int32)),
                    "vector": vector_column(decoder),
                }
            )
        )
        first = parts[0].schema.field("vector").type.list_size
        if decoder.shape[1] != first:
            raise InputError(
                f"the decoder of SAE {row['sae']!r} has width {decoder.shape[1]}, that of {rows[0]['sae']!r} {first}: "
                "SAEs on hookpoints of different widths need catalogs of their own"
            )
        run.progress(number + 1, len(rows))
    if parts:
        table = pa.concat_tables(parts)
        above = last_named(run, "decoder")
        version = Vectors(run.catalog.vectors).write("decoder", table, ["sae", "feature"], above)
        yield [{"collection": "decoder", "version": version.version, "rows": version.rows}]


def label_vectors(rows: list[dict[str, Any]], run: Run) -> Iterator[list[dict[str, Any]]]:
    """Each label's embedding as the collection `labels`; a label that has one already is not embedded again."""
    import numpy as np
    import pyarrow as pa

    from catalog.vectors.collections import Vectors
    from ingest.model.embed import embed

    vectors = Vectors(run.catalog.vectors)
    known: dict[str, Any] = {}
    version = run.catalog.value("SELECT version FROM lance WHERE collection = 'labels'")
    if version is not None:
        # Vectors that were lost are made anew.
        with suppress(CatalogError, UnknownName):
            before = vectors.read("labels", version)
            known = dict(zip(before["label"].to_pylist(), before["vector"].to_pylist(), strict=True))
    new = list(dict.fromkeys(row["label"] for row in rows if row["label"] not in known))
    known.update(zip(new, embed(new), strict=True))
    if not rows:
        return
    table = pa.table(
        {
            "sae": pa.array([row["sae"] for row in rows]),
            "feature": pa.array([row["feature"] for row in rows], pa.int32()),
            "explainer": pa.array([row["explainer"] for row in rows]),
            "label": pa.array([row["label"] for row in rows]),
            "vector": vector_column(np.array([known[row["label"]] for row in rows], np.float32)),
        }
    )
    run.progress(len(rows), len(rows))
    above = last_named(run, "labels")
    written = vectors.write("labels", table, ["sae", "feature", "explainer"], above)
    yield [{"collection": "labels", "version": written.version, "rows": written.rows}]


def text_vectors(rows: list[dict[str, Any]], run: Run) -> Iterator[list[dict[str, Any]]]:
    """The embedding of each text as the collection `texts`, by its hash; one that is there is not embedded again."""
    import numpy as np
    import pyarrow as pa

    from catalog.vectors.collections import Vectors
    from ingest.model.embed import embed

    vectors = Vectors(run.catalog.vectors)
    known: dict[str, Any] = {}
    version = run.catalog.value("SELECT version FROM lance WHERE collection = 'texts'")
    if version is not None:
        # Vectors that were lost are made anew.
        with suppress(CatalogError, UnknownName):
            before = vectors.read("texts", version)
            known = dict(zip(before["hash"].to_pylist(), before["vector"].to_numpy(zero_copy_only=False), strict=True))
    new = sorted((row for row in rows if row["hash"] not in known), key=lambda row: (len(row["text"]), row["hash"]))
    for at in range(0, len(new), _EMBEDDED):
        batch = new[at : at + _EMBEDDED]
        known.update(zip((row["hash"] for row in batch), embed([row["text"] for row in batch]), strict=True))
        run.progress(len(rows) - len(new) + at + len(batch), len(rows))
    matrix = np.array([known[row["hash"]] for row in rows], np.float32)
    table = pa.table({"hash": pa.array([row["hash"] for row in rows]), "vector": vector_column(matrix)})
    written = vectors.write("texts", table, ["hash"], last_named(run, "texts"))
    yield [{"collection": "texts", "version": written.version, "rows": written.rows}]


def last_named(run: Run, collection: str) -> int:
    """The last version of a collection that any snapshot names, 0 if none does."""
    from catalog.vectors.references import referenced_versions

    return max(referenced_versions(run.catalog.connection).get(collection, {0}))


def vector_column(matrix: Any) -> Any:
    """A `[n, d]` float32 array as an Arrow column of fixed-size lists."""
    import numpy as np
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(matrix, np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1])
