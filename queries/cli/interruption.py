"""Leaves a command that only reads within a second of the first Ctrl-C, whatever Python or a library is doing."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

EXIT_CODE = 130
_PATIENCE_SECONDS = 0.6
at_home = False
"""Whether the command line owns this process, so that it may be ended."""
_reading = False


@contextmanager
def reading() -> Iterator[None]:
    """While a command runs that leaves nothing half done if it is ended.

    Python raises KeyboardInterrupt where it happens to be, and drops it inside a destructor or a callback: then
    the process ends itself after 0.6 s.
    """
    global _reading
    if not at_home or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    _reading = True
    signal.signal(signal.SIGINT, _interrupted)
    yield


def leave(code: int = EXIT_CODE) -> None:
    """End the process now if nothing is left to be done: to unload libraries takes up to half a second."""
    if not _reading:
        return
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _interrupted(number: int, frame: FrameType | None) -> None:
    watch = threading.Timer(_PATIENCE_SECONDS, os._exit, (EXIT_CODE,))
    watch.daemon = True
    watch.start()
    raise KeyboardInterrupt
