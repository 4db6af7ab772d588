"""Lays out columns of cells for a terminal of a given width: as a table, or a block for each row.

No line is wider than the terminal. A column that has no room is left out from the middle, and named.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len

from queries.terminal.cells import LONGEST, cut, fitting, padded, wrapped
from queries.terminal.control_characters import Ink

NARROWEST = 12
"""Columns are given that much room at least, if the terminal is not narrow itself."""
_BLOCK_NAME_SHARE = 3


@dataclass(frozen=True)
class Column:
    """A column: its name and the text of its cells, neither with a control character, none cut."""

    name: str
    cells: list[str]
    right: bool = False
    """Whether it holds numbers, which stand on the right and are cut last."""
    missing: frozenset[int] = field(default_factory=frozenset)
    """The rows in which it has no value."""


@dataclass(frozen=True)
class Look:
    """What stands between columns, and what under the heading."""

    between: str
    crossing: str | None = None


TABLE = Look(" │ ", "─┼─")
PLAIN = Look("  ")


@dataclass(frozen=True)
class Picture:
    """Lines for a terminal."""

    lines: list[str]
    hidden: list[str]
    """The columns that had no room."""
    cut: bool = False
    """Whether some cell does not show all of its text."""
    blocks: bool = False
    """Whether each row is a block instead of a line."""


def table(columns: Sequence[Column], width: int, look: Look = TABLE, ink: Ink | None = None) -> Picture:
    """The columns side by side; a column of an ellipsis stands where some are left out."""
    ink = ink or Ink(on=False)
    needs = [need(column, width) for column in columns]
    least = [_least(column, size, width) for column, size in zip(columns, needs, strict=True)]
    gap = len(look.between)
    left, right = _kept(least, width, gap)
    shown = [*range(left), *range(len(columns) - right, len(columns))]
    hidden = [columns[index].name for index in range(left, len(columns) - right)]
    room = width - gap * (len(shown) - 1) - (1 + gap if hidden else 0)
    widths = _grown([least[i] for i in shown], [needs[i] for i in shown], room)
    drawn = [columns[index] for index in shown]
    if hidden:
        drawn.insert(left, Column("…", ["…"] * len(columns[0].cells)))
        widths.insert(left, 1)
    lines = [_line([ink.bold(padded(c.name, w, right=c.right)) for c, w in zip(drawn, widths, strict=True)], look, ink)]
    if look.crossing:
        lines.append(ink.dim(look.crossing.join("─" * w for w in widths)))
    for row in range(len(columns[0].cells)):
        pieces = []
        for column, size in zip(drawn, widths, strict=True):
            text = padded(column.cells[row], size, right=column.right)
            pieces.append(ink.dim(text) if row in column.missing or column.name == "…" else text)
        lines.append(_line(pieces, look, ink))
    too_long = any(
        fitting(text, size) < len(text)
        for column, size in zip(drawn, widths, strict=True)
        for text in (column.name, *column.cells)
    )
    return Picture(lines, hidden, bool(hidden) or too_long)


def _line(pieces: Sequence[str], look: Look, ink: Ink) -> str:
    return (look.between if look.crossing is None else ink.dim(look.between)).join(pieces).rstrip()


def blocks(columns: Sequence[Column], width: int, most: int, ink: Ink | None = None) -> Picture:
    """A block for each row: a line for each column, its text wrapped over at most `most` lines."""
    ink = ink or Ink(on=False)
    widest = max(cell_len(cut(column.name, width)) for column in columns)
    names = min(widest, max(width // _BLOCK_NAME_SHARE, 8))
    room = max(width - names - 2, 1)
    count = len(columns[0].cells)
    lines: list[str] = []
    some_cut = False
    for row in range(count):
        heading = f"── {row + 1} of {count} " if count > 1 else ""
        if count > 1:
            lines.append(ink.dim(cut(heading + "─" * max(min(width, 60) - len(heading), 0), width)))
        for column in columns:
            name = wrapped(column.name, names, 100)
            text = wrapped(column.cells[row], room, most)
            # An ellipsis of the data's own is none of ours, but where a long value was cut before.
            own = column.cells[row].endswith("…") and len(column.cells[row]) <= LONGEST
            some_cut |= text[-1].endswith("…") and not own
            for index in range(max(len(name), len(text))):
                begun = padded(name[index] if index < len(name) else "", names)
                value = text[index] if index < len(text) else ""
                lines.append(f"{ink.bold(begun)}  {ink.dim(value) if row in column.missing else value}".rstrip())
    return Picture(lines, [], some_cut, blocks=True)


def listed(names: Sequence[str], width: int, heading: str = "", most: int = 8) -> list[str]:
    """Names with commas between them behind a heading, in at most `most` lines; the rest is counted.

    >>> listed(["a", "bb", "c"], 20), listed(["a", "bb", "c"], 16, "left out:", 1)
    (['a, bb, c'], ['left out: 3 more'])
    """
    lines = [cut(heading, width)]
    for index, name in enumerate(names):
        left = len(names) - index
        piece = cut(name, max(width - 1, 1)) + ("," if left > 1 else "")
        line = f"{lines[-1]} {piece}".lstrip()
        after = f" {left - 1:,} more" if left > 1 else ""
        if cell_len(line) <= width and (len(lines) < most or cell_len(line + after) <= width):
            lines[-1] = line
        elif len(lines) < most:
            lines.append(piece)
        else:
            lines[-1] = cut(f"{lines[-1]} {left:,} more".lstrip(), width)
            break
    return lines


def need(column: Column, width: int) -> int:
    """How wide a column is that cuts nothing, unless it is wider than a terminal of `width` columns."""
    return max(cell_len(cut(text, width)) for text in (column.name, *column.cells))


def _least(column: Column, size: int, width: int) -> int:
    """What a column must have to be worth showing: numbers all of their digits, text a beginning."""
    floor = NARROWEST if width >= 60 else 8 if width >= 40 else 4
    heading = min(cell_len(cut(column.name, width)), floor + 8)
    if column.right:
        return min(size, max(heading, *(cell_len(cut(text, width)) for text in column.cells), 1))
    return min(size, max(heading, floor))


def _kept(least: Sequence[int], width: int, gap: int) -> tuple[int, int]:
    """How many columns stay on the left and on the right, so that their least widths fit."""
    if sum(least) + gap * (len(least) - 1) <= width:
        return len(least), 0
    left, right, used = 1, 0, least[0] + gap + 1
    for turn in range(1, len(least)):
        index = left if turn % 2 == 0 else len(least) - 1 - right
        used += least[index] + gap
        if used > width or left + right == len(least) - 1:
            break
        left, right = (left + 1, right) if turn % 2 == 0 else (left, right + 1)
    return left, right


def _grown(least: Sequence[int], needs: Sequence[int], room: int) -> list[int]:
    """Widths between the least and what is needed, so that the room is used; the least wanting are served first."""
    widths = list(least)
    spare = room - sum(least)
    if spare < 0:
        # Only where a single column stays, which is then cut.
        return [max(min(width, room), 1) for width in widths]
    order = sorted(range(len(widths)), key=lambda index: needs[index] - least[index])
    for place, index in enumerate(order):
        given = min(needs[index] - least[index], spare // (len(order) - place))
        widths[index] += given
        spare -= given
    return widths
