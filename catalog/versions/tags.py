"""Finds a snapshot by number or by name, and keeps the tags that name snapshots."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from catalog.errors import CatalogError, InputError, UnknownName
from catalog.store.catalog import Catalog
from catalog.store.location import Location
from catalog.store.snapshots import resolve, tags

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


def set_tag(catalog: Catalog, name: str, at: int | str | None = None, *, move: bool = False) -> int:
    """Name a snapshot, the newest by default; returns its number.

    Raises InputError for a name that cannot be one, or that is taken unless `move` is given.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} cannot be a tag: use letters, digits, _ . and -, the first a letter or _")
    snapshot = catalog.newest() if at is None else resolve(catalog, at)
    with catalog.write(f"tag {name}", tag=name, snapshot=snapshot) as tx:
        there = catalog.value("SELECT snapshot FROM lake.tags WHERE name = ?", [name])
        if there == snapshot:
            return snapshot
        if there is not None and not move:
            raise InputError(f"the tag {name} is taken, by snapshot {there}: move it with --move, or use another name")
        # Looked up again under the commit lock: a clean-up may have expired it meanwhile.
        resolve(catalog, snapshot)
        tx.execute("DELETE FROM lake.tags WHERE name = ?", [name])
        tx.insert("tags", [{"name": name, "snapshot": snapshot}])
    return snapshot


def delete_tag(catalog: Catalog, name: str) -> int:
    """Remove a tag; returns the snapshot that it named. Raises UnknownName with the known tags."""
    there = tags(catalog)
    if name not in there:
        raise UnknownName(f"there is no tag {name!r}; known: {', '.join(there) or 'none'}")
    with catalog.write(f"delete tag {name}", tag=name, snapshot=there[name]) as tx:
        tx.execute("DELETE FROM lake.tags WHERE name = ?", [name])
    return there[name]


@contextmanager
def open_at(root: str | Path | Location, at: int | str | None) -> Iterator[Catalog]:
    """The catalog for reading, as it is now (None) or as it was at a snapshot or tag.

    Raises UnknownName as `resolve` does, and CatalogError if what is read inside did not exist then.
    """
    if at is None:
        with Catalog(root, read_only=True) as catalog:
            yield catalog
        return
    if str(at).isascii() and str(at).isdigit():
        number = int(at)  # opening at an unknown one raises the same error, without opening twice
    else:
        with Catalog(root, read_only=True) as now:
            number = resolve(now, at)
    with Catalog(root, read_only=True, snapshot=number) as catalog:
        try:
            yield catalog
        except (duckdb.CatalogException, duckdb.BinderException) as error:
            said = str(error).partition("\n")[0]
            raise CatalogError(f"snapshot {number} does not have what this needs: {said}") from error
