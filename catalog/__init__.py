"""Floor 1: the store. DuckLake, Lance, schema, snapshots, errors, configuration; no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from catalog.store.catalog import Catalog
    from catalog.store.location import Location

__all__ = ["Catalog", "Location"]


def __getattr__(name: str) -> Any:
    """What is asked for: `ingest.sae` wants the errors alone, and trains where PyTorch is and DuckDB is not."""
    if name not in __all__:
        raise AttributeError(f"module 'catalog' has no attribute {name!r}")
    return getattr(import_module(f"catalog.store.{'catalog' if name == 'Catalog' else 'location'}"), name)
