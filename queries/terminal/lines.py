"""Prints rows as lines on a terminal, one each, cut at its width, where a table of cells would be unreadable."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from queries.terminal.control_characters import visible
from queries.terminal.output import Output


def show_lines(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], output: Output) -> None:
    """Print these columns of the rows as lines on a terminal; elsewhere all of the rows, as `output` says."""
    if rows and not output.asked and sys.stdout.isatty():
        click.echo(aligned(rows, columns, shutil.get_terminal_size().columns))
    else:
        output.show(rows)


def aligned(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], width: int) -> str:
    """A heading and a line for each row; numbers stand on the right, "-" for what there is not.

    >>> print(aligned([{"step": "labels", "new": 12, "why": "first run"}], ["step", "new", "why"], 20))
    step    new  why
    labels   12  first …
    """
    shown = [{column: _cell(row[column]) for column in columns} for row in rows]
    widths = {column: max(len(column), *(len(row[column]) for row in shown)) for column in columns}
    numbers = {column for column in columns if all(isinstance(row[column], int | float | None) for row in rows)}
    lines = []
    for row in ({column: column for column in columns}, *shown):
        line = "  ".join(
            row[column].rjust(widths[column]) if column in numbers else row[column].ljust(widths[column])
            for column in columns
        ).rstrip()
        lines.append(line if len(line) <= width else line[: width - 1] + "…")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return visible(", ".join(map(str, value)) if isinstance(value, list) else str(value))
