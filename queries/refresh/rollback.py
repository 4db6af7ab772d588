"""Rolls a step back: a new snapshot in which its rows are those of an older one.

The rows of the step's slice are put back by key, so that only what differs is written; a step that fills `lance`
gets the Lance version back that the older snapshot named. Its record is removed: `plan` shows that the rows are
no longer what its query gives, and the next refresh brings them up to date again.
"""

from dataclasses import dataclass

import duckdb

from catalog import Catalog
from catalog.errors import CatalogError, StepError
from catalog.quote import named
from catalog.store.comparison import Changes
from catalog.store.locks import locked
from catalog.store.scratch import Relation, Scratch
from catalog.store.snapshots import resolve
from catalog.store.transaction import Transaction
from queries.refresh.context import view_parents
from queries.refresh.order import ordered
from queries.refresh.reads import parent_tables
from queries.refresh.step import Step, packaged_steps


@dataclass(frozen=True)
class RolledBack:
    """What a rollback did to one step."""

    step: str
    table: str
    changes: Changes


@dataclass(frozen=True)
class Rollback:
    """What a rollback did."""

    to: int
    snapshot: int | None
    """The new snapshot; None if the rows were already those of the older one."""
    steps: list[RolledBack]


def rollback(
    catalog: Catalog,
    step: str,
    to: int | str,
    *,
    downstream: bool = False,
    wait: float = 0.0,
    steps: tuple[Step, ...] | None = None,
) -> Rollback:
    """Make the rows of `step` equal to those at snapshot or tag `to`, in one new snapshot.

    With `downstream`, the steps that read from it, directly or through others, are rolled back as well. Raises
    StepError for an unknown step, UnknownName for an unknown or expired snapshot, CatalogError if a table was not
    there yet or its vectors are gone, and CatalogLocked if a refresh runs.
    """
    with locked(catalog.root / "refresh.lock", wait=wait), catalog.scratch() as scratch:
        number = resolve(catalog, to)
        chosen = _chosen(catalog, steps or packaged_steps(), step, downstream)
        fresh = {s.name: _rows_at(catalog, s, number, scratch) for s in chosen}
        why = f"rolled back to snapshot {number}" + ("" if str(to) == str(number) else f" ({to})")

        def put_back(tx: Transaction) -> list[RolledBack]:
            done = []
            for s in chosen:
                changes = tx.replace(s.writes, fresh[s.name], list(s.key), s.slice)
                done.append(RolledBack(s.name, s.writes, changes))
                if changes:
                    _forget(catalog, tx, s.name)
            tx.details.update(
                added=sum(r.changes.added for r in done),
                changed=sum(r.changes.changed for r in done),
                removed=sum(r.changes.removed for r in done),
                steps=[r.step for r in done if r.changes],
            )
            return done

        done = catalog.commit(f"rollback {step} to {number}", put_back, step=step, to=number, why=[why])
        changed = any(part.changes for part in done)
        return Rollback(number, catalog.newest() if changed else None, done)


def _chosen(catalog: Catalog, steps: tuple[Step, ...], name: str, downstream: bool) -> list[Step]:
    """The step, and with `downstream` those after it, in the order of what they read."""
    known = {step.name: step for step in steps}
    if name not in known:
        raise StepError(f"there is no step {name!r}; the steps are {', '.join(sorted(known))}")
    if not downstream:
        return [known[name]]
    views = view_parents(catalog)
    chosen, written = [], {known[name].writes}
    for step in ordered(steps, views):
        if step.name == name or parent_tables(step.parents, views) & written:
            chosen.append(step)
            written.add(step.writes)
    return chosen


def _rows_at(catalog: Catalog, step: Step, at: int, scratch: Scratch) -> Relation:
    """The rows of the step's slice at a snapshot, with the columns of today."""
    now = catalog.rows(f"DESCRIBE lake.{named(step.writes)}")
    try:
        then = {row[0] for row in catalog.rows(f"DESCRIBE FROM lake.{named(step.writes)} AT (VERSION => {at})")}
    except duckdb.CatalogException:
        raise CatalogError(
            f"step {step.name} cannot be rolled back to snapshot {at}: the table {step.writes} was not there yet"
        ) from None
    # A column that came later has what a migration gives to old rows: its default, else NULL.
    missing = [row[0] for row in now if row[0] not in then and row[2] == "NO" and row[4] is None]
    if missing:
        raise CatalogError(
            f"step {step.name} cannot be rolled back to snapshot {at}: its rows had no {', '.join(missing)} then; "
            "choose a newer snapshot"
        )
    listed = ", ".join(
        named(name) if name in then else f"CAST({default or 'NULL'} AS {kind}) AS {named(name)}"
        for name, kind, _, _, default, _ in now
    )
    source = f"SELECT {listed} FROM lake.{named(step.writes)} AT (VERSION => {at})"
    fresh = scratch.query(f"FROM ({source}) WHERE {step.slice}")
    if step.writes == "lance":
        _check_vectors(catalog, fresh)
    return fresh


def _check_vectors(catalog: Catalog, fresh: Relation) -> None:
    """Raise CatalogError unless the Lance versions can be read: a snapshot must never name one that is gone."""
    from catalog.vectors.collections import Vectors

    vectors = Vectors(catalog.vectors)
    for collection, version in catalog.rows(f"SELECT collection, version FROM {fresh}"):
        vectors.open(collection, version)


def _forget(catalog: Catalog, tx: Transaction, step: str) -> None:
    """Remove what the engine keeps of the step's last run."""
    there = {table for (table,) in catalog.rows("SELECT table_name FROM ducklake_table_info('lake')")}
    for table in ("runs", "partitions"):
        if table in there:
            tx.execute(f"DELETE FROM lake.{named(table)} WHERE step = ?", [step])
