"""The open connection of a session: opened when it is first needed, shared by threads, never on a catalog that is gone.

Each reading gets a cursor, which is a connection of its own to the same engine: it sees the newest snapshot, and
threads do not wait for each other.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import duckdb

from catalog import Catalog, Location
from catalog.errors import CatalogError
from catalog.store.location import METADATA


class HeldCatalog:
    """A catalog that is kept open for reading, as it is, or as it was at a snapshot."""

    def __init__(self, location: Location, snapshot: int | None = None):
        self.location, self.snapshot = location.absolute(), snapshot
        self._turn = threading.Lock()
        self._open: Catalog | None = None
        self._closed = False
        self._identity: tuple[int, ...] | None = None
        self._abandoned: list[Catalog] = []
        """Of the process that this one was forked from: its threads are not here, not even to close it."""

    @contextmanager
    def reading(self) -> Iterator[Catalog]:
        """The catalog on a cursor of the caller's own.

        Raises CatalogError if the session is closed, if the catalog is gone or another one lies in its place that
        cannot be opened, and if what is read inside did not exist at the snapshot.
        """
        with self._turn:
            catalog = self._opened().beside()
        try:
            yield catalog
        except (duckdb.CatalogException, duckdb.BinderException) as error:
            if self.snapshot is None:
                raise
            said = str(error).partition("\n")[0]
            raise CatalogError(f"snapshot {self.snapshot} does not have what this needs: {said}") from error
        finally:
            catalog.close()

    def check(self) -> None:
        """Raise CatalogError if the session is closed."""
        if self._closed:
            raise CatalogError(f"this session on {self.location} is closed: open another with saeql.connect")

    def forget(self) -> None:
        """Open the catalog anew for the next reading; readings that are under way end undisturbed."""
        with self._turn:
            self._drop()

    def close(self) -> None:
        """Close the connection for good. A second time it does nothing."""
        with self._turn:
            self._drop()
            self._closed = True

    def _opened(self) -> Catalog:
        self.check()
        identity = self._identified()
        if self._open is None or identity != self._identity:
            self._drop()
            self._open = Catalog(self.location, read_only=True, snapshot=self.snapshot)
            self._identity = self._identified()
        return self._open

    def _identified(self) -> tuple[int, ...] | None:
        """The process, and which file or folder the catalog lies in; None if it is gone."""
        root = self.location.root
        with suppress(OSError):
            found = os.stat(root / "data" if self.location.server else root / METADATA)
            return os.getpid(), found.st_dev, found.st_ino
        return None

    def _drop(self) -> None:
        if self._open is not None:
            if self._identity and self._identity[0] != os.getpid():
                self._abandoned.append(self._open)
            else:
                self._open.close()
        self._open = None
