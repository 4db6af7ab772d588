"""Floor 1: the store. DuckLake, Lance, schema, snapshots, errors, configuration; no torch."""

from catalog.store import Catalog

__all__ = ["Catalog"]
