"""Runs a step with a kernel: only input rows that are new or changed reach it, and paid calls are counted.

Rows that keep the digest of their input in the column `input` are committed batch by batch, so that a run which is
cut off goes on where it was. A kernel whose rows do not say what they were made from has its digests recorded by
input key; one whose table has none of the input's columns, such as a Lance collection's version, runs whole.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from catalog import Catalog
from catalog.errors import StepError
from catalog.quote import named
from catalog.store.comparison import Changes
from catalog.store.transaction import Transaction
from queries.refresh import parts
from queries.refresh.result import Key, StepResult
from queries.refresh.step import called
from queries.refresh.step_run import StepRun
from scoring.client.estimate import Estimate, estimated

if TYPE_CHECKING:
    from scoring.client.budget import Budget
    from scoring.client.request import Asked


@dataclass
class KernelRun:
    """What a kernel may use besides its input rows, and what it reports back."""

    catalog: Catalog
    parameters: dict[str, Any]
    progress: Callable[[int, int], None]
    budget: "Budget"
    jobs: int | None = None
    problems: dict[str, str | None] = field(default_factory=dict)
    calls: int = 0
    tokens: int = 0
    cost: float = 0.0

    def select(self, sql: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        """Rows of a user's SELECT, checked by the allow-list first. Raises QueryRefused as `guard.check` does."""
        from queries.ask.guard import check

        return self.catalog.rows(check(sql, self.catalog).sql, parameters)


class KernelStepRun(StepRun):
    """One refresh or plan of a step with a kernel."""

    def _kernel_input(self) -> tuple[dict[Key, dict[str, Any]], dict[Key, str], "dict[Key, Asked]"]:
        """(row, digest, what it would ask) of each input key of the kernel, in the order of the keys."""
        query = self.context.relations.query(self.step.query, self.step.parents)
        where = f" WHERE {self._filter}" if self._filter else ""
        asks = called(self.step.asks) if self.step.asks else None
        digest = "NULL" if asks else "md5(to_json(q)::VARCHAR)"
        text = f"SELECT q.*, {digest} AS _digest FROM ({query}\n) AS q{where}"
        rows: dict[Key, dict[str, Any]] = {}
        digests: dict[Key, str] = {}
        asked: dict[Key, Asked] = {}
        kernel = json.dumps([self.made["kernel"], None if asks else self.parameters])
        found = self.catalog.arrow(text, self._named_in(text)).to_pylist()
        for row in sorted(found, key=lambda row: self._key(row)):
            key, shown = self._key(row), row.pop("_digest")
            if asks:
                asked[key] = asks(row, self.parameters)
                shown = asked[key].shown
            rows[key] = row
            digests[key] = hashlib.blake2b((kernel + shown).encode(), digest_size=16).hexdigest()
        return rows, digests, asked

    def _stored(self) -> dict[Key, str]:
        """Digest of the input that each key's rows were made from."""
        if not self.keyed:
            # What is lost on disk is made anew, whatever it was made from.
            return {part: "" if self.lost else made.digest for part, made in self.recorded.items()}
        columns = ", ".join(named(name) for name in self.step.input)
        # A row whose problem is to be tried again counts as made from something else.
        digest = "CASE WHEN count(problem) > 0 THEN '' ELSE any_value(input) END" if self.retry else "any_value(input)"
        where = f"({self.step.slice})" + (f" AND ({self._filter})" if self._filter else "")
        rows = self.catalog.rows(
            f"SELECT {columns}, {digest} FROM lake.{named(self.step.writes)} WHERE {where} GROUP BY {columns}"
        )
        return {tuple(row[:-1]): row[-1] for row in rows}

    def _stale_keys(self, digests: dict[Key, str]) -> parts.Difference:
        """Which keys the kernel has to look at."""
        found = parts.difference(digests, self._stored())
        if self._filter and not self.keyed:
            found = parts.Difference(found.new, found.changed, [], found.same)
        if self.step.writes in self.context.options.keep and self.keyed:
            self.left += len(found.changed)
            found = parts.Difference(found.new, [], found.gone, [*found.same, *found.changed])
        return found

    def _stage(self, inputs: str) -> Callable[[], None]:
        rows, digests, _ = self._kernel_input()
        self.left = 0
        found = self._stale_keys(digests)
        return partial(self._run, rows, digests, found, inputs)

    def _run(
        self, rows: dict[Key, dict[str, Any]], digests: dict[Key, str], found: parts.Difference, inputs: str
    ) -> None:
        """Give new and changed input rows to the kernel; commit each batch that it yields."""
        from scoring.client.budget import Budget

        self.partial = bool(self.left) or self._filter is not None
        options = self.context.options
        budget = self.context.budget = self.context.budget or Budget(options.max_calls, options.max_cost)
        run = KernelRun(self.catalog, self.parameters, self.advance, budget, options.jobs)
        if self.keyed:
            self._run_keyed(rows, digests, found, run, inputs)
            return
        self.touched = found.stale
        stale = found.stale or found.gone
        fresh = list(rows.values()) if self.whole else [rows[key] for key in found.stale]
        output = [row for batch in self._kernel(fresh, run) for row in batch] if stale and fresh else []
        self._count(run)
        columns = ", ".join(named(name) for name in self.step.input)
        scope = self.step.slice
        if not self.whole and found.same:
            shape = {name: self.columns[name] for name in self.step.input}
            parts.stage_parts(self.catalog, self.keys, shape, [*found.stale, *found.gone])
            scope = f"({scope}) AND ({columns}) IN (SELECT ({columns}) FROM {self.keys})"
        self.catalog.stage(self.step.writes, output, self.fresh)

        def work(tx: Transaction) -> Changes:
            changes = Changes(0, 0, 0)
            if stale:
                changes = tx.replace(self.step.writes, self.fresh, list(self.step.key), scope)
            self._record(tx, inputs, changes, digests, {})
            if run.problems or found.gone:
                self._record_problems(tx, run, {str(key[0]) for key in rows})
            return changes

        self.changes = self._commit(work, inputs)
        said = [(subject, problem) for subject, problem in run.problems.items() if problem]
        self.warnings = tuple(f"{self.step.input[0]} {subject!r}: {problem}" for subject, problem in said)

    def _record_problems(self, tx: Transaction, run: KernelRun, subjects: set[str]) -> None:
        """Make the step's rows of `problems` those that the kernel says, and drop those of subjects that are gone."""
        stage = self.step.name
        there = dict(tx.execute("SELECT subject, reason FROM lake.problems WHERE stage = ?", [stage]))
        stale = [name for name, why in there.items() if name not in subjects or run.problems.get(name, why) != why]
        if stale:
            tx.execute("DELETE FROM lake.problems WHERE stage = ? AND list_contains(?, subject)", [stage, stale])
        new = {name: reason for name, reason in run.problems.items() if reason and there.get(name) != reason}
        tx.insert(
            "problems", [{"stage": stage, "subject": name, "reason": why, "count": 1} for name, why in new.items()]
        )

    def _run_keyed(
        self,
        rows: dict[Key, dict[str, Any]],
        digests: dict[Key, str],
        found: parts.Difference,
        run: KernelRun,
        inputs: str,
    ) -> None:
        waiting = set(found.stale)
        for output in self._kernel([rows[key] for key in sorted(found.stale)], run):
            keys = list(dict.fromkeys(self._key(row) for row in output))
            waiting -= set(keys)
            for row in output:
                row["input"] = digests[self._key(row)]
            self._count(run)
            self._commit_keys(keys, output, inputs)
        self._count(run)
        if waiting and not run.budget.spent:
            raise StepError(
                f"step {self.step.name}: the kernel gave no row for {len(waiting)} inputs, such as {min(waiting)}"
            )
        self.left += len(waiting)
        self.partial = self.partial or bool(waiting)
        self._commit_keys(found.gone, [], inputs, last=True)

    def _commit_keys(self, keys: list[Key], output: list[dict[str, Any]], inputs: str, *, last: bool = False) -> None:
        """Replace the rows of these input keys; the last commit records the run."""
        columns = ", ".join(named(name) for name in self.step.input)
        shape = {name: self.columns[name] for name in self.step.input}
        parts.stage_parts(self.catalog, self.keys, shape, keys)
        self.catalog.stage(self.step.writes, output, self.fresh)
        scope = f"({self.step.slice}) AND ({columns}) IN (SELECT ({columns}) FROM {self.keys})"

        def work(tx: Transaction) -> Changes:
            changes = Changes(0, 0, 0)
            if keys:
                changes = tx.replace(self.step.writes, self.fresh, list(self.step.key), scope)
            total = self._sum(changes)
            if last:
                self._record(tx, inputs, total, {}, {})
            else:
                counts = {"added": changes.added, "changed": changes.changed, "removed": changes.removed}
                tx.details.update(counts, step=self.step.name, fingerprint=self.fingerprint, why=list(self.why))
                tx.details.update(calls=self.calls, tokens=self.tokens, cost=self.cost)
                if changes:
                    self._unsettle(tx, {})
            return changes

        self.changes = self._sum(self._commit(work, inputs))

    def _count(self, run: KernelRun) -> None:
        """Take over what the kernel has paid so far."""
        self.calls, self.tokens, self.cost = run.calls, run.tokens, run.cost

    def _sum(self, more: Changes) -> Changes:
        so_far = self.changes
        return Changes(so_far.added + more.added, so_far.changed + more.changed, so_far.removed + more.removed)

    def _kernel(self, rows: list[dict[str, Any]], run: KernelRun) -> Iterator[list[dict[str, Any]]]:
        if rows:
            yield from called(str(self.step.kernel))(rows, run)

    def _planned_if_known(self) -> StepResult:
        result = super()._planned_if_known()
        if result.state == "after" and self.step.asks:
            result = replace(result, estimate=Estimate(0, 0, 0, 0, 0.0, 0, self._may_ask()))
        return result

    def _may_ask(self) -> tuple[tuple[str, str | None], ...]:
        """(model, base_url) of every endpoint that the step's explainers or scorers name."""
        found: dict[tuple[str, str | None], None] = {}
        for table in sorted({"explainers", "scorers"} & set(self.step.parents)):
            rows = f"SELECT model, settings FROM {self.context.relations.of(table)} WHERE provider <> 'lexical'"
            for model, settings in self.catalog.rows(f"{rows} ORDER BY ALL"):
                with suppress(ValueError, TypeError, AttributeError):
                    found[model, json.loads(settings).get("base_url")] = None
        return tuple(found)

    def _planned(self) -> StepResult:
        rows, digests, asked = self._kernel_input()
        found = self._stale_keys(digests)
        if not self.keyed:
            self.context.expect_parts(self.step.writes, self.step.input, digests)
        if not found.stale and not found.gone:
            return self._result("current", same=len(found.same))
        if self.step.runs_in_plan:
            self._plan_by_running(rows, found)
        elif asked:
            self._plan_expected(asked, found)
        else:
            self.context.unknown.add(self.step.writes)
        self.changes = Changes(len(found.new), len(found.changed), len(found.gone))
        requests = [request for key in found.stale if key in asked for request in asked[key].requests]
        estimate = estimated(self.catalog, requests) if self.step.asks else None
        return self._result(
            "stale", same=len(found.same), estimate=estimate, keys=tuple(sorted((*found.stale, *found.gone)))
        )

    def _plan_by_running(self, rows: dict[Key, dict[str, Any]], found: parts.Difference) -> None:
        from scoring.client.budget import Budget

        run = KernelRun(self.catalog, self.parameters, self.advance, Budget(0))
        output = [row for batch in self._kernel([rows[key] for key in found.stale], run) for row in batch]
        self._stage_expected(output, found)

    def _plan_expected(self, asked: "dict[Key, Asked]", found: parts.Difference) -> None:
        """What the kernel may give for stale keys; if nobody can know, what reads it can only be planned after."""
        expected = [row for key in found.stale for row in asked[key].expected]
        if len(expected) < len(found.stale) or "input" not in self.columns:
            self.context.unknown.add(self.step.writes)
            return
        self._stage_expected([{**row, "input": ""} for row in expected], found)

    def _stage_expected(self, output: list[dict[str, Any]], found: parts.Difference) -> None:
        columns = ", ".join(named(name) for name in self.step.input)
        shape = {name: self.columns[name] for name in self.step.input}
        parts.stage_parts(self.catalog, self.keys, shape, [*found.stale, *found.gone])
        self.catalog.stage(self.step.writes, output, self.fresh)
        scope = f"({self.step.slice}) AND ({columns}) IN (SELECT ({columns}) FROM {self.keys})"
        self._expect(scope, self._compared(scope))

    def _key(self, row: dict[str, Any]) -> Key:
        return tuple(row[name] for name in self.step.input)
