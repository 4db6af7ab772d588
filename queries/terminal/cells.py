"""Shows a value as the text of one cell on a terminal: short, on one line, harmless; and cuts text to fit.

Widths are in columns of the terminal: a Chinese character takes two, a combining accent none.
"""

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from rich.cells import cell_len, get_character_cell_size

from queries.terminal.control_characters import visible
from queries.terminal.json_values import plain

LONGEST = 4096
"""Characters of a value that are looked at at all: one of a megabyte is cut before it is measured."""
_DEEPEST = 20
_WHOLE_BELOW = 1e15
_CHARACTERS_A_COLUMN = 4
"""More than that are no text, but accents heaped on one letter."""


def cell(value: Any) -> str:
    """The text of a cell; numbers in 4 digits, integers whole, lists and structs in one line.

    >>> [cell(value) for value in (0.123456, 12.0, 123456.7, None, "a" + chr(10), [1, 0.5, None], {"a": "x"})]
    ['0.1235', '12', '123457', 'NULL', 'a\\\\n', '[1, 0.5, NULL]', '{"a": "x"}']
    """
    if value is None:
        return "NULL"
    if isinstance(value, str):
        # In quotes, since NULL is what a cell without a value shows.
        return '"NULL"' if value == "NULL" else _short(value)
    if isinstance(value, Mapping | list | tuple):
        return _short("".join(_pieces(value)))
    return _short(_scalar(value))


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float | Decimal):
        return number(value)
    if isinstance(value, bytes):
        return base64.b64encode(value[:LONGEST]).decode()
    if isinstance(value, datetime | date | time):
        return str(value)
    return str(plain(value))


def number(value: float | Decimal) -> str:
    """A number in 4 significant digits; what is 1000 or more, or an integer, in whole digits."""
    if isinstance(value, Decimal):
        if value.is_finite() and value == value.to_integral_value():
            return str(int(value))
        value = float(value)
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value == 0:
        return "0"
    if abs(value) < _WHOLE_BELOW and (abs(value) >= 1000 or value == round(value)):
        return f"{value:.0f}"
    return f"{value:.4g}"


def numbers(values: Sequence[Any]) -> list[str]:
    """The cells of a column of numbers: with the same decimals if this leaves each of them 3 significant digits.

    >>> numbers([0.75, 0.12345, None]), numbers([0.75, 0.00012345]), numbers([1.0, 2.0])
    (['0.7500', '0.1235', 'NULL'], ['0.75', '0.0001234'], ['1', '2'])
    """
    finite = [abs(float(v)) for v in values if isinstance(v, float | Decimal) and math.isfinite(v) and v]
    single = [cell(value) for value in values]
    if not finite or max(finite) >= 1000 or max(finite) < 1e-3:
        return single
    decimals = 3 - math.floor(math.log10(max(finite)))
    while decimals and all(_is_exact(value, decimals - 1) for value in finite):
        decimals -= 1
    if any(value * 10**decimals < 100 and not _is_exact(value, decimals) for value in finite):
        return single
    return [
        f"{value:.{decimals}f}" if isinstance(value, float | Decimal) and math.isfinite(value) else text
        for value, text in zip(values, single, strict=True)
    ]


def _is_exact(value: float, decimals: int) -> bool:
    """Whether so many decimals are all that a number has."""
    scaled = value * 10**decimals
    return bool(abs(scaled - round(scaled)) <= 1e-9 * scaled)


def _short(text: str) -> str:
    return visible(text[:LONGEST]) + ("…" if len(text) > LONGEST else "")


def _pieces(value: Any, depth: int = 0) -> Iterator[str]:
    """The text of a nested value, piece by piece, and no more than can be shown."""
    room = LONGEST
    for piece in _all_pieces(value, depth):
        yield piece
        room -= len(piece)
        if room < 0:
            return


def _all_pieces(value: Any, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        yield "…"
    elif isinstance(value, Mapping):
        yield "{"
        for index, (key, item) in enumerate(value.items()):
            yield ", " if index else ""
            yield f"{_quoted(key) if isinstance(key, str) else cell(key)}: "
            yield from _all_pieces(item, depth + 1)
        yield "}"
    elif isinstance(value, list | tuple):
        yield "["
        for index, item in enumerate(value):
            yield ", " if index else ""
            yield from _all_pieces(item, depth + 1)
        yield "]"
    elif isinstance(value, str):
        yield _quoted(value)
    else:
        yield "NULL" if value is None else _scalar(value)


def _quoted(text: str) -> str:
    short = text[: LONGEST + 1].replace("\\", "\\\\").replace('"', '\\"')
    return f'"{short}"'


def fitting(text: str, width: int) -> int:
    """How many of the first characters of `text` fit into `width` columns, accents with their letter."""
    if text.isascii():
        return min(len(text), width)
    used = 0
    for index, character in enumerate(text[: width * _CHARACTERS_A_COLUMN]):
        used += get_character_cell_size(character)
        if used > width:
            return index
    return min(len(text), width * _CHARACTERS_A_COLUMN)


def cut(text: str, width: int) -> str:
    """`text`, which `visible` has been through, in at most `width` columns; what does not fit is an ellipsis.

    >>> cut("matrices", 5), cut("日本語", 5), cut("ab", 2)
    ('matr…', '日本…', 'ab')
    """
    if fitting(text, width) == len(text):
        return text
    return text[: fitting(text, width - 1)] + "…" if width > 0 else ""


def padded(text: str, width: int, *, right: bool = False) -> str:
    """`text` cut to `width` columns and filled up to them, on its left if it stands on the right."""
    text = cut(text, width)
    space = " " * (width - cell_len(text))
    return space + text if right else text + space


def wrapped(text: str, width: int, most: int) -> list[str]:
    """`text` in at most `most` lines of `width` columns, broken at spaces where there are some; the last may be cut.

    >>> wrapped("the words matrix and array", 10, 2)
    ['the words', 'matrix an…']
    """
    lines: list[str] = []
    while len(lines) < most - 1:
        end = fitting(text, width)
        if end == len(text):
            break
        space = text.rfind(" ", 0, end + 1)
        end = space if space > 0 else max(end, 1)
        lines.append(text[:end].rstrip())
        text = text[end:].lstrip(" ")
    return [*lines, cut(text, width)]
