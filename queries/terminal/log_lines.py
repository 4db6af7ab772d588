"""Shows the log for people: the batches in which a long step commits its rows are one line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from catalog.store.snapshots import spans

_REFRESH = "refresh "
_SLACK = timedelta(seconds=2)
"""Snapshots are dated in whole seconds, and a step's time is taken apart from them."""


@dataclass
class _Group:
    """Snapshots of one run of one step, newest first."""

    first: Mapping[str, Any]
    since: datetime | None
    """When the run began, if its last snapshot says so."""
    rows: list[Mapping[str, Any]] = field(default_factory=list)


def log_lines(snapshots: Sequence[Mapping[str, Any]], *, grouped: bool) -> list[dict[str, Any]]:
    """A row for each snapshot, newest first, or for each run of a step: snapshots, time, message, rows, cost, why.

    A snapshot with a tag is a row of its own: its number is what the tag stands for.
    """
    groups: list[_Group] = []
    begun: dict[str, _Group] = {}
    for row in snapshots:
        group = begun.get(row["message"]) if grouped and _is_batch(row) else None
        if group is None or (group.since is not None and _time(row) < group.since):
            group = _Group(row, _began(row))
            groups.append(group)
            if row["message"].startswith(_REFRESH) and not row["tags"]:
                begun[row["message"]] = group
        group.rows.append(row)
    return [_line(group) for group in groups]


def _is_batch(row: Mapping[str, Any]) -> bool:
    """Whether it is a part of a step's run: the last snapshot alone says how many seconds the run took."""
    return row["message"].startswith(_REFRESH) and row["seconds"] is None and not row["tags"]


def _time(row: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(row["time"])


def _began(row: Mapping[str, Any]) -> datetime | None:
    return None if row["seconds"] is None else _time(row) - timedelta(seconds=row["seconds"]) - _SLACK


def _line(group: _Group) -> dict[str, Any]:
    # The last snapshot of a run has the sums over its batches; a run that was cut off has none.
    whole = [group.first] if group.since is not None else group.rows
    sums = {name: _sum([row[name] for row in whole]) for name in ("added", "changed", "removed", "failed", "calls")}
    costs = [row["cost"] for row in whole if row["cost"] is not None]
    return {
        "snapshot": spans(sorted(row["snapshot"] for row in group.rows)),
        "time": group.first["time"],
        "message": group.first["message"],
        "rows": _rows(sums),
        "tags": ", ".join(group.first["tags"]),
        "failed": sums["failed"],
        "calls": sums["calls"],
        "cost": sum(costs) if costs else None,
        "why": group.first["why"],
    }


def _sum(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _rows(sums: Mapping[str, int | None]) -> str | None:
    """'+150 ~3 -1', without what is 0; None if nobody counted."""
    signs = {"added": "+", "changed": "~", "removed": "-"}
    if all(sums[name] is None for name in signs):
        return None
    return " ".join(f"{sign}{sums[name]:,}" for name, sign in signs.items() if sums[name]) or "0"
