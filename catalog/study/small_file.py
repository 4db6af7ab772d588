"""Reads small text files that a study names: regular files alone, whole, and never more than a bound."""

import os
import stat
from pathlib import Path

from catalog.errors import InputError


def read_small(path: str | Path, what: str, most: int) -> bytes:
    """The bytes of a regular file of at most `most` bytes, links followed.

    Raises InputError, which quotes nothing of the content, for what cannot be read, a device, a pipe, a folder, or a
    larger file.
    """
    try:
        # Without O_NONBLOCK, opening a pipe that nobody writes to would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        said = (error.strerror if isinstance(error, OSError) else None) or "not a path"
        raise InputError(f"{what} {path} cannot be read: {said}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InputError(f"{what} {path} cannot be read: it is no regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(most + 1)
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    if len(content) > most:
        raise InputError(f"{what} {path} has more than {most:,} bytes: name a smaller file")
    return content
