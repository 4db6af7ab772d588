"""Says which versions of Lance collections the snapshots name."""

from collections.abc import Iterable

import duckdb

from catalog.errors import UnknownName
from catalog.store.snapshots import states
from catalog.store.transaction import Transaction
from catalog.vectors.collections import Version


def name_version(tx: Transaction, made: Version) -> None:
    """Make the snapshot that `tx` commits name this version."""
    row = [made.collection, made.version, made.rows]
    there = tx.rows("SELECT * FROM lake.lance WHERE collection = ?", [made.collection])
    if there != [tuple(row)]:
        tx.execute("DELETE FROM lake.lance WHERE collection = ?", [made.collection])
        tx.execute("INSERT INTO lake.lance VALUES (?, ?, ?)", row)


def named_version(connection: duckdb.DuckDBPyConnection, collection: str, snapshot: int | None = None) -> int:
    """The version of a collection that a snapshot names, the newest by default.

    Raises UnknownName if it names none.
    """
    at = "" if snapshot is None else f" AT (VERSION => {int(snapshot)})"
    found = dict(connection.execute(f"SELECT collection, version FROM lake.lance{at}").fetchall())
    if collection not in found:
        raise UnknownName(f"no collection {collection!r} belongs to this snapshot; known: {', '.join(found) or 'none'}")
    return int(found[collection])


def referenced_versions(
    connection: duckdb.DuckDBPyConnection, snapshots: Iterable[int] | None = None
) -> dict[str, set[int]]:
    """Every version that any snapshot names, or any of `snapshots`, by collection.

    The table is read as it is at each snapshot that has it otherwise, not from the change feed: a version that is
    named still may have been recorded by a snapshot that was expired.
    """
    found: dict[str, set[int]] = {}
    for snapshot in states(connection, "lance", snapshots):
        rows = connection.execute(f"SELECT collection, version FROM lake.lance AT (VERSION => {snapshot})")
        for collection, version in rows.fetchall():
            found.setdefault(collection, set()).add(int(version))
    return found
