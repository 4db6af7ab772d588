"""Spells out control characters of data, so that none of it steers a terminal: all text leaves through here.

While a command runs, standard output and error are `Guarded` streams: whatever is written to them, by a command, by
click's usage errors, by warnings or by a library's log, has its control characters spelled out. What must arrive
exactly (CSV in a pipe) and what carries colours of our own (`queries.terminal.console`) goes through `exact`.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from catalog.errors import InputError

# C0, DEL and C1 controls; what reorders text or cannot be seen (Unicode's format characters and those that it calls
# ignorable by default); halves of surrogate pairs; tags and variation selectors, which hide whole messages.
_RANGES = (
    "\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"
)
HOSTILE = re.compile(f"[{_RANGES}]")
_IN_LINES = re.compile(f"(?![\n\t])[{_RANGES}]")
_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
_HALF = re.compile("[\ud800-\udfff]")


def visible(text: str) -> str:
    """`text` on one line, with each character that a terminal would obey, or nobody could see, spelled out.

    >>> visible("a" + chr(27) + "[2J" + chr(10) + chr(0x202E) + "b")
    'a\\\\x1b[2J\\\\n\\\\u202eb'
    """
    return HOSTILE.sub(_spelled, text)


def readable(text: str) -> str:
    """As `visible`, but newlines and tabs stay: for text that is laid out in lines."""
    return _IN_LINES.sub(_spelled, text)


def read_input() -> str:
    """All of standard input. Raises InputError if it is closed or not UTF-8."""
    if sys.stdin is None:
        raise InputError("standard input is closed: give the text as an argument instead of -")
    try:
        text = sys.stdin.read()
    except UnicodeDecodeError as error:
        raise InputError(f"standard input is not UTF-8 at byte {error.start}") from error
    half = _HALF.search(text)
    if half:
        raise InputError(f"standard input is not UTF-8 at character {half.start()}")
    return text


def is_coloured(stream: TextIO) -> bool:
    """Whether bold and dim text may go there: a terminal that knows them, of a person who did not set NO_COLOR."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") not in ("dumb", "unknown")


class Ink:
    """Bold and dim, which are readable on light and dark backgrounds alike, where `on`; else the text as it is."""

    def __init__(self, *, on: bool) -> None:
        self.on = on

    def bold(self, text: str) -> str:
        """For headings."""
        return f"\x1b[1m{text}\x1b[0m" if self.on and text else text

    def dim(self, text: str) -> str:
        """For what is no data."""
        return f"\x1b[2m{text}\x1b[0m" if self.on and text else text


class Exact:
    """A standard stream that takes text as it is. One that cannot be written is an error, or, if `lossy`, silent.

    Standard error is lossy: whoever closed it does not want to hear, and the work goes on.
    """

    def __init__(self, stream: TextIO | None, name: str, *, lossy: bool = False) -> None:
        self.stream, self.name, self.lossy = stream, name, lossy

    def write(self, text: str) -> int:
        """Write `text`. Raises InputError if the stream is closed or full, BrokenPipeError if its reader left."""
        if not isinstance(text, str):
            raise TypeError(f"text is written to {self.name}, not {type(text).__name__}")
        with self._failing():
            if self.stream is None:
                raise OSError("it is closed")
            self.stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hand on what was written. Raises as `write`."""
        with self._failing():
            if self.stream is not None:
                self.stream.flush()

    def isatty(self) -> bool:
        """Whether a person looks at it."""
        return self.stream is not None and self.stream.isatty()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            if not self.lossy:
                raise
        except (OSError, ValueError) as error:
            if not self.lossy:
                reason = getattr(error, "strerror", None) or error
                raise InputError(f"{self.name} cannot be written: {reason}") from error

    def __getattr__(self, name: str) -> Any:
        # Not `buffer`: click and others would write past this stream.
        known = {"encoding": "utf-8", "errors": "strict", "closed": False}
        if name == "buffer" or (self.stream is None and name not in known):
            raise AttributeError(name)
        return known[name] if self.stream is None else getattr(self.stream, name)


class Guarded(Exact):
    """A standard stream on which no character of data can steer a terminal; `exact` is the stream below."""

    def __init__(self, stream: TextIO | None, name: str, *, lossy: bool = False) -> None:
        super().__init__(stream, name, lossy=lossy)
        self.exact = Exact(stream, name, lossy=lossy)

    def write(self, text: str) -> int:
        """Write `text` with its control characters spelled out, newlines and tabs apart. Raises as `Exact.write`."""
        return super().write(readable(text) if isinstance(text, str) else text)


def exact(stream: TextIO) -> TextIO:
    """The stream below a guarded one, for text that is harmless, or that nobody reads on a terminal."""
    return cast(TextIO, stream.exact) if isinstance(stream, Guarded) else stream


@contextmanager
def guarded() -> Iterator[None]:
    """While it is open, standard output and error are guarded; both write UTF-8, whatever the locale says."""
    before = sys.stdout, sys.stderr
    if None in (sys.stdin, *before):
        _fill_descriptors()
    for stream in before:
        with suppress(AttributeError, OSError, ValueError):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    sys.stdout = cast(TextIO, _guarded(before[0], "standard output", lossy=False))
    sys.stderr = cast(TextIO, _guarded(before[1], "standard error", lossy=True))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in before:
            _flush_or_forget(stream)


def _guarded(stream: TextIO | None, name: str, *, lossy: bool) -> object:
    return stream if isinstance(stream, Guarded) else Guarded(stream, name, lossy=lossy)


def _fill_descriptors() -> None:
    """Keep 0, 1 and 2 from becoming files of the catalog, which a library's message would then be written into."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)


def _flush_or_forget(stream: TextIO | None) -> None:
    """Drop what cannot be written: it was said already, and Python would say it again while it ends."""
    try:
        if stream is not None:
            stream.flush()
    except (OSError, ValueError, InputError):
        with suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # type: ignore[union-attr]


def _spelled(match: re.Match[str]) -> str:
    code = ord(match[0])
    long = f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return _SHORT.get(match[0], long)
