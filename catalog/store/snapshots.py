"""Reads which snapshots there are: by number or by tag, and one for each content that a table ever had."""

import itertools
from collections.abc import Iterable
from importlib import resources
from typing import TYPE_CHECKING

import duckdb

from catalog.errors import UnknownName
from catalog.quote import TABLES

if TYPE_CHECKING:
    from catalog.store.catalog import Catalog


def states(connection: duckdb.DuckDBPyConnection, table: str, snapshots: Iterable[int] | None = None) -> list[int]:
    """One snapshot, the oldest, for each content that `table` has at any of `snapshots`, ascending; all by default.

    Snapshots at which the table is not there, or never had a row, are left out. Exact also where snapshots in
    between were expired, unlike DuckLake's change feed, which does not tell what came before its first snapshot.
    """
    if snapshots is None:
        snapshots = [row[0] for row in connection.execute("SELECT snapshot_id FROM lake.snapshots()").fetchall()]
    query = (resources.files("catalog.store") / "sql" / "table_states.sql").read_text()
    rows = connection.execute(query, {"table": table, "kept": sorted(snapshots)}).fetchall()
    return [int(number) for (number,) in rows]


def numbers(catalog: "Catalog") -> list[int]:
    """Every snapshot that there is, ascending; expired ones are gone."""
    return [number for (number,) in catalog.rows("SELECT snapshot_id FROM lake.snapshots() ORDER BY snapshot_id")]


def tags(catalog: "Catalog") -> dict[str, int]:
    """Snapshot of each tag, in alphabetical order, as of now, also where `catalog` is open at an old snapshot."""
    there = f"SELECT 1 FROM {TABLES}.ducklake_table WHERE table_name = 'tags' AND end_snapshot IS NULL"
    if not catalog.rows(there):
        return {}  # made before there were tags
    at = "" if catalog.at is None else f" AT (VERSION => {catalog.newest()})"
    return dict(catalog.rows(f"SELECT name, snapshot FROM lake.tags{at} ORDER BY name"))


def resolve(catalog: "Catalog", at: int | str) -> int:
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


def spans(there: list[int]) -> str:
    """'0-12, 15, 17-20' of ascending numbers."""
    parts = []
    for _, group in itertools.groupby(enumerate(there), lambda pair: pair[1] - pair[0]):
        span = [number for _, number in group]
        parts.append(str(span[0]) if len(span) == 1 else f"{span[0]}-{span[-1]}")
    return ", ".join(parts)


def _listed(named: dict[str, int]) -> str:
    return f"; tags: {', '.join(f'{name} ({number})' for name, number in named.items())}" if named else ""
