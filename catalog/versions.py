"""Snapshots by number or by name: which there are, which one is meant, and the tags that name them."""

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from catalog.errors import CatalogError, InputError, UnknownName
from catalog.lake import TABLES
from catalog.location import Location
from catalog.store import Catalog

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


def numbers(catalog: Catalog) -> list[int]:
    """Every snapshot that there is, ascending; expired ones are gone."""
    return [number for (number,) in catalog.rows("SELECT snapshot_id FROM lake.snapshots() ORDER BY snapshot_id")]


def tags(catalog: Catalog) -> dict[str, int]:
    """Snapshot of each tag, in alphabetical order, as of now, also where `catalog` is open at an old snapshot."""
    there = f"SELECT 1 FROM {TABLES}.ducklake_table WHERE table_name = 'tags' AND end_snapshot IS NULL"
    if not catalog.rows(there):
        return {}  # made before there were tags
    at = "" if catalog.at is None else f" AT (VERSION => {catalog.newest()})"
    return dict(catalog.rows(f"SELECT name, snapshot FROM lake.tags{at} ORDER BY name"))


def resolve(catalog: Catalog, at: int | str) -> int:
    """The number of the snapshot that `at` means: its number, as number or text, or a tag.

    Raises UnknownName, with the snapshots and tags that there are.

    >>> resolve(catalog, "release")  # doctest: +SKIP
    12
    """
    text = str(at).strip()
    if text.isascii() and text.isdigit():
        there = numbers(catalog)
        if int(text) in there:
            return int(text)
        gone = "was expired" if int(text) < there[-1] else "is not there yet"
        raise UnknownName(f"snapshot {text} {gone}; there are {spans(there)}{_listed(tags(catalog))}")
    named = tags(catalog)
    if text in named:
        return named[text]
    raise UnknownName(
        f"{text!r} is neither a snapshot nor a tag; there are snapshots {spans(numbers(catalog))}{_listed(named)}"
    )


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


def spans(there: list[int]) -> str:
    """'0-12, 15, 17-20' of ascending numbers."""
    parts = []
    for _, group in itertools.groupby(enumerate(there), lambda pair: pair[1] - pair[0]):
        span = [number for _, number in group]
        parts.append(str(span[0]) if len(span) == 1 else f"{span[0]}-{span[-1]}")
    return ", ".join(parts)


def _listed(named: dict[str, int]) -> str:
    return f"; tags: {', '.join(f'{name} ({number})' for name, number in named.items())}" if named else ""
