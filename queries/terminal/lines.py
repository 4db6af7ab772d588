"""Prints rows as lines on a terminal, one each, cut at its width, where a table of cells would be unreadable."""

from collections.abc import Mapping, Sequence
from typing import Any

from queries.terminal.output import Output


def show_lines(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    output: Output,
    notable: Sequence[str] = (),
    spare: Sequence[str] = (),
) -> None:
    """Print these columns of the rows as lines on a terminal; elsewhere all of the rows, as `output` says.

    Columns that are `notable` stand there only if some row has more than nothing, or 0, in them. Those that are `spare`
    give way first, in their order, where a terminal is narrow.
    """
    if output.drawn and not output.expanded:
        idle = {name for name in notable if not any(row[name] for row in rows)}
        rows = [{name: row[name] for name in columns if name not in idle} for row in rows]
    output.show(rows, spare)


def aligned(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], width: int) -> str:
    """A heading and a line for each row; numbers stand on the right, "-" for what there is not.

    >>> print(aligned([{"step": "labels", "new": 12, "why": "first run"}], ["step", "new", "why"], 20))
    step    new  why
    labels   12  first …
    """
    from queries.terminal.grid import PLAIN, table
    from queries.terminal.screen import columns_of

    return "\n".join(table(columns_of(rows, columns), width, PLAIN).lines)
