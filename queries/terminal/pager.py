"""Sends output to a pager, where the person asked for one: $PAGER, else less."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO, cast

import click


@contextmanager
def paged(stream: TextIO, *, wanted: bool) -> Iterator[TextIO]:
    """Where to write: the pager's input if it is wanted and `stream` is a terminal, else `stream`.

    A pager that cannot be started is said, and its text goes to `stream`. One that is left early is no error.
    """
    process = _started() if wanted and stream.isatty() else None
    if process is None or process.stdin is None:
        yield stream
        return
    try:
        with suppress(BrokenPipeError):
            yield cast(TextIO, process.stdin)
    finally:
        with suppress(OSError):
            process.stdin.close()
        _wait(process)


def _started() -> "subprocess.Popen[str] | None":
    asked = os.environ.get("PAGER") or "less"
    try:
        words = shlex.split(asked)
    except ValueError:
        words = []
    if not words or shutil.which(words[0]) is None:
        click.echo(f"the pager {asked!r} cannot be started: set PAGER to the command of one", err=True)
        return None
    sys.stdout.flush()
    # Colours of ours are drawn (R), lines are not broken (S), and what fits on a screen stays on it (F, X).
    environment = {**os.environ, "LESS": os.environ.get("LESS") or "FRSX", "LESSCHARSET": "utf-8"}
    try:
        return subprocess.Popen(words, stdin=subprocess.PIPE, text=True, encoding="utf-8", env=environment)
    except OSError as error:
        click.echo(f"the pager {asked!r} cannot be started: {error.strerror or error}", err=True)
        return None


def _wait(process: "subprocess.Popen[str]") -> None:
    """Ctrl-C is the pager's as long as it runs."""
    while True:
        try:
            process.wait()
            return
        except KeyboardInterrupt:
            continue
