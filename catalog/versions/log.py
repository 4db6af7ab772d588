"""Lists the catalog's snapshots as rows: what each did, to which tables, and the names it has."""

import json
from collections.abc import Collection
from typing import Any

from catalog import Catalog
from catalog.errors import InputError, UnknownName
from catalog.quote import TABLES
from catalog.store.snapshots import tags

_COUNTS = ("added", "changed", "removed", "failed", "calls", "tokens", "cost", "seconds")


def snapshots(
    catalog: Catalog,
    limit: int | None = None,
    step: str | None = None,
    table: str | None = None,
    steps: Collection[str] = (),
) -> list[dict[str, Any]]:
    """The newest `limit` snapshots, newest first: id, time (UTC), message, tables, tags, and the counts of a step.

    `step` and `table` keep those that a step made, and those that changed a table's rows or columns; `steps` are the
    names that a step may have besides those that stand in snapshots. Raises
    UnknownName for a step or table that neither this saeql nor any snapshot knows, InputError for a limit below 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"-n is {limit}: at least 1 snapshot is shown")
    names = _table_names(catalog)
    named_by: dict[int, list[str]] = {}
    for name, number in tags(catalog).items():
        named_by.setdefault(number, []).append(name)
    found = []
    for number, at, message, extra, changes in catalog.rows(
        "SELECT snapshot_id, strftime(snapshot_time::TIMESTAMP, '%Y-%m-%d %H:%M:%S'), "
        "commit_message, commit_extra_info, changes FROM lake.snapshots() ORDER BY snapshot_id DESC"
    ):
        details = json.loads(extra) if extra else {}
        found.append(
            {
                "snapshot": number,
                "time": at,
                "message": message or "",
                "tags": named_by.get(number, []),
                "tables": _changed_tables(changes or {}, names),
                **{name: details.get(name) for name in _COUNTS},
                "why": "; ".join(details.get("why") or []) or None,
                "_steps": _steps(message or "", details),
            }
        )
    if step is not None:
        _check("step", step, set(steps).union(*(row["_steps"] for row in found)))
        found = [row for row in found if step in row["_steps"]]
    if table is not None:
        _check("table", table, set(names.values()))
        found = [row for row in found if table in row["tables"]]
    return [{name: value for name, value in row.items() if name != "_steps"} for row in found[:limit]]


def _steps(message: str, details: dict[str, Any]) -> set[str]:
    """The steps whose rows a snapshot changed; a batch of a long step has the message alone."""
    batch = message.removeprefix("refresh ") if message.startswith("refresh ") else details.get("step")
    return {str(name) for name in (batch, details.get("step"), *(details.get("steps") or [])) if name}


def _table_names(catalog: Catalog) -> dict[str, str]:
    """Name of every table that there ever was, by its id, as text."""
    return dict(catalog.rows(f"SELECT table_id::VARCHAR, table_name FROM {TABLES}.ducklake_table"))


def _changed_tables(changes: dict[str, list[str]], names: dict[str, str]) -> list[str]:
    """The tables of a snapshot's record: `tables_created` holds `schema.table`, the others hold ids."""
    found = set()
    for kind, subjects in changes.items():
        for subject in subjects or []:
            if kind in ("tables_created", "tables_dropped"):
                found.add(names.get(subject, subject.rpartition(".")[2]))
            elif subject in names:
                found.add(names[subject])
    return sorted(found)


def _check(kind: str, name: str, known: set[Any]) -> None:
    if name not in known:
        raise UnknownName(f"there is no {kind} {name!r}; known: {', '.join(sorted(known))}")
