"""Keeps what is made once for all catalogs of this machine's user: folders that appear whole or not at all.

`SAEQL_CACHE`, else `$XDG_CACHE_HOME/saeql` or `~/.cache/saeql`. A folder's name says what it was made from.
"""

import errno
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from catalog.errors import InputError
from catalog.store.locks import locked

_WAIT = 3600.0
"""Seconds for another process that makes the same folder."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def cache_folder() -> Path:
    """Where the shared cache lies; it need not be there."""
    given = os.environ.get("SAEQL_CACHE")
    if given:
        return Path(given).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "saeql"


def made_once(folder: Path, make: Callable[[Path], None], size: int) -> Path:
    """`folder` of the cache; if it is not there, `make` fills an empty one that then takes its name.

    Of several processes one makes it, and the others wait. `size` is about what it takes, in bytes. Raises InputError
    if the cache cannot be written or is full; nothing of a folder that was not finished stays.
    """
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(folder.parent, os.W_OK | os.X_OK):
            kept = errno.EROFS if os.statvfs(folder.parent).f_flag & os.ST_RDONLY else errno.EACCES
            raise PermissionError(kept, os.strerror(kept))
        with locked(folder.parent / f".{folder.name}.lock", wait=_WAIT):
            return _made(folder, make, size)
    except OSError as error:
        if error.errno in _FULL:
            raise _no_room(folder.parent, size) from error
        raise InputError(
            f"the cache {folder.parent} cannot be written ({error.strerror}): set SAEQL_CACHE to a folder of yours"
        ) from error


def _made(folder: Path, make: Callable[[Path], None], size: int) -> Path:
    if folder.is_dir():
        return folder
    # Who holds the lock is alone here: this is what killed processes left.
    for left in folder.parent.glob(f".{folder.name}.*.partial"):
        shutil.rmtree(left, ignore_errors=True)
    if shutil.disk_usage(folder.parent).free < size:
        raise _no_room(folder.parent, size)
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.partial")
    partial.mkdir()
    try:
        make(partial)
        for path in [*partial.rglob("*"), partial]:
            _sync(path)
        partial.rename(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _sync(path: Path) -> None:
    """A name must not outlive, in a power failure, what it names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _no_room(where: Path, size: int) -> InputError:
    return InputError(
        f"the disk that holds the cache {where} is full: {size / 1e9:.1f} GB are needed for a while. Make room, or "
        "set SAEQL_CACHE to a folder on another disk"
    )
