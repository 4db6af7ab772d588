"""Wraps Rich's console: text is never read as markup, and no control character of data gets through."""

import errno
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from queries.terminal.control_characters import exact, readable


class SafeConsole(Console):
    """A console whose only escape sequences are its own: colours, and the movements of progress bars."""

    def __init__(self, *, stderr: bool = False, file: Any = None, **options: Any) -> None:
        stream = file or exact(sys.stderr if stderr else sys.stdout)
        if os.environ.get("NO_COLOR"):
            # Rich leaves bold and dim text as it is.
            options.setdefault("color_system", None)
        super().__init__(file=stream, markup=False, emoji=False, highlight=False, **options)

    def on_broken_pipe(self) -> None:
        """Leave it to the command line what follows when the reader has left; rich would end the program."""
        raise BrokenPipeError(errno.EPIPE, "the reader left")

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What is printed, piece by piece; see rich."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(readable(segment.text), segment.style)


class Lines:
    """A text stream that hands on whole lines: what others write to standard error while bars are drawn."""

    def __init__(self, say: Callable[[str], None], encoding: str = "utf-8") -> None:
        self._say, self._begun, self.encoding, self.errors = say, "", encoding, "backslashreplace"

    def write(self, text: str) -> int:
        """Take `text`; what ends with a newline is said."""
        if not isinstance(text, str):
            raise TypeError(f"text is written here, not {type(text).__name__}")
        *whole, self._begun = (self._begun + text).split("\n")
        for line in whole:
            self._say(line)
        return len(text)

    def flush(self) -> None:
        """What was begun waits for its end."""

    def isatty(self) -> bool:
        """A library that would draw here is told that it cannot."""
        return False

    def close(self) -> None:
        """Say what has no newline at its end."""
        if self._begun:
            self._say(self._begun)
            self._begun = ""
