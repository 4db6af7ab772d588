"""The rows of one query in Python: as dicts, as an Arrow table, as a frame of pandas or polars, as text and HTML.

Text in the rows is data of somebody else's: what a terminal would obey is spelled out, and HTML is escaped.
"""

import html
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from catalog.errors import InputError
from queries.terminal.cells import cut
from queries.terminal.grid import PLAIN, Column, Picture, listed, table
from queries.terminal.screen import arrow_column, terminal_width

if TYPE_CHECKING:
    import pyarrow as pa

_SHOWN, _SHOWN_HTML = 10, 50
_WIDEST_HTML = 500
"""Columns of a cell that a page shows."""


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

    def __init__(self, rows: "pa.Table"):
        self._table = rows.rename_columns(_apart(rows.column_names))

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
        picture = table(self._shown(_SHOWN), terminal_width(), PLAIN) if self.columns else Picture([], [])
        lines = list(picture.lines)
        if len(self) > _SHOWN:
            lines.append(f"... {len(self):,} rows")
        if picture.hidden:
            lines += listed(picture.hidden, terminal_width(), f"{len(picture.hidden)} columns not shown:")
        if not len(self):
            lines.append("(no rows)")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        columns = self._shown(_SHOWN_HTML)
        align = [' style="text-align: right"' if column.right else "" for column in columns]
        rows = zip(*([cut(text, _WIDEST_HTML) for text in column.cells] for column in columns), strict=True)
        head = _html_row("th", [column.name for column in columns], align)
        lines = ["<table>", f"<thead>{head}</thead>", "<tbody>"]
        lines += [_html_row("td", row, align) for row in rows]
        lines += ["</tbody>", "</table>"]
        if len(self) > _SHOWN_HTML:
            lines.append(f"<p>{_SHOWN_HTML} of {len(self):,} rows</p>")
        return "\n".join(lines)

    def _shown(self, rows: int) -> list[Column]:
        head = self._table.slice(0, rows)
        return [arrow_column(field.name, field.type, head.column(i).chunks) for i, field in enumerate(head.schema)]


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


def _html_row(tag: str, cells: Sequence[str], align: list[str]) -> str:
    inside = "".join(f"<{tag}{style}>{html.escape(cell)}</{tag}>" for cell, style in zip(cells, align, strict=True))
    return f"<tr>{inside}</tr>"
