"""Advisory locks between processes. The kernel drops a lock when its holder dies, so none goes stale."""

import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from catalog.errors import CatalogLocked

_POLL_SECONDS = 0.02


@contextmanager
def locked(path: Path, *, wait: float) -> Iterator[None]:
    """Hold `path` exclusively, waiting at most `wait` seconds.

    Raises CatalogLocked naming the holder's process and command.
    """
    path.touch()
    with path.open("r+") as file:
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
        json.dump({"pid": os.getpid(), "command": " ".join(sys.argv)[:200]}, file)
        file.flush()
        yield


def holder(path: Path) -> str:
    """Who wrote the lock file last."""
    try:
        said = json.loads(path.read_text())
        return f"process {said['pid']} ({said['command']})"
    except (OSError, ValueError, KeyError):
        return "another process"
