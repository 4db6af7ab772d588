"""Lists the snapshots that changed a feature's labels or scores, and why."""

import json
from collections.abc import Collection
from typing import Any, NamedTuple

from catalog import Catalog
from catalog.errors import UnknownName
from catalog.quote import TABLES, named
from catalog.store.snapshots import numbers

_SHOWN = {"labels": (("explainer",), ("label", "problem")), "scores": (("explainer", "scorer"), ("f1",))}
"""Of each table: the key beside the feature, and the columns whose change counts."""


def blame(catalog: Catalog, sae: str, feature: int) -> list[dict[str, Any]]:
    """Every snapshot that changed the feature's label or F1, oldest first, with the old and new value.

    `why` is what the refresh said of itself, else the snapshot's message. What older snapshots did that were
    expired is one row, `there before`. Raises UnknownName for a feature that the SAE does not have.
    """
    width = catalog.value("SELECT width FROM saes WHERE sae = ?", [sae])
    if width is None or not 0 <= feature < width:
        raise UnknownName(f"SAE {sae!r} has features 0 to {(width or 0) - 1}, not {feature}")
    known = {
        number: (at, message, json.loads(extra) if extra else {})
        for number, at, message, extra in catalog.rows(
            "SELECT snapshot_id, strftime(snapshot_time::TIMESTAMP, '%Y-%m-%d %H:%M:%S'), commit_message, "
            "commit_extra_info FROM lake.snapshots()"
        )
    }
    rows = []
    for table in _SHOWN:
        for number, key, change, old, new in _changes(catalog, table, sae, feature):
            at, message, details = known.get(number, (None, None, {}))
            why = "; ".join(details.get("why") or []) or message or "a snapshot that was expired"
            rows.append(
                {
                    "snapshot": number,
                    "time": at,
                    "message": message,
                    "table": table,
                    "explainer": key[0],
                    "scorer": key[1] if len(key) > 1 else None,
                    "change": change,
                    "old_label": _label(old),
                    "new_label": _label(new),
                    "old_f1": (old or {}).get("f1"),
                    "new_f1": (new or {}).get("f1"),
                    "why": why if change != "there before" else "older snapshots were expired",
                }
            )
    return sorted(rows, key=lambda row: (row["snapshot"], row["table"], row["explainer"], row["scorer"] or ""))


class _Change(NamedTuple):
    snapshot: int
    key: tuple[Any, ...]
    kind: str
    old: dict[str, Any] | None
    new: dict[str, Any] | None


def _changes(catalog: Catalog, table: str, sae: str, feature: int) -> list[_Change]:
    """Each change of the shown columns."""
    key, shown = _SHOWN[table]
    there = numbers(catalog)
    listed = ", ".join(map(named, (*key, *shown)))
    feed = catalog.rows(
        f"SELECT snapshot_id, change_type, {listed} FROM ducklake_table_changes('lake', 'main', ?, ?, ?) "
        "WHERE sae = ? AND feature = ?",
        [table, there[0], there[-1], sae, feature],
    )
    sides: dict[tuple[int, tuple[Any, ...]], dict[str, dict[str, Any]]] = {}
    for number, kind, *values in feed:
        side = "old" if kind in ("delete", "update_preimage") else "new"
        at = number, tuple(values[: len(key)])
        sides.setdefault(at, {})[side] = dict(zip(shown, values[len(key) :], strict=True))
    found = []
    for (number, where), both in sides.items():
        old, new = both.get("old"), both.get("new")
        if old != new:
            kind = "added" if old is None else "removed" if new is None else "changed"
            found.append(_Change(number, where, kind, old, new))
    return _before(catalog, table, sae, feature, there[0], sides.keys()) + found


def _before(
    catalog: Catalog, table: str, sae: str, feature: int, first: int, changed: Collection[tuple[int, tuple[Any, ...]]]
) -> list[_Change]:
    """What the first snapshot that there is has from those before it."""
    born = catalog.value(f"SELECT min(begin_snapshot) FROM {TABLES}.ducklake_table WHERE table_name = ?", [table])
    if born > first:
        return []
    key, shown = _SHOWN[table]
    rows = catalog.rows(
        f"SELECT {', '.join(map(named, (*key, *shown)))} FROM lake.{named(table)} AT (VERSION => {first}) "
        "WHERE sae = ? AND feature = ?",
        [sae, feature],
    )
    found = []
    for row in rows:
        where = tuple(row[: len(key)])
        if (first, where) not in changed:
            value = dict(zip(shown, row[len(key) :], strict=True))
            found.append(_Change(first, where, "there before", None, value))
    return found


def _label(row: dict[str, Any] | None) -> str | None:
    """A label, or why there is none; nothing for a score."""
    if row is None or "label" not in row:
        return None
    return str(row["label"]) if row["label"] is not None else f"no label: {row['problem']}"
