"""Reads documents from a column of a Parquet file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from catalog.errors import InputError
from catalog.study.text import Corpus
from ingest.text.unusable import Unusable, decoded, too_long

_BATCH_BYTES, _BATCH_ROWS = 16_000_000, 4096


def parquet_documents(path: Path, corpus: Corpus) -> Iterator[tuple[str, str | Unusable]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a Parquet file: {error}") from error
    with file:
        schema = file.schema_arrow
        if schema.names.count(corpus.field) != 1:
            times = f"{schema.names.count(corpus.field)} columns" if corpus.field in schema.names else "no column"
            raise InputError(f"{path} has {times} {corpus.field!r}; it has {schema.names}: set `field`")
        kind = schema.field(corpus.field).type
        if not _holds_text(kind):
            raise InputError(f"{path}: its column {corpus.field!r} is of type {kind}, not text: set `field`")
        if not file.metadata.num_rows:
            yield path.name, Unusable("empty file", f"{path} is empty: it holds no row for corpus {corpus.name!r}")
        number = 0
        for values in _column(file, path, corpus):
            for value in values:
                number += 1
                yield f"{path.name}:{number}", _row(value, f"{path}, row {number}", corpus)


def _row(value: bytes | None, where: str, corpus: Corpus) -> str | Unusable:
    """The text of a row of Parquet."""
    if value is None:
        return Unusable(f"no text under {corpus.field!r}", f"{where}: no text under {corpus.field!r}")
    if len(value) > corpus.max_line_bytes:
        return too_long(where, corpus)
    return decoded(value, where, 0)


def _holds_text(kind: Any) -> bool:
    """Whether a column of this Arrow type holds text or bytes, in any of their layouts."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return _holds_text(kind.value_type)
    layouts = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view, types.is_null)
    return (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
        or any(holds(kind) for holds in layouts)
    )


def _column(file: Any, path: Path, corpus: Corpus) -> Iterator[list[bytes | None]]:
    """The values of one column of an open ParquetFile as bytes, some megabytes at a time."""
    import pyarrow as pa

    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    largest = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
    rows = min(max(_BATCH_BYTES // max(largest, 1), 1), _BATCH_ROWS)
    try:
        for batch in file.iter_batches(batch_size=rows, columns=[corpus.field]):
            values = batch.column(0)
            if pa.types.is_dictionary(values.type):
                values = values.dictionary_decode()
            # As bytes: Arrow does not look whether its strings are UTF-8.
            yield values.cast(pa.large_binary()).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as Parquet: {error}") from error
