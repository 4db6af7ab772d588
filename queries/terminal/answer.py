"""The rows of one query in Python: as dicts, as an Arrow table, as a frame of pandas or polars, as text and HTML.

Text in the rows is data of somebody else's: what a terminal would obey is spelled out, and HTML is escaped.
"""

import html
import shutil
from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from catalog.errors import InputError
from queries.terminal.control_characters import visible
from queries.terminal.output import plain, safe_json

if TYPE_CHECKING:
    import pyarrow as pa

_SHOWN, _SHOWN_HTML = 10, 50
_WIDEST, _WIDEST_HTML = 60, 500
"""Characters of a cell that are shown."""


class Result:
    """Rows that are all here, in the order that the query gave them.

    >>> found = cat.sql("SELECT feature, width FROM features JOIN saes USING (sae) ORDER BY feature LIMIT 2")
    >>> len(found), found.columns
    (2, ['feature', 'width'])
    >>> found.rows()
    [{'feature': 0, 'width': 256}, {'feature': 1, 'width': 256}]
    >>> [row["feature"] for row in found]
    [0, 1]
    >>> found
    feature  width
          0    256
          1    256
    """

    def __init__(self, table: "pa.Table"):
        self._table = table.rename_columns(_apart(table.column_names))

    @property
    def columns(self) -> list[str]:
        """The names of the columns; of two with one name the second is called `name_1`."""
        return list(self._table.column_names)

    def arrow(self) -> "pa.Table":
        """The rows as an Arrow table.

        >>> cat.sql("SELECT 1 AS one").arrow().num_rows
        1
        """
        return self._table

    def rows(self) -> list[dict[str, Any]]:
        """The rows as dicts.

        >>> cat.sql("SELECT 1 AS one, 'a' AS letter").rows()
        [{'one': 1, 'letter': 'a'}]
        """
        return list(self._table.to_pylist())

    to_pylist = rows

    def df(self) -> Any:
        """The rows as a pandas DataFrame. Raises InputError if pandas is not installed."""
        _needs("pandas", "df")
        return self._table.to_pandas()

    def pl(self) -> Any:
        """The rows as a polars DataFrame. Raises InputError if polars is not installed."""
        return _needs("polars", "pl").from_arrow(self._table)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._table.to_batches():
            yield from batch.to_pylist()

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """For whoever reads Arrow's stream: `duckdb`, `polars.DataFrame(result)`, `pyarrow.table(result)`."""
        return self._table.__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        shown = self._cells(_SHOWN, _WIDEST)
        right = self._numbers()
        widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
        kept, left_out = _fitting(widths, shutil.get_terminal_size().columns)
        lines = []
        for row in shown:
            cells = [row[i].rjust(widths[i]) if right[i] else row[i].ljust(widths[i]) for i in kept]
            if left_out:
                cells.insert((len(kept) + 1) // 2, "…")
            lines.append("  ".join(cells).rstrip())
        if len(self) > _SHOWN:
            lines.append(f"... {len(self):,} rows")
        if left_out:
            lines.append(f"{len(left_out)} columns not shown: {', '.join(shown[0][i] for i in left_out)}")
        if not len(self):
            lines.append("(no rows)")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head, *body = self._cells(_SHOWN_HTML, _WIDEST_HTML)
        align = [' style="text-align: right"' if number else "" for number in self._numbers()]
        lines = ["<table>", f"<thead>{_html_row('th', head, align)}</thead>", "<tbody>"]
        lines += [_html_row("td", row, align) for row in body]
        lines += ["</tbody>", "</table>"]
        if len(self) > _SHOWN_HTML:
            lines.append(f"<p>{_SHOWN_HTML} of {len(self):,} rows</p>")
        return "\n".join(lines)

    def _cells(self, rows: int, widest: int) -> list[list[str]]:
        """The names, then the first rows, as text on one line each, none longer than `widest`."""
        found = [[_cut(visible(name), widest) for name in self.columns]]
        for row in self._table.slice(0, rows).to_pylist():
            found.append([_cut(_text(value, widest), widest) for value in row.values()])
        return found

    def _numbers(self) -> list[bool]:
        import pyarrow as pa

        kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
        return [any(kind(field.type) for kind in kinds) for field in self._table.schema]


def _apart(names: list[str]) -> list[str]:
    """Names that differ from each other: a dict would keep one of two columns.

    >>> _apart(["a", "a", "b"])
    ['a', 'a_1', 'b']
    """
    found: list[str] = []
    for name in names:
        unique, copy = name, 1
        while unique in found:
            unique, copy = f"{name}_{copy}", copy + 1
        found.append(unique)
    return found


def _needs(package: str, method: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise InputError(
            f"{method}() needs {package}: pip install {package}; rows() and arrow() need nothing"
        ) from error


def _text(value: Any, widest: int) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str):
        # A cell may hold a whole document, of which little is shown.
        return visible(value[: widest + 1])
    simple = plain(value)
    return visible(simple) if isinstance(simple, str) else safe_json(simple)


def _cut(text: str, widest: int) -> str:
    return text if len(text) <= widest else text[: widest - 1] + "…"


def _fitting(widths: list[int], room: int) -> tuple[list[int], list[int]]:
    """The columns that are shown, and those of the middle that are left out, so that a line has `room` characters."""
    kept = list(range(len(widths)))
    left_out: list[int] = []
    while len(kept) > 1 and sum(widths[i] + 2 for i in kept) + (1 if left_out else -2) > room:
        left_out.append(kept.pop(len(kept) // 2))
    return kept, sorted(left_out)


def _html_row(tag: str, cells: list[str], align: list[str]) -> str:
    inside = "".join(f"<{tag}{style}>{html.escape(cell)}</{tag}>" for cell, style in zip(cells, align, strict=True))
    return f"<tr>{inside}</tr>"
