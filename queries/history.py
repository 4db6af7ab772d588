"""The catalog's snapshots, as rows."""

import json
from typing import Any

from catalog import Catalog


def snapshots(catalog: Catalog, limit: int) -> list[dict[str, Any]]:
    """The newest `limit` snapshots, newest first: id, time, message, and the counts of a refresh step."""
    rows = catalog.rows(
        "SELECT snapshot_id, strftime(snapshot_time::TIMESTAMP, '%Y-%m-%d %H:%M:%S'), "
        "commit_message, commit_extra_info "
        "FROM lake.snapshots() ORDER BY snapshot_id DESC LIMIT ?",
        [limit],
    )
    found = []
    for number, at, message, extra in rows:
        details = json.loads(extra) if extra else {}
        found.append(
            {
                "snapshot": number,
                "time": at,
                "message": message or "",
                **{
                    name: details.get(name)
                    for name in ("added", "changed", "removed", "failed", "calls", "cost", "seconds")
                },
            }
        )
    return found
