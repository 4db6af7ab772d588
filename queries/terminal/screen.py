"""Shows a result on a terminal: the first rows as a table that fits it, or as blocks, and what is left out.

A query's rows are looked at up to the limit, then only counted, and not for long.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from queries.terminal.cells import LONGEST, cell, numbers, wrapped
from queries.terminal.control_characters import Ink, exact, is_coloured, visible
from queries.terminal.grid import NARROWEST, PLAIN, TABLE, Column, Look, Picture, blocks, listed, need, table

if TYPE_CHECKING:
    import pyarrow as pa

ROWS, PAGED_ROWS = 200, 10_000
_FEW = 10
"""Below that many rows, what is too wide for a table is shown in blocks."""
_SHORT = 24
"""A text of ours that is no longer than that is shown whole, if it can be."""
_SAID_FROM = 10
_ROWS_A_BLOCK = 10
"""A block takes about as many lines as that many rows of a table."""
_BLOCK_LINES, _ASKED_BLOCK_LINES = 4, 40
_NARROWEST_TERMINAL = 20
_COUNTING_SECONDS = 0.5
_BLOCKS = "too wide for a table here: a block for each row"
_LARGE_BYTES = 1 << 20
_LIST_ITEMS = LONGEST // 2
"""An item of a list takes three characters at least."""


@dataclass(frozen=True)
class Way:
    """How to show columns on a terminal."""

    width: int
    ink: Ink
    look: Look = TABLE
    expanded: bool = False
    """A block for each row, as was asked for."""


def show_table(result: "pa.RecordBatchReader | pa.Table", stream: TextIO, *, expanded: bool, pager: bool) -> None:
    """Show the result of a query. Raises what its rows raise when they are read."""
    from queries.terminal.exports import stream_of

    reader = stream_of(result)
    limit = (PAGED_ROWS if pager else ROWS) // (_ROWS_A_BLOCK if expanded else 1)
    taken, count = _first(reader, limit)
    fields = enumerate(reader.schema)
    columns = [arrow_column(field.name, field.type, [batch[i] for batch in taken]) for i, field in fields]
    way = _way(stream, TABLE, expanded=expanded)
    picture = shown(columns, way)
    with _writer(stream, pager=pager) as out:
        _write(out, [*picture.lines, *_left_out(picture.hidden, way)])
        if count > limit:
            # A person reads meanwhile.
            out.flush()
        said = _said(limit, *_count(reader, count)) if count > limit else _said(limit, count)
        if picture.cut and not picture.hidden and count < _FEW:
            said = _cut(expanded=expanded)
        if picture.blocks and not expanded and count > 1:
            said = f"{_BLOCKS}{'; ' * bool(said)}{said}"
        _write(out, [way.ink.dim(line) for line in wrapped(said, way.width, 9) if line])
    stream.flush()


def show_lines(
    rows: Sequence[Mapping[str, Any]], stream: TextIO, *, expanded: bool, pager: bool, spare: Sequence[str] = ()
) -> None:
    """Show rows of ours as plain lines; "-" stands where there is nothing. `spare` columns give way first."""

    def picture(width: int, ink: Ink) -> list[str]:
        if not rows:
            return [ink.dim("nothing to show")]
        way = Way(width, ink, PLAIN, expanded)
        columns = columns_of(rows, list(dict.fromkeys(name for row in rows for name in row)))
        columns, gone = roomy(columns, () if expanded else spare, way)
        found = shown(columns, way)
        left_out = _left_out([*found.hidden, *gone], way)
        hint = (
            [] if left_out or not found.cut else [ink.dim(line) for line in wrapped(_cut(expanded=expanded), width, 9)]
        )
        return [*found.lines, *left_out, *hint]

    draw(picture, stream, pager=pager)


def draw(picture: Callable[[int, Ink], list[str]], stream: TextIO, *, pager: bool) -> None:
    """Write what `picture` makes for this terminal's width."""
    way = _way(stream, PLAIN, expanded=False)
    lines = picture(way.width, way.ink)
    with _writer(stream, pager=pager) as out:
        _write(out, lines)
    stream.flush()


def roomy(columns: Sequence[Column], spare: Sequence[str], way: Way) -> tuple[list[Column], list[str]]:
    """The columns without those of the spare ones that must go for the others to have room; and the names of these."""
    kept, gone = list(columns), []
    for name in spare:
        if wanted([column for column in kept if column.name not in spare], kept, way) <= way.width:
            break
        gone += [column.name for column in kept if column.name == name]
        kept = [column for column in kept if column.name != name]
    return kept, gone


def wanted(important: Sequence[Column], columns: Sequence[Column], way: Way) -> int:
    """How wide the columns are if the important ones show all of short texts, and the others a beginning."""
    sizes = [min(need(column, way.width), _SHORT) if column in important else NARROWEST for column in columns]
    return sum(sizes) + len(way.look.between) * (len(columns) - 1)


def columns_of(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Column]:
    """These columns of rows of ours: lists with commas, "-" for what there is not, numbers on the right."""
    columns = []
    for name in names:
        values = [row.get(name) for row in rows]
        missing = frozenset(index for index, value in enumerate(values) if value is None)
        is_number = all(isinstance(value, int | float | None) and not isinstance(value, bool) for value in values)
        texts = numbers(values) if is_number else [_own_cell(value) for value in values]
        cells = ["-" if index in missing else text for index, text in enumerate(texts)]
        columns.append(Column(visible(name), cells, is_number and len(missing) < len(values), missing))
    return columns


def _own_cell(value: Any) -> str:
    return ", ".join(map(cell, value)) if isinstance(value, list | tuple) else cell(value)


def shown(columns: Sequence[Column], way: Way) -> Picture:
    """The columns as a table if they fit, or are of many rows; else as blocks.

    A table fits if each of its columns has room; one of a single row, if it shows all of it.
    """
    rows = len(columns[0].cells) if columns else 0
    if not columns or (way.expanded and not rows):
        return Picture([], [])
    if way.expanded:
        return blocks(columns, way.width, _ASKED_BLOCK_LINES, way.ink)
    picture = table(columns, way.width, way.look, way.ink)
    if (picture.hidden and 0 < rows < _FEW) or (picture.cut and rows == 1):
        return blocks(columns, way.width, _BLOCK_LINES, way.ink)
    return picture


def terminal_width() -> int:
    """Columns of the terminal."""
    return max(shutil.get_terminal_size().columns, _NARROWEST_TERMINAL)


def _way(stream: TextIO, look: Look, *, expanded: bool) -> Way:
    return Way(terminal_width(), Ink(on=is_coloured(stream)), look, expanded)


def _writer(stream: TextIO, *, pager: bool) -> Any:
    from queries.terminal.pager import paged

    return paged(exact(stream), wanted=pager)


def _write(out: TextIO, lines: Sequence[str]) -> None:
    out.write("".join(f"{line}\n" for line in lines))


def _left_out(hidden: Sequence[str], way: Way) -> list[str]:
    if not hidden:
        return []
    heading = f"{len(hidden):,} column{'s' * (len(hidden) > 1)} not shown (-x shows all):"
    return [way.ink.dim(line) for line in listed(hidden, way.width, heading)]


def _cut(*, expanded: bool) -> str:
    """Where the rest of a cell that is cut can be read."""
    return f"what ends in … is cut: {'--json gives all' if expanded else '-x shows more'} of it"


def _said(limit: int, count: int, whole: bool = True) -> str:
    """How many rows there are, where this cannot be seen."""
    if count > limit:
        total = f"{count:,}" if whole else f"more than {count:,}"
        return f"{limit:,} of {total} rows shown; --json, --csv and --parquet FILE give all"
    return f"{count:,} rows" if count >= _SAID_FROM or not count else ""


def _first(reader: "pa.RecordBatchReader", limit: int) -> "tuple[list[pa.RecordBatch], int]":
    """The first batches, cut to `limit` rows, and how many rows were read: more than that, if there are more."""
    taken, count = [], 0
    for batch in reader:
        if count < limit and batch.num_rows:
            taken.append(batch.slice(0, limit - count))
        count += batch.num_rows
        if count > limit:
            break
    return taken, count


def _count(reader: "pa.RecordBatchReader", count: int) -> tuple[int, bool]:
    """How many rows there are, and whether these are all: counting ends after half a second."""
    end = time.monotonic() + _COUNTING_SECONDS
    for batch in reader:
        count += batch.num_rows
        if time.monotonic() > end:
            return count, False
    return count, True


def arrow_column(name: str, kind: "pa.DataType", arrays: "list[pa.Array]") -> Column:
    """A column of a query's rows: numbers on the right, each value as one line without a control character."""
    import pyarrow as pa

    from queries.terminal.exports import python_values

    values: list[Any] = []
    for array in arrays:
        values += python_values(name, _clipped(array))
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    cells = numbers(values) if is_number else [cell(value) for value in values]
    missing = frozenset(index for index, value in enumerate(values) if value is None)
    return Column(visible(name), cells, is_number, missing)


def _clipped(array: "pa.Array") -> "pa.Array":
    """Large values without what will not be shown of them, which need not become Python's objects."""
    import pyarrow as pa

    if array.nbytes < _LARGE_BYTES:
        return array
    import pyarrow.compute as pc

    kind = array.type
    # What cannot be sliced becomes Python's objects whole, and is cut then.
    with suppress(pa.ArrowNotImplementedError):
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return pc.utf8_slice_codeunits(array, 0, LONGEST + 1)
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return pc.binary_slice(array, 0, LONGEST + 1)
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            return pc.list_slice(array, 0, _LIST_ITEMS)
    return array
