"""Which snapshots have a table in different states: reading one of each tells all that any snapshot holds."""

from collections.abc import Iterable
from importlib import resources

import duckdb


def states(connection: duckdb.DuckDBPyConnection, table: str, snapshots: Iterable[int] | None = None) -> list[int]:
    """One snapshot, the oldest, for each content that `table` has at any of `snapshots`, ascending; all by default.

    Snapshots at which the table is not there, or never had a row, are left out. Exact also where snapshots in
    between were expired, unlike DuckLake's change feed, which does not tell what came before its first snapshot.
    """
    if snapshots is None:
        snapshots = [row[0] for row in connection.execute("SELECT snapshot_id FROM lake.snapshots()").fetchall()]
    query = (resources.files("catalog") / "sql" / "table_states.sql").read_text()
    rows = connection.execute(query, {"table": table, "kept": sorted(snapshots)}).fetchall()
    return [int(number) for (number,) in rows]
