"""Prints a result: a table on a terminal, else NDJSON; --json, --csv, --parquet FILE.

Text from corpora and labels from language models are hostile: no control character and no markup of theirs
reaches a terminal. Results are streamed; only a terminal's table is cut, and says so.
"""

import base64
import csv
import io
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO, TypeAlias, TypeVar

import click

from catalog.errors import InputError
from queries.terminal.control_characters import HOSTILE, exact, visible

if TYPE_CHECKING:
    import pyarrow as pa

    Result: TypeAlias = pa.RecordBatchReader | pa.Table | Sequence[Mapping[str, Any]]

TERMINAL_ROWS = 500
_T = TypeVar("_T")

# What a spreadsheet takes for a formula, also after blanks and in full width; a number with a sign is none.
_FORMULA = re.compile(r"[\t\r\n]|\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Output:
    """Where a result goes, as the options of a command say."""

    form: Literal["auto", "json", "csv", "parquet"] = "auto"
    path: Path | None = None
    quote_formulas: bool = False
    """In CSV, text that a spreadsheet would run begins with an apostrophe."""

    @property
    def asked(self) -> bool:
        """Whether a form was asked for by an option."""
        return self.form != "auto"

    def show(self, result: "Result") -> None:
        """Write `result` to standard output, or to the Parquet file. Raises InputError if the file cannot be made."""
        if isinstance(result, Sequence) and (self.form == "json" or (self.form == "auto" and not sys.stdout.isatty())):
            # Objects stay objects: as Arrow structs, all of them would get all of their keys.
            _write_rows(({name: plain(value) for name, value in row.items()} for row in result), self.form, _stdout())
            return
        reader = _reader(result)
        if self.form == "parquet" and self.path:
            rows = _write_parquet(reader, self.path)
            click.echo(f"{rows:,} rows written to {self.path}", err=True)
            return
        stream = _stdout()
        if self.form == "csv":
            _write_csv(reader, stream, quote_formulas=self.quote_formulas)
        elif self.form == "auto" and sys.stdout.isatty():
            _write_table(reader, stream)
        else:
            _write_rows(_rows(reader), self.form, stream)
        stream.flush()


def output_options(command: Callable[..., _T]) -> Callable[..., _T]:
    """Give a click command --json, --csv, --quote-formulas and --parquet FILE, as one argument `output: Output`."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON array of objects.")
    @click.option("--csv", "as_csv", is_flag=True, help="Print CSV with a header; lists and structs as JSON.")
    @click.option(
        "--quote-formulas",
        is_flag=True,
        help="With --csv, for spreadsheets: put ' before text that begins with =, +, -, @, tab or CR; not numbers.",
    )
    @click.option(
        "--parquet",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Write a Parquet file, whole or not at all.",
    )
    @wraps(command)
    def with_output(
        *args: Any, as_json: bool, as_csv: bool, quote_formulas: bool, parquet: Path | None, **kwargs: Any
    ) -> _T:
        if as_json + as_csv + (parquet is not None) > 1:
            raise click.UsageError("--json, --csv and --parquet exclude each other: give one of them")
        if quote_formulas and not as_csv:
            raise click.UsageError("--quote-formulas is about --csv: give both")
        form: Literal["auto", "json", "csv", "parquet"] = (
            "json" if as_json else "csv" if as_csv else "parquet" if parquet else "auto"
        )
        return command(*args, output=Output(form, parquet, quote_formulas), **kwargs)

    return with_output


def plain(value: Any) -> Any:
    """A value as JSON holds it: NaN and infinities null, whole decimals exact, dates in ISO 8601, blobs in base64."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return _number(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return str(value)
    if isinstance(value, Mapping):
        return {_key(key): plain(item) for key, item in value.items()}
    if type(value).__name__ == "MonthDayNano":
        return f"P{value.months}M{value.days}DT{value.nanoseconds / 1e9:.9g}S"
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value)


def _number(value: Decimal) -> int | float | str | None:
    """An integer if it is one, a float if that keeps every digit, else text."""
    if not value.is_finite():
        return None
    if value == value.to_integral_value():
        return int(value)
    near = float(value)
    return near if Decimal(repr(near)) == value else str(value)


def _key(key: object) -> str:
    """JSON's keys are text; a map's may be anything."""
    simple = plain(key)
    return simple if isinstance(simple, str) else json.dumps(simple, ensure_ascii=False)


def _json_spelled(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1]


def safe_json(value: Any) -> str:
    """JSON that is safe on a terminal: what is hostile is escaped, which means the same to a JSON reader."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return HOSTILE.sub(_json_spelled, text)


def _stdout() -> TextIO:
    """Standard output as UTF-8 whatever the locale says, lone surrogates spelled out."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    return sys.stdout


def _reader(result: "Result") -> "pa.RecordBatchReader":
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


def _rows(reader: "pa.RecordBatchReader") -> Iterator[dict[str, Any]]:
    """Rows as plain values, one batch in memory at a time."""
    names = reader.schema.names
    for batch in reader:
        columns = [_values(name, column) for name, column in zip(names, batch.columns, strict=True)]
        for values in zip(*columns, strict=True):
            yield {name: plain(value) for name, value in zip(names, values, strict=True)}


def _values(name: str, column: "pa.Array") -> list[Any]:
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


def _write_rows(rows: Iterator[dict[str, Any]], form: str, stream: TextIO) -> None:
    """One JSON array, or a JSON object a line."""
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


def _write_csv(reader: "pa.RecordBatchReader", stream: TextIO, *, quote_formulas: bool) -> None:
    # To a file or a pipe the text goes as it is; a terminal would obey its control characters.
    terminal = stream.isatty()

    def shown(text: str) -> str:
        if quote_formulas:
            text = _quoted_formula(text)
        return visible(text) if terminal else text

    writer = csv.writer(_Lines(stream if terminal else exact(stream)))
    writer.writerow(map(shown, reader.schema.names))
    for row in _rows(reader):
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


def _write_table(reader: "pa.RecordBatchReader", stream: TextIO) -> None:
    import pyarrow as pa
    from rich.table import Table
    from rich.text import Text

    from queries.terminal.console import SafeConsole

    table = Table()
    for field in reader.schema:
        number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_decimal(field.type)
        table.add_column(Text(visible(field.name)), justify="right" if number else "left", overflow="fold")
    cut = False
    for index, row in enumerate(_rows(reader)):
        if index == TERMINAL_ROWS:
            cut = True
            break
        # Text objects, because a string would be read as rich's markup.
        table.add_row(*(Text("NULL", style="dim") if v is None else Text(visible(_cell(v))) for v in row.values()))
    SafeConsole(file=exact(stream)).print(table)
    if cut:
        click.echo(f"only the first {TERMINAL_ROWS} rows are shown: use --json, --csv or --parquet FILE", err=True)


def _cell(value: Any) -> str:
    """A plain value as text: numbers in full, nested values as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _write_parquet(reader: "pa.RecordBatchReader", path: Path) -> int:
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
