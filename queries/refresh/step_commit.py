"""Commits the rows of a step in one snapshot with the record of what they were made from."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from catalog.quote import named
from catalog.store.comparison import NONE, Changes
from catalog.store.scratch import Relation
from catalog.store.transaction import Transaction
from queries.refresh import parts
from queries.refresh.assess import Work
from queries.refresh.context import Context, LastRun
from queries.refresh.done import Done
from queries.refresh.kernel_run import KernelRun
from queries.refresh.parts import Made, Part


@dataclass
class StepCommit:
    """The snapshots of one run of a step. Each is made anew if somebody else's came in between."""

    work: Work
    context: Context
    done: Done
    kernel: KernelRun | None = None
    _rows: Relation | None = None
    _scope: str = ""
    _last: LastRun | None = None
    """What the open transaction records of this run: the steps that follow see it when it is committed."""
    _parts: dict[Part, Made] | None = None

    def run(self, rows: Relation | None, scope: str) -> None:
        """Put rows in place of those within `scope` (None: change no rows), and record the run."""
        self._commit(rows, scope, self._whole)

    def run_batch(self, rows: Relation | None, scope: str) -> None:
        """Put the rows of a batch in place of those within `scope`, and record that the step is not done yet."""
        if rows is not None:
            self._commit(rows, scope, self._batch)

    def _commit(self, rows: Relation | None, scope: str, work: Callable[[Transaction], Changes]) -> None:
        self._rows, self._scope = rows, scope
        step = self.work.target.step.name
        changes = self.context.catalog.commit(f"refresh {step}", work, self._unmoved)
        self.done.changes += changes
        if self._last is not None:
            self.context.runs[step] = self._last
        if self._parts is not None:
            self.context.made_parts[step] = self._parts

    def _unmoved(self) -> bool:
        """Whether the step's inputs are still those that were assessed."""
        now = self.context.last_changes()
        return all(now[table] == snapshot for table, snapshot in self.work.stale.inputs.items())

    def _whole(self, tx: Transaction) -> Changes:
        changes = self._replace(tx)
        total = self.done.changes + changes
        record = self._record(tx, total)
        if not self.done.partial:
            _write_run(tx, record, before=self.context.runs.get(record["step"]))
            if self.work.target.parts:
                self._write_parts(tx, {p: self._made(p, digest) for p, digest in self.work.now.items()})
            self._last = (record["fingerprint"], self.work.stale.inputs, self.work.target.made)
        elif total:
            self._unsettle(tx)
        tx.details.update({name: value for name, value in record.items() if name != "made"})
        tx.details.update(inputs=self.work.stale.inputs, why=list(self.work.stale.why))
        if self.kernel is not None and not self.work.target.keyed and (self.kernel.problems or self._gone):
            self._record_problems(tx, self.kernel.problems)
        return changes

    def _batch(self, tx: Transaction) -> Changes:
        changes = self._replace(tx)
        tx.details.update(added=changes.added, changed=changes.changed, removed=changes.removed)
        tx.details.update(step=self.work.target.step.name, fingerprint=self.work.target.fingerprint)
        tx.details.update(calls=self.done.calls, tokens=self.done.tokens, cost=self.done.cost)
        tx.details.update(why=list(self.work.stale.why))
        if changes:
            self._unsettle(tx)
        return changes

    def _replace(self, tx: Transaction) -> Changes:
        self._last, self._parts = None, None
        step = self.work.target.step
        return tx.replace(step.writes, self._rows, list(step.key), self._scope) if self._rows is not None else NONE

    def _record(self, tx: Transaction, changes: Changes) -> dict[str, Any]:
        """The row of `runs`."""
        target = self.work.target
        if "problem" in target.columns:
            mine = f"lake.main.{named(target.step.writes)} WHERE ({target.step.slice}) AND problem IS NOT NULL"
            self.done.failed = int(tx.rows(f"SELECT count(*) FROM {mine}")[0][0])
        return {
            "step": target.step.name,
            "fingerprint": target.fingerprint,
            "inputs": json.dumps(self.work.stale.inputs),
            "made": json.dumps(target.made, sort_keys=True),
            "added": changes.added,
            "changed": changes.changed,
            "removed": changes.removed,
            "failed": self.done.failed,
            "calls": self.done.calls,
            "tokens": self.done.tokens,
            "cost": self.done.cost,
            "seconds": round(time.monotonic() - self.done.begun, 3),
        }

    def _made(self, part: Part, digest: str) -> Made:
        made = self.work.stale.recorded.get(part, Made(""))
        return Made(digest, *self.work.contents.get(part, (made.rows, made.content)))

    def _unsettle(self, tx: Transaction) -> None:
        """Write down that some rows are not those of the recorded run: whatever comes next looks at them again.

        Else an edit that is taken back would find the step up to date, and a part that was read for some keys would
        be added to them once more.
        """
        target, work = self.work.target, self.work
        tx.execute("UPDATE lake.runs SET fingerprint = '' WHERE step = ? AND fingerprint <> ''", [target.step.name])
        last = self.context.runs.get(target.step.name)
        if last:
            self._last = ("", *last[1:])
        if target.parts and work.touched:
            # No digest of a whole part equals this one, and another filter gives another: the part is read again.
            touched = {part: Made(parts.digest_of(work.now[part], target.filter)) for part in work.touched}
            self._write_parts(tx, {**work.stale.recorded, **touched})

    def _write_parts(self, tx: Transaction, after: dict[Part, Made]) -> None:
        target = self.work.target
        parts.record(tx, target.step.name, target.parts, self.work.stale.recorded, after)
        self._parts = after

    @property
    def _gone(self) -> bool:
        return self.work.kernel is not None and bool(self.work.kernel.found.gone)

    def _record_problems(self, tx: Transaction, problems: Mapping[str, str | None]) -> None:
        """Make the step's rows of `problems` those that the kernel says, and drop those of subjects that are gone."""
        stage = self.work.target.step.name
        subjects = {str(key[0]) for key in self.work.kernel.rows} if self.work.kernel else set()
        there = dict(tx.rows("SELECT subject, reason FROM lake.problems WHERE stage = ?", [stage]))
        gone = set() if self.work.target.filter else there.keys() - subjects
        stale = [name for name, why in there.items() if name in gone or problems.get(name, why) != why]
        if stale:
            tx.execute("DELETE FROM lake.problems WHERE stage = ? AND list_contains(?, subject)", [stage, stale])
        new = {name: reason for name, reason in problems.items() if reason and there.get(name) != reason}
        tx.insert(
            "problems", [{"stage": stage, "subject": name, "reason": why, "count": 1} for name, why in new.items()]
        )


def _write_run(tx: Transaction, record: dict[str, Any], before: LastRun | None) -> None:
    """Make this the step's row of `runs`; `before` is what the row says now, None if there is none."""
    if before is None:
        tx.insert("runs", [record])
        return
    # In one statement: a DELETE and an INSERT take 8 ms more. Not `step = ?`: DuckLake would read the statistics of
    # all columns of all files, to skip files by them.
    columns = [name for name in record if name != "step"]
    listed = ", ".join(f"{named(name)} = ?" for name in columns)
    values = [*(record[name] for name in columns), record["step"]]
    ((rows,),) = tx.connection.execute(
        f"UPDATE lake.runs SET {listed} WHERE list_contains([?], step)", values
    ).fetchall()
    tx.changed = True
    if not rows:
        tx.insert("runs", [record])
