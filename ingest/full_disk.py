"""Names a full disk, which speaks with many voices."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from catalog.errors import InputError
from catalog.store.connection import FULL

_NO_ROOM = 1 << 18
"""Bytes: SQLite calls it an I/O error when its log cannot grow by a few pages."""


@contextmanager
def full_disk_named(root: Path) -> Iterator[None]:
    """Raise one InputError for whatever Python, Arrow, DuckDB and SQLite raise when the disk of `root` is full."""
    try:
        yield
    except (OSError, duckdb.Error) as error:
        said = str(error).lower()
        full = any(sign.lower() in said for sign in FULL)
        # Without room, a failed write may say no more than that; any other failure has nothing to do with the disk.
        if not full and not ("writ" in said and shutil.disk_usage(root).free <= _NO_ROOM):
            raise
        raise InputError(
            f"the disk that holds {root} is full; every finished shard was kept: make room, run again"
        ) from error
