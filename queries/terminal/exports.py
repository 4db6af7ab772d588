"""Writes results for programs: JSON, a JSON object a line, CSV, Parquet; streamed, with every digit."""

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeAlias

from catalog.errors import InputError
from queries.terminal.control_characters import exact, visible
from queries.terminal.json_values import plain, safe_json

if TYPE_CHECKING:
    import pyarrow as pa

    Result: TypeAlias = pa.RecordBatchReader | pa.Table | Sequence[Mapping[str, Any]]

# What a spreadsheet takes for a formula, also after blanks and in full width; a number with a sign is none.
_FORMULA = re.compile(r"[\t\r\n]|\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def stream_of(result: "Result") -> "pa.RecordBatchReader":
    """Any result as a stream, its columns named apart: two of one name would become one in an object."""
    import pyarrow as pa

    if isinstance(result, Sequence):
        result = pa.Table.from_pylist(
            [{k: safe_json(plain(v)) if isinstance(v, Mapping) else v for k, v in row.items()} for row in result]
        )
    names: list[str] = []
    for name in result.schema.names:
        unique, copy = name, 1
        while unique in names:
            unique, copy = f"{name}_{copy}", copy + 1
        names.append(unique)
    schema = pa.schema(
        [field.with_name(name) for field, name in zip(result.schema, names, strict=True)], result.schema.metadata
    )
    batches = result.to_batches() if isinstance(result, pa.Table) else result
    return pa.RecordBatchReader.from_batches(
        schema, (pa.RecordBatch.from_arrays(batch.columns, schema=schema) for batch in batches)
    )


def plain_rows(reader: "pa.RecordBatchReader") -> Iterator[dict[str, Any]]:
    """Rows as plain values, one batch in memory at a time."""
    names = reader.schema.names
    for batch in reader:
        columns = [python_values(name, column) for name, column in zip(names, batch.columns, strict=True)]
        for values in zip(*columns, strict=True):
            yield {name: plain(value) for name, value in zip(names, values, strict=True)}


def python_values(name: str, column: "pa.Array") -> list[Any]:
    """A column as Python values; as text where Python has no such value (nanoseconds, years beyond 9999)."""
    import pyarrow as pa

    try:
        if pa.types.is_float32(column.type):
            # 6.2, not 6.199999809265137: the digits that a float32 has.
            return [None if text is None else float(text) for text in column.cast(pa.string()).to_pylist()]
        return list(column.to_pylist(maps_as_pydicts="strict"))
    except TypeError:
        # A map whose keys are lists: pairs, then.
        return list(column.to_pylist())
    except (ValueError, OverflowError):
        try:
            return list(column.cast(pa.string()).to_pylist())
        except pa.ArrowNotImplementedError:
            raise InputError(f"column {name!r} ({column.type}) cannot be shown: cast it, as in x::VARCHAR") from None


def write_rows(rows: Iterator[dict[str, Any]], form: str, stream: TextIO) -> None:
    """One JSON array if `form` is json, else a JSON object a line."""
    if form != "json":
        for row in rows:
            stream.write(safe_json(row) + "\n")
    else:
        before = "["
        for row in rows:
            stream.write(f"{before}\n{safe_json(row)}")
            before = ","
        stream.write("[]\n" if before == "[" else "\n]\n")
    stream.flush()


def write_csv(reader: "pa.RecordBatchReader", stream: TextIO, *, quote_formulas: bool) -> None:
    """A header and a line a row; lists and structs as JSON; with `quote_formulas`, harmless in a spreadsheet."""
    # To a file or a pipe the text goes as it is; a terminal would obey its control characters.
    terminal = stream.isatty()

    def shown(text: str) -> str:
        if quote_formulas:
            text = _quoted_formula(text)
        return visible(text) if terminal else text

    writer = csv.writer(_Lines(stream if terminal else exact(stream)))
    writer.writerow(map(shown, reader.schema.names))
    for row in plain_rows(reader):
        writer.writerow(None if value is None else shown(_cell(value)) for value in row.values())


class _Lines:
    """Takes rows that end in CR LF, so that the writer quotes a cell with either of them, and ends them with LF."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, row: str) -> int:
        return self._stream.write(row.removesuffix("\r\n") + "\n")


def _quoted_formula(text: str) -> str:
    """`text`, behind an apostrophe if a spreadsheet would take it for a formula.

    >>> [_quoted_formula(text) for text in ("=1+1", "-3", "-x", "a=b")]
    ["'=1+1", '-3', "'-x", 'a=b']
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def _cell(value: Any) -> str:
    """A plain value as text: numbers in full, nested values as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def write_parquet(reader: "pa.RecordBatchReader", path: Path) -> int:
    """Write beside `path` and rename: a reader sees the old file or the whole new one. Returns the number of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    rows = 0
    try:
        with pq.ParquetWriter(temporary, reader.schema, compression="zstd") as writer:
            for batch in reader:
                writer.write_batch(batch)
                rows += batch.num_rows
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except pa.ArrowNotImplementedError as error:
        raise InputError(f"Parquet cannot hold a column of this result: {error}. Cast it, as in x::VARCHAR") from error
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return rows
