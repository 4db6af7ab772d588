"""Floor 1: the store. DuckLake, Lance, schema, snapshots, errors, configuration; no torch."""

from catalog.location import Location
from catalog.store import Catalog

__all__ = ["Catalog", "Location"]
