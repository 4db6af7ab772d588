"""Locks between processes, advisory: the kernel drops a lock when its holder dies, so none goes stale."""

import errno
import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import gethostname
from typing import TextIO

from catalog.errors import CatalogLocked, InputError
from catalog.store.location import without_password

_POLL_SECONDS = 0.005


@contextmanager
def locked(path: Path, *, wait: float) -> Iterator[None]:
    """Hold `path` exclusively, waiting at most `wait` seconds.

    Raises CatalogLocked naming the holder's process and command.
    """
    with _open(path) as file:
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise CatalogLocked(
                        f"{path} is held by {holder(path)}: wait for it, or try again with a longer --wait"
                    ) from None
                time.sleep(_POLL_SECONDS)
        file.seek(0)
        file.truncate()
        command = " ".join(map(without_password, sys.argv))[:200]
        json.dump({"pid": os.getpid(), "host": gethostname(), "command": command}, file)
        file.flush()
        yield


@contextmanager
def shared(path: Path) -> Iterator[Callable[[], bool]]:
    """Hold `path` together with others; what is given tries to become its only holder, and says whether it did.

    It never waits for that, and a holder that failed to become the only one may have lost its share.
    """
    with _open(path) as file:
        fcntl.flock(file, fcntl.LOCK_SH)

        def alone() -> bool:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        yield alone


def _open(path: Path) -> TextIO:
    """The lock file, made if it is not there; never one that a link leads to, which would be overwritten.

    Raises InputError, also where nothing can be written.
    """
    try:
        return open(
            os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666), "r+", encoding="utf-8"
        )
    except OSError as error:
        why = "it is a link" if error.errno == errno.ELOOP else error.strerror
        raise InputError(f"{path} cannot be locked: {why}; nothing was written") from error


def holder(path: Path) -> str:
    """Who wrote the lock file last."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        where = "" if said.get("host", gethostname()) == gethostname() else f" on {said['host']}"
        return f"process {said['pid']}{where} ({said['command']})"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "another process"
