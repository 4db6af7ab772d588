"""Makes the rows that the commands about versions show."""

from typing import Any

from catalog import Catalog
from catalog.store.snapshots import spans, tags
from catalog.versions.diff import FIGURES, diff, diff_rows
from catalog.versions.gc import Freed


def table_rows(catalog: Catalog, a: int, b: int) -> list[dict[str, Any]]:
    """A row per table that differs from snapshot `a` to `b`, see `catalog.versions.diff.diff`."""
    return [
        {"table": d.table, "added": d.added, "removed": d.removed, "changed": d.changed, "note": d.note}
        for d in diff(catalog, a, b)
    ]


def difference_rows(
    catalog: Catalog, a: int, b: int, table: str, limit: int | None = None
) -> tuple[int, list[dict[str, Any]]]:
    """How many rows of `table` differ, and at most `limit` of them: change, key, old and new values.

    Old and new are objects with the columns that changed. A table with a figure has its `delta`. Raises as
    `catalog.versions.diff.diff_rows` does.
    """
    found = diff_rows(catalog, a, b, table, limit)
    rows = []
    for row in found.rows:
        shown: dict[str, Any] = {"change": row.change, **row.key}
        if table in FIGURES:
            # Nine digits: the rest is what subtracting two floats leaves.
            shown[f"delta_{FIGURES[table]}"] = None if row.delta is None else round(row.delta, 9)
        rows.append({**shown, "old": row.old, "new": row.new})
    return found.total, rows


def tag_rows(catalog: Catalog) -> list[dict[str, Any]]:
    """A row per tag: its name, and the snapshot with time and message."""
    known = {
        number: (at, message)
        for number, at, message in catalog.rows(
            "SELECT snapshot_id, strftime(snapshot_time::TIMESTAMP, '%Y-%m-%d %H:%M:%S'), commit_message "
            "FROM lake.snapshots()"
        )
    }
    rows = []
    for name, number in tags(catalog).items():
        at, message = known.get(number, (None, None))
        rows.append({"tag": name, "snapshot": number, "time": at, "message": message})
    return rows


def freed_rows(freed: Freed) -> list[dict[str, Any]]:
    """A row per store: what of it went, how many files, how many bytes."""
    lance = [f"{collection} v{number}" for collection, gone in sorted(freed.versions.items()) for number in gone]
    return [
        {
            "store": "tables",
            "unit": "snapshots",
            "count": len(freed.snapshots),
            "names": spans(freed.snapshots),
            "files": freed.files,
            "bytes": freed.bytes,
        },
        {
            "store": "vectors",
            "unit": "versions",
            "count": len(lance),
            "names": ", ".join(lance),
            "files": freed.vector_files,
            "bytes": freed.vector_bytes,
        },
        {
            "store": "weights",
            "unit": "folders",
            "count": len(freed.weights),
            "names": ", ".join(freed.weights),
            "files": freed.weight_files,
            "bytes": freed.weight_bytes,
        },
    ]
