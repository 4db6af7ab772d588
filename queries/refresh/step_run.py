"""Assesses one step of a refresh or a plan: whether it is stale and why, its record, the rows that a plan expects.

A refresh commits the difference between the rows that a step gives and those that are there; a plan counts it and
puts the rows beside the table, for the steps that follow. Both go through the same stages, so that what a plan
shows is what a refresh does. How the rows come about is `QueryRun`'s and `KernelStepRun`'s.
"""

import json
import re
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

import duckdb

from catalog.errors import InputsMoved, SaeqlError, StepError
from catalog.quote import named
from catalog.store.comparison import Changes, Comparison, compare
from catalog.store.transaction import Transaction
from queries.refresh import parts
from queries.refresh.context import Context
from queries.refresh.reads import parent_tables
from queries.refresh.reasons import reasons
from queries.refresh.result import StepResult
from queries.refresh.step import Step, fingerprint

_TRIES = 3


class StepRun:
    """One step of one refresh or plan."""

    def __init__(self, context: Context, step: Step, parameters: dict[str, Any], advance: Callable[[int, int], None]):
        self.context, self.catalog, self.step = context, context.catalog, step
        self.parameters, self.advance = parameters, advance
        self.fresh, self.keys, self.groups = (f"_{what}_{step.name}" for what in ("fresh", "keys", "groups"))
        """Temporary tables of this step alone: its new rows, the input keys and the parts that they replace."""
        self.reads = parent_tables(step.parents, context.view_parents)
        self.made = context.made_of(step, parameters)
        self.fingerprint = fingerprint(self.made)
        self.columns = dict(context.schema[step.writes])
        # A row that keeps the digest of its input is stale by itself; else the step's parts are recorded.
        self.keyed = step.kernel is not None and "input" in self.columns
        self.whole = step.kernel is not None and not set(step.input) <= self.columns.keys()
        self.retry = context.options.retry and self.keyed and "problem" in self.columns
        self.changes = Changes(0, 0, 0)
        self.calls, self.tokens, self.cost = 0, 0, 0.0
        self.left = 0
        self.warnings: tuple[str, ...] = ()
        self.partial = False
        self.lost = ""
        """What is missing on disk of what the step made."""
        self.begun = time.monotonic()
        self.why: tuple[str, ...] = ()
        self.inputs: dict[str, int] = {}
        self.recorded: dict[parts.Part, parts.Made] = {}
        self.touched: list[parts.Part] = []
        """Parts whose rows this run replaces, of a step that records parts."""
        self._entry: tuple[str, dict[str, int], dict[str, Any]] | None = None
        """What the open transaction records of this run: the steps that follow see it when it is committed."""
        self._made_parts: dict[parts.Part, parts.Made] | None = None

    def run(self) -> StepResult:
        """Bring the step's table up to date, or say what that would do; every failure becomes a result."""
        try:
            for _ in range(_TRIES):
                with nullcontext() if self.context.dry else self.catalog.reading(keep=True):
                    if not self._has_work():
                        return self._result("current")
                    if self.context.dry:
                        return self._planned_if_known()
                    finish = self._stage(json.dumps(self.inputs))
                with suppress(InputsMoved):
                    finish()
                    return self._result("part" if self.partial else "done")
            raise StepError(f"step {self.step.name}: its inputs kept changing; refresh again")
        except SaeqlError as error:
            return self._result("failed", error)
        except (duckdb.Error, OSError) as error:
            return self._result("failed", StepError(f"step {self.step.name}: {error}"))
        finally:
            # What a plan expects is read by the steps that follow; what a refresh made is in the catalog.
            if not self.context.dry:
                self._drop_scratch()

    def _drop_scratch(self) -> None:
        for name in (self.fresh, self.keys, self.groups):
            # After a failure the connection may be of no use any more, which the result says.
            with suppress(duckdb.Error):
                self.catalog.connection.execute(f"DROP TABLE IF EXISTS {name}")

    def _has_work(self) -> bool:
        """Whether anything is not as in the last run, and `why`."""
        self.inputs = self._inputs()
        recorded = self.context.runs.get(self.step.name)
        self.recorded = self.context.recorded(self.step.name) if self._has_parts else {}
        again = self.retry and self._problems() > 0
        self.lost = self._lost_vectors()
        moved = self.reads & (self.context.expected | self.context.unknown)
        if (
            recorded
            and (recorded[0], recorded[1]) == (self.fingerprint, self.inputs)
            and not (again or moved or self.lost)
        ):
            return False
        self.why = tuple(reasons(self, recorded, again))
        return True

    def _lost_vectors(self) -> str:
        """Why the vectors that the step wrote are not all there, empty if they are."""
        if self.step.writes != "lance":
            return ""
        from catalog.vectors.collections import Vectors

        vectors = Vectors(self.catalog.vectors)
        named = self.catalog.rows(f"SELECT collection, version FROM lance WHERE {self.step.slice}")
        return "; ".join(filter(None, (vectors.lost(collection, version) for collection, version in named)))

    def _stage(self, inputs: str) -> Callable[[], None]:
        """Read what the stale rows are made from, of one snapshot; what then makes the rest and commits them."""
        raise NotImplementedError

    def _planned(self) -> StepResult:
        """Say what a refresh would do."""
        raise NotImplementedError

    def _planned_if_known(self) -> StepResult:
        unknown = sorted(self.reads & self.context.unknown)
        if unknown:
            self.context.unknown.add(self.step.writes)
            return self._result("after", same=None, why=(f"inputs: {', '.join(unknown)} not known yet",))
        return self._planned()

    def _inputs(self) -> dict[str, int]:
        """The last change of every table that the step reads."""
        changes = self.context.last_changes()
        return {table: changes[table] for table in sorted(self.reads)}

    @property
    def _has_parts(self) -> bool:
        """Whether what the step has made is recorded in parts."""
        return bool(self.step.partition) or (self.step.kernel is not None and not self.keyed)

    @property
    def _filter(self) -> str | None:
        """The condition of `--where`, if the step's key, or its kernel's, has all columns that it names.

        A kernel that writes all of its rows at once, such as a version of the vectors, needs all of its input.
        """
        where = None if self.whole else self.context.options.where
        by = self.step.input if self.step.kernel else self.step.key
        return where.sql if where is not None and set(where.columns) <= set(by) else None

    def _commit(self, work: Callable[[Transaction], Changes], inputs: str) -> Changes:
        def unchanged() -> bool:
            return json.dumps(self._inputs()) == inputs

        def anew(tx: Transaction) -> Changes:
            self._entry, self._made_parts = None, None
            return work(tx)

        changes = self.catalog.commit(f"refresh {self.step.name}", anew, unchanged)
        if self._entry is not None:
            self.context.runs[self.step.name] = self._entry
        if self._made_parts is not None:
            self.context.made_parts[self.step.name] = self._made_parts
        return changes

    def _record(
        self,
        tx: Transaction,
        inputs: str,
        changes: Changes,
        now: dict[parts.Part, str],
        contents: dict[parts.Part, tuple[int, str]],
    ) -> None:
        """Write down, in the same snapshot, what the step has now been made from."""
        row = {
            "step": self.step.name,
            "fingerprint": self.fingerprint,
            "inputs": inputs,
            "made": json.dumps(self.made, sort_keys=True),
            "added": changes.added,
            "changed": changes.changed,
            "removed": changes.removed,
            "failed": self._problems(),
            "calls": self.calls,
            "tokens": self.tokens,
            "cost": self.cost,
            "seconds": round(time.monotonic() - self.begun, 3),
        }
        if not self.partial:
            # Not `step = ?`: DuckLake would read the statistics of all columns of all files, to skip files by them.
            tx.execute("DELETE FROM lake.runs WHERE list_contains([?], step)", [self.step.name])
            tx.insert("runs", [row])
            self._record_parts(tx, now, contents)
            self._entry = (self.fingerprint, json.loads(inputs), self.made)
        elif changes:
            self._unsettle(tx, now)
        said = {name: value for name, value in row.items() if name != "made"}
        tx.details.update(said, inputs=json.loads(inputs), why=list(self.why))

    def _unsettle(self, tx: Transaction, now: dict[parts.Part, str]) -> None:
        """Write down that some rows are not those of the recorded run: whatever comes next looks at them again.

        Else an edit that is taken back would find the step up to date, and a part that was read for some keys would
        be added to them once more.
        """
        tx.execute("UPDATE lake.runs SET fingerprint = '' WHERE step = ? AND fingerprint <> ''", [self.step.name])
        last = self.context.runs.get(self.step.name)
        if last:
            self._entry = ("", *last[1:])
        if self._has_parts and self.touched:
            # Differs from what the parts will be made from, and with what these rows were made from.
            touched = {part: parts.Made(parts.digest_of(now[part], self._filter)) for part in self.touched}
            self._write_parts(tx, {**self.recorded, **touched})

    def _record_parts(
        self, tx: Transaction, now: dict[parts.Part, str], contents: dict[parts.Part, tuple[int, str]]
    ) -> None:
        if not self._has_parts:
            return
        rows = {}
        for part, digest in now.items():
            made = self.recorded.get(part, parts.Made(""))
            rows[part] = parts.Made(digest, *contents.get(part, (made.rows, made.content)))
        self._write_parts(tx, rows)

    def _write_parts(self, tx: Transaction, after: dict[parts.Part, parts.Made]) -> None:
        columns = self.step.input if self.step.kernel else self.step.partition
        parts.record(tx, self.step.name, columns, self.recorded, after)
        self._made_parts = after

    def _compared(self, scope: str) -> Comparison:
        there = self.context.relations.of(self.step.writes)
        return compare(self.catalog.connection, self.step.writes, self.fresh, list(self.step.key), scope, there)

    def _expect(self, scope: str, comparison: Comparison) -> None:
        """Put the new rows beside the table, if they differ from what is there."""
        if comparison.changes:
            self.context.expect(self.step.writes, scope, self.fresh, list(self.columns))

    def _named_in(self, query: str) -> dict[str, Any]:
        """The parameters that a query names; the engine refuses others, and a kernel may have some of its own."""
        return {name: value for name, value in self.parameters.items() if re.search(rf"\${name}\b", query)}

    def _problems(self) -> int:
        """Rows of the step that carry a problem."""
        if "problem" not in self.columns:
            return 0
        return int(
            self.catalog.value(
                f"SELECT count(*) FROM lake.{named(self.step.writes)} WHERE ({self.step.slice}) AND problem IS NOT NULL"
            )
        )

    def _result(self, state: str, error: SaeqlError | None = None, **more: Any) -> StepResult:
        said: dict[str, Any] = {
            "changes": self.changes,
            "why": () if state == "current" else self.why,
            "failed": 0 if error else self._problems(),
            "left": self.left,
            "calls": self.calls,
            "tokens": self.tokens,
            "cost": self.cost,
            "warnings": self.warnings,
            "seconds": time.monotonic() - self.begun,
            "error": error,
        }
        return StepResult(self.step.name, state, **{**said, **more})
