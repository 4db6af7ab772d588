"""Stands for a catalog that is not there yet: all its tables, without rows, in memory. A dry run reads it."""

import duckdb

from catalog import Catalog
from catalog.errors import CatalogError, InputError
from catalog.store.connection import SEARCH_PATH, check_folder
from catalog.store.location import METADATA, Location
from catalog.store.migrations import migrations, newest

_RECORD = "CREATE TABLE migrations (number INTEGER NOT NULL, name VARCHAR NOT NULL)"


class UnmadeCatalog(Catalog):
    """A catalog as `Catalog.create` would make it, of which nothing is on disk."""

    def __init__(self, location: Location) -> None:
        """Raises as `Catalog.create` does where that cannot make a catalog in the folder."""
        location.check_folder()
        check_folder(location.root)
        if location.root.exists() and not location.root.is_dir():
            raise InputError(f"{location.root} is a file, not a directory: name another place for the catalog")
        self.location, self.root = location, location.root
        self.read_only, self.at, self.schema = True, None, newest()
        self.connection = duckdb.connect()
        self.connection.execute("SET enable_progress_bar = false")
        self.connection.execute("ATTACH ':memory:' AS lake; USE lake")
        for sql in (_RECORD, *(sql for _, _, sql in migrations())):
            self.connection.execute(sql)
        self.connection.execute(SEARCH_PATH)


def open_for_reading(location: Location) -> Catalog:
    """The catalog, or what stands for it where there is none. Raises CatalogError for one of an older version."""
    location = location.absolute()
    there = location.root / METADATA if location.server is None else location.root / "data"
    if not there.exists():
        return UnmadeCatalog(location)
    catalog = Catalog(location, read_only=True)
    if catalog.schema != newest():
        catalog.close()
        raise CatalogError(
            f"{location} was made by an older version of saeql, whose tables lack columns: a dry run writes nothing, "
            "and so cannot bring it up to date; `saeql refresh` does, and so does an ingest"
        )
    return catalog
