"""Checks rows for a Lance collection before they are written, and compares them with those that are there."""

from collections.abc import Sequence

import duckdb
import pyarrow as pa

from catalog.errors import StepError
from catalog.quote import named

VECTOR = "vector"


def checked(collection: str, rows: pa.Table, key: Sequence[str]) -> pa.Table:
    """`rows` with large types made plain, refused unless each key stands once and each vector is finite."""
    import numpy as np

    missing = sorted({*key, VECTOR} - set(rows.column_names))
    if missing:
        raise StepError(f"rows for the collection {collection} lack the column {', '.join(missing)}")
    kind = rows.schema.field(VECTOR).type
    if not pa.types.is_fixed_size_list(kind) or kind.value_type != pa.float32():
        raise StepError(f"vectors of the collection {collection} are {kind}, not a fixed-size list of float")
    if any(rows.column(name).null_count for name in (*key, VECTOR)):
        raise StepError(f"rows for the collection {collection} have no value in {', '.join(key)} or {VECTOR}")
    values = rows.column(VECTOR).combine_chunks().flatten()
    if values.null_count or not np.isfinite(values.to_numpy(zero_copy_only=False)).all():
        raise StepError(f"a vector for the collection {collection} holds a value that is not finite")
    copies = rows.group_by(list(key)).aggregate([([], "count_all")]).column("count_all").to_numpy()
    if (copies > 1).any():
        raise StepError(f"{int(copies.max())} rows for the collection {collection} have the same {', '.join(key)}")
    plain = [pa.field(f.name, _plain(f.type)) for f in rows.schema]
    return rows.cast(pa.schema(plain))


def _plain(kind: pa.DataType) -> pa.DataType:
    """DuckDB and pyarrow name the same text differently; a collection keeps one name."""
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(pa.float32(), kind.list_size)
    return kind


def difference(rows: pa.Table, there: pa.Table, key: Sequence[str]) -> tuple[pa.Table, pa.Table, int]:
    """(rows that are new or changed, keys that are gone, how many of the first have a key that was there)."""
    keys = ", ".join(map(named, key))
    with duckdb.connect() as engine:
        engine.register("fresh", rows)
        engine.register("there", there.select(rows.column_names))
        touched = engine.execute("FROM fresh EXCEPT FROM there").to_arrow_table()
        gone = engine.execute(f"SELECT {keys} FROM there ANTI JOIN fresh USING ({keys})").to_arrow_table()
        engine.register("touched", touched)
        changed = engine.execute(f"SELECT count(*) FROM touched SEMI JOIN there USING ({keys})").fetchall()[0][0]
    schema = rows.schema
    return touched.cast(schema), gone.cast(pa.schema([schema.field(k) for k in key])), int(changed)
