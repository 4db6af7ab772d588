"""One step of a refresh or a plan: what is stale, its new rows, and how they differ from those that are there.

A refresh commits the difference; a plan counts it and puts the rows beside the table, for the steps that follow.
Both go through the same stages, so that what a plan shows is what a refresh does.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import duckdb

from catalog import Catalog
from catalog.errors import InputsMoved, SaeqlError, StepError
from catalog.lake import quoted
from catalog.transaction import Changes, Comparison, Transaction, compare, named
from queries import parts
from queries.context import Context
from queries.estimate import Estimate, estimated
from queries.lineage import KEPT, parent_tables
from queries.step import Step, called, fingerprint

if TYPE_CHECKING:
    from scoring.client import Budget
    from scoring.kernels.contract import Asked

_FRESH = "_fresh"
_TRIES = 3
Key = tuple[Any, ...]


@dataclass
class KernelRun:
    """What a kernel may use besides its input rows, and what it reports back."""

    catalog: Catalog
    parameters: dict[str, Any]
    progress: Callable[[int, int], None]
    budget: "Budget"
    jobs: int | None = None
    calls: int = 0
    tokens: int = 0
    cost: float = 0.0

    def select(self, sql: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        """Rows of a user's SELECT, checked by the allow-list first. Raises QueryRefused as `guard.check` does."""
        from queries.guard import check

        return self.catalog.rows(check(sql, self.catalog).sql, parameters)


@dataclass(frozen=True)
class StepResult:
    """What one step of a refresh did, or would do."""

    step: str
    state: str
    """`current` (nothing to do), `done`, `failed`, `waiting` (a step it reads from failed), `part` (a limit or a
    filter left some of it undone), and in a plan `stale` or `after` (what it reads is not known before then)."""
    changes: Changes = field(default_factory=lambda: Changes(0, 0, 0))
    """Rows written; in a plan of a step with a kernel, its input keys."""
    same: int | None = None
    """In a plan: how many are as they should be."""
    why: tuple[str, ...] = ()
    failed: int = 0
    """Rows that carry a problem instead of a result."""
    left: int = 0
    """Stale keys that a limit, or `keep`, left as they are."""
    calls: int = 0
    tokens: int = 0
    cost: float = 0.0
    estimate: Estimate | None = None
    """In a plan: what the paid calls will come to."""
    keys: tuple[Key, ...] = ()
    """In a plan of a step with a kernel: the stale keys."""
    seconds: float = 0.0
    error: SaeqlError | None = None


class StepRun:
    """One step of one refresh or plan."""

    def __init__(self, context: Context, step: Step, parameters: dict[str, Any], advance: Callable[[int, int], None]):
        self.context, self.catalog, self.step = context, context.catalog, step
        self.parameters, self.advance = parameters, advance
        self.reads = parent_tables(step.parents, context.view_parents)
        self.made = step.made_of(parameters, context.schema)
        self.fingerprint = fingerprint(self.made)
        self.columns = dict(context.schema[step.writes])
        # A row that keeps the digest of its input is stale by itself; else the step's parts are recorded.
        self.keyed = step.kernel is not None and "input" in self.columns
        self.whole = step.kernel is not None and not set(step.input) <= self.columns.keys()
        self.retry = context.options.retry and self.keyed and "problem" in self.columns
        self.changes = Changes(0, 0, 0)
        self.kernel_run: KernelRun | None = None
        self.left = 0
        self.partial = False
        self.begun = time.monotonic()
        self.why: tuple[str, ...] = ()
        self.inputs: dict[str, int] = {}
        self.recorded: dict[parts.Part, parts.Made] = {}
        self.touched: list[parts.Part] = []
        """Parts whose rows this run replaces, of a step that records parts."""

    def run(self) -> StepResult:
        """Bring the step's table up to date, or say what that would do; every failure becomes a result."""
        try:
            for _ in range(_TRIES):
                inputs = self.inputs = self._inputs()
                recorded = self.context.runs.get(self.step.name)
                self.recorded = parts.recorded(self.catalog, self.step.name) if self._has_parts else {}
                again = self.retry and self._problems() > 0
                moved = self.reads & (self.context.expected | self.context.unknown)
                if recorded and (recorded[0], recorded[1]) == (self.fingerprint, inputs) and not again and not moved:
                    return self._result("current")
                self.why = tuple(self._reasons(recorded, inputs, again))
                if self.context.dry:
                    return self._planned()
                try:
                    self._refresh(json.dumps(inputs))
                except InputsMoved:
                    continue
                return self._result("part" if self.partial else "done")
            raise StepError(f"step {self.step.name}: its inputs kept changing; refresh again")
        except SaeqlError as error:
            return self._result("failed", error)
        except (duckdb.Error, OSError) as error:
            return self._result("failed", StepError(f"step {self.step.name}: {error}"))

    # -- what is stale ------------------------------------------------------------------------------------------

    def _inputs(self) -> dict[str, int]:
        """The last change of every table that the step reads."""
        changes = self.context.last_changes()
        return {table: changes[table] for table in sorted(self.reads)}

    @property
    def _has_parts(self) -> bool:
        """Whether what the step has made is recorded in parts."""
        return bool(self.step.partition) or (self.step.kernel is not None and not self.keyed)

    def _reasons(
        self, recorded: tuple[str, dict[str, int], dict[str, Any]] | None, inputs: dict[str, int], again: bool
    ) -> Iterator[str]:
        """Why the step has work, in words."""
        if recorded is None:
            yield "first run" if not self.context.was_rolled_back(self.step.name) else "rolled back"
            return
        fingerprint, before, made = recorded
        if not fingerprint:
            yield "the last refresh left some of its rows as they were"
        if made.get("query") != self.made["query"]:
            yield "query edited"
        if made.get("kernel") != self.made["kernel"]:
            yield f"kernel {self.step.kernel} edited"
        for name, digest in self.made["prompts"].items():
            if made.get("prompts", {}).get(name) != digest:
                yield f"prompt {name} edited"
        for name, value in self.made["parameters"].items():
            old = made.get("parameters", {}).get(name)
            if old != value:
                yield f"parameter {name}: {old} -> {value}"
        for table, snapshot in inputs.items():
            if before.get(table) != snapshot:
                yield f"inputs: {table} changed: {self.context.changed_by(before.get(table, 0), table)}"
        for table in sorted(self.reads & self.context.expected):
            yield f"inputs: {table} will change"
        if again:
            yield "rows with a problem are tried again"

    # -- a step in SQL ------------------------------------------------------------------------------------------

    def _parted_parents(self) -> dict[str, parts.Parted]:
        """The tables that the step reads in parts of its own columns."""
        found = {}
        for table in self.reads:
            parted = self.context.parted(table)
            if parted is not None and set(parted.columns) <= set(self.step.partition):
                found[table] = parted
        return found

    def _seed(self, parted: dict[str, parts.Parted]) -> str:
        """The fingerprint, and the last change of what is read whole and has no parts."""
        return json.dumps([self.fingerprint, {t: s for t, s in self.inputs.items() if t not in parted}])

    def _selection(self) -> tuple[dict[parts.Part, str], parts.Selection | None, parts.Difference]:
        """(digest of every part now, what to read and replace, which parts differ); no selection: no parts."""
        if not self.step.partition:
            return {}, None, parts.Difference()
        parents = self._parted_parents()
        now = parts.joined(self.step.partition, parents, self._seed(parents))
        found = parts.difference(now, {part: made.digest for part, made in self.recorded.items()})
        return now, parts.select(self.step.partition, self.columns, found, self.step.folds), found

    def _query_rows(self, selection: parts.Selection | None) -> str:
        """Put the query's rows, those of stale parts alone, into `_fresh`; the scope that they replace."""
        scope, narrow = self.step.slice, None
        if selection is not None:
            shape = {column: self.context.type_of(column) for column in self.step.partition}
            kept = [c for c in self.step.partition if c in self.columns]
            grown = {column: shape[column] for column in kept}
            parts.stage_parts(self.catalog, "_parts", shape, selection.read)
            parts.stage_parts(self.catalog, "_grown", grown, selection.grown)
            parts.stage_parts(self.catalog, "_groups", grown, selection.groups)
            parents = self._parted_parents()

            def narrow(table: str, relation: str) -> str:
                if table == KEPT:
                    own = f"(SELECT * FROM {self.context.relations.of(self.step.writes)} WHERE {self.step.slice})"
                    return parts.narrowed(own, kept, selection.grown, "_grown")
                if selection.everything or table not in parents or table in self.step.whole:
                    return relation
                columns = parents[table].columns
                read = [tuple(part[self.step.partition.index(c)] for c in columns) for part in selection.read]
                return parts.narrowed(relation, columns, read, "_parts")

            if not selection.everything:
                listed = ", ".join(map(named, kept))
                scope = f"({scope}) AND ({listed}) IN (SELECT ({listed}) FROM _groups)"
        query = self.context.relations.query(self.step.query, narrow)
        cast = ", ".join(f"CAST({named(name)} AS {kind}) AS {named(name)}" for name, kind in self.columns.items())
        where = "true"
        if self._filter:
            where = self._filter
            scope = f"({scope}) AND ({where})"
        made = f"CREATE OR REPLACE TEMP TABLE {_FRESH} AS SELECT {cast} FROM ({query}\n) WHERE {where}"
        self.catalog.connection.execute(made, self._named_in(query))
        return scope

    @property
    def _filter(self) -> str | None:
        """The condition of `--where`, if the step's key, or its kernel's, has all columns that it names.

        A kernel that writes all of its rows at once, such as a version of the vectors, needs all of its input.
        """
        where = None if self.whole else self.context.options.where
        by = self.step.input if self.step.kernel else self.step.key
        return where.sql if where is not None and set(where.columns) <= set(by) else None

    def _part_rows(self, selection: parts.Selection | None) -> dict[parts.Part, tuple[int, str]]:
        """(rows, digest of the rows) of each part in `_fresh`, for a step whose rows say their part."""
        if selection is None or not set(self.step.partition) <= self.columns.keys():
            return {}
        listed = ", ".join(map(named, self.step.partition))
        rows = self.catalog.rows(
            f"SELECT {listed}, count(*), sum(md5_number_lower(f::VARCHAR))::VARCHAR FROM {_FRESH} AS f "
            f"GROUP BY {listed}"
        )
        found = {tuple(row[:-2]): (int(row[-2]), str(row[-1])) for row in rows}
        return {part: found.get(part, (0, "0")) for part in selection.read}

    # -- a refresh ----------------------------------------------------------------------------------------------

    def _refresh(self, inputs: str) -> None:
        if self.step.kernel is not None:
            self._refresh_kernel(inputs)
            return
        now, selection, found = self._selection()
        idle = selection is not None and not found.stale and not found.gone and self.step.name in self.context.runs
        scope = self.step.slice if idle else self._query_rows(selection)
        contents = {} if idle else self._part_rows(selection)
        self.touched = selection.read if selection else []
        self.partial = self._filter is not None

        def work(tx: Transaction) -> Changes:
            changes = Changes(0, 0, 0)
            if not idle:
                changes = tx.replace(self.step.writes, _FRESH, list(self.step.key), scope)
            self._record(tx, inputs, changes, now, contents)
            return changes

        self.changes = self._commit(work, inputs)

    def _commit(self, work: Callable[[Transaction], Changes], inputs: str) -> Changes:
        def unchanged() -> bool:
            return json.dumps(self._inputs()) == inputs

        return self.catalog.commit(f"refresh {self.step.name}", work, unchanged)

    def _record(
        self,
        tx: Transaction,
        inputs: str,
        changes: Changes,
        now: dict[parts.Part, str],
        contents: dict[parts.Part, tuple[int, str]],
    ) -> None:
        """Write down, in the same snapshot, what the step has now been made from."""
        run = self.kernel_run
        row = {
            "step": self.step.name,
            "fingerprint": self.fingerprint,
            "inputs": inputs,
            "made": json.dumps(self.made, sort_keys=True),
            "added": changes.added,
            "changed": changes.changed,
            "removed": changes.removed,
            "failed": self._problems(),
            "calls": run.calls if run else 0,
            "tokens": run.tokens if run else 0,
            "cost": run.cost if run else 0.0,
            "seconds": round(time.monotonic() - self.begun, 3),
        }
        if not self.partial:
            tx.execute("DELETE FROM lake.runs WHERE step = ?", [self.step.name])
            tx.insert("runs", [row])
            self._record_parts(tx, now, contents)
            self.context.runs[self.step.name] = (self.fingerprint, json.loads(inputs), self.made)
        elif changes:
            self._unsettle(tx, now)
        said = {name: value for name, value in row.items() if name != "made"}
        tx.details.update(said, inputs=json.loads(inputs), why=list(self.why))

    def _unsettle(self, tx: Transaction, now: dict[parts.Part, str]) -> None:
        """Write down that some rows are not those of the recorded run: whatever comes next looks at them again.

        Else an edit that is taken back would find the step up to date, and a part that was read for some keys would
        be added to them once more.
        """
        last = self.context.runs.get(self.step.name)
        if last and last[0]:
            tx.execute("UPDATE lake.runs SET fingerprint = '' WHERE step = ?", [self.step.name])
            self.context.runs[self.step.name] = ("", *last[1:])
        if self._has_parts and self.touched:
            # Differs from what the parts will be made from, and with what these rows were made from.
            digests = {part: _digest([now[part], self._filter]) for part in self.touched}
            self._write_parts(tx, digests, {}, everything=False)

    def _record_parts(
        self, tx: Transaction, now: dict[parts.Part, str], contents: dict[parts.Part, tuple[int, str]]
    ) -> None:
        if not self._has_parts:
            return
        kept = {part: (made.rows, made.content) for part, made in self.recorded.items()}
        self._write_parts(tx, now, {**kept, **contents})

    def _write_parts(
        self,
        tx: Transaction,
        digests: dict[parts.Part, str],
        contents: Mapping[parts.Part, tuple[int | None, str | None]],
        *,
        everything: bool = True,
    ) -> None:
        """Replace what is recorded of all parts, or of these."""
        columns = self.step.input if self.step.kernel else self.step.partition
        rows = []
        for part, digest in digests.items():
            count, content = contents.get(part, (None, None))
            row = {"step": self.step.name, "part": parts.written(columns, part), "digest": digest}
            rows.append({**row, "rows": count, "content": content})
        self.catalog.stage("partitions", rows, "_made_parts")
        scope = f"step = {quoted(self.step.name)}" + ("" if everything else " AND part IN (SELECT part FROM _made_parts)")
        tx.replace("partitions", "_made_parts", ["step", "part"], scope)
        self.context.forget(self.step.writes)

    # -- a step with a kernel -----------------------------------------------------------------------------------

    def _kernel_input(self) -> tuple[dict[Key, dict[str, Any]], dict[Key, str], "dict[Key, Asked]"]:
        """(row, digest, what it would ask) of each input key of the kernel, in the order of the keys."""
        query = self.context.relations.query(self.step.query)
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
            return {part: made.digest for part, made in self.recorded.items()}
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

    def _refresh_kernel(self, inputs: str) -> None:
        """Give new and changed input rows to the kernel; commit each batch that it yields."""
        from scoring.client import Budget

        rows, digests, _ = self._kernel_input()
        self.left = 0
        found = self._stale_keys(digests)
        self.partial = bool(self.left) or self._filter is not None
        options = self.context.options
        budget = self.context.budget = self.context.budget or Budget(options.max_calls, options.max_cost)
        run = self.kernel_run = KernelRun(self.catalog, self.parameters, self.advance, budget, options.jobs)
        if self.keyed:
            self._run_keyed(rows, digests, found, run, inputs)
            return
        self.touched = found.stale
        stale = found.stale or found.gone
        fresh = list(rows.values()) if self.whole else [rows[key] for key in found.stale]
        output = [row for batch in self._kernel(fresh, run) for row in batch] if stale and fresh else []
        columns = ", ".join(named(name) for name in self.step.input)
        scope = self.step.slice
        if not self.whole and found.same:
            shape = {name: self.columns[name] for name in self.step.input}
            parts.stage_parts(self.catalog, "_keys", shape, [*found.stale, *found.gone])
            scope = f"({scope}) AND ({columns}) IN (SELECT ({columns}) FROM _keys)"
        self.catalog.stage(self.step.writes, output)

        def work(tx: Transaction) -> Changes:
            changes = Changes(0, 0, 0)
            if stale:
                changes = tx.replace(self.step.writes, _FRESH, list(self.step.key), scope)
            self._record(tx, inputs, changes, digests, {})
            return changes

        self.changes = self._commit(work, inputs)

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
            self._commit_keys(keys, output, inputs)
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
        parts.stage_parts(self.catalog, "_keys", shape, keys)
        self.catalog.stage(self.step.writes, output)
        scope = f"({self.step.slice}) AND ({columns}) IN (SELECT ({columns}) FROM _keys)"

        def work(tx: Transaction) -> Changes:
            changes = Changes(0, 0, 0)
            if keys:
                changes = tx.replace(self.step.writes, _FRESH, list(self.step.key), scope)
            total = self._sum(changes)
            if last:
                self._record(tx, inputs, total, {}, {})
            else:
                run = self.kernel_run
                counts = {"added": changes.added, "changed": changes.changed, "removed": changes.removed}
                tx.details.update(counts, step=self.step.name, fingerprint=self.fingerprint, why=list(self.why))
                if changes:
                    self._unsettle(tx, {})
                if run:
                    tx.details.update(calls=run.calls, tokens=run.tokens, cost=run.cost)
            return changes

        self.changes = self._sum(self._commit(work, inputs))

    def _sum(self, more: Changes) -> Changes:
        so_far = self.changes
        return Changes(so_far.added + more.added, so_far.changed + more.changed, so_far.removed + more.removed)

    def _kernel(self, rows: list[dict[str, Any]], run: KernelRun) -> Iterator[list[dict[str, Any]]]:
        if rows:
            yield from called(str(self.step.kernel))(rows, run)

    # -- a plan -------------------------------------------------------------------------------------------------

    def _planned(self) -> StepResult:
        unknown = sorted(self.reads & self.context.unknown)
        if unknown:
            self.context.unknown.add(self.step.writes)
            return self._result("after", same=None, why=(f"inputs: {', '.join(unknown)} not known yet",))
        if self.step.kernel is not None:
            return self._planned_kernel()
        now, selection, found = self._selection()
        if selection is not None and not found.stale and not found.gone:
            return self._result("current")
        scope = self._query_rows(selection)
        comparison = self._compared(scope)
        before = self.context.parted(self.step.writes)
        if before is not None and selection is not None:
            made = {part: content for part, (_, content) in self._part_rows(selection).items()}
            after = {part: made.get(part) or before.digests[part] for part in now}
            self.context.expect_parts(self.step.writes, self.step.partition, after)
        self._expect(scope, comparison)
        if not comparison.changes:
            return self._result("current", same=comparison.same)
        self.changes = comparison.changes
        return self._result("stale", same=comparison.same)

    def _compared(self, scope: str) -> Comparison:
        there = self.context.relations.of(self.step.writes)
        return compare(self.catalog.connection, self.step.writes, _FRESH, list(self.step.key), scope, there)

    def _expect(self, scope: str, comparison: Comparison) -> None:
        """Put the rows in `_fresh` beside the table, if they differ from what is there."""
        if not comparison.changes:
            return
        copy = f"_plan_{self.step.name}"
        self.catalog.connection.execute(f"CREATE OR REPLACE TEMP TABLE {copy} AS FROM {_FRESH}")
        for staged in ("_groups", "_keys"):
            if f"FROM {staged})" in scope:
                self.catalog.connection.execute(f"CREATE OR REPLACE TEMP TABLE {copy}{staged} AS FROM {staged}")
                scope = scope.replace(f"FROM {staged})", f"FROM {copy}{staged})")
        self.context.expect(self.step.writes, scope, copy, list(self.columns))

    def _planned_kernel(self) -> StepResult:
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
        from scoring.client import Budget

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
        parts.stage_parts(self.catalog, "_keys", shape, [*found.stale, *found.gone])
        self.catalog.stage(self.step.writes, output)
        scope = f"({self.step.slice}) AND ({columns}) IN (SELECT ({columns}) FROM _keys)"
        self._expect(scope, self._compared(scope))

    # -- small things -------------------------------------------------------------------------------------------

    def _named_in(self, query: str) -> dict[str, Any]:
        """The parameters that a query names; the engine refuses others, and a kernel may have some of its own."""
        return {name: value for name, value in self.parameters.items() if re.search(rf"\${name}\b", query)}

    def _key(self, row: dict[str, Any]) -> Key:
        return tuple(row[name] for name in self.step.input)

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
        run = self.kernel_run
        said: dict[str, Any] = {
            "changes": self.changes,
            "why": () if state == "current" else self.why,
            "failed": 0 if error else self._problems(),
            "left": self.left,
            "calls": run.calls if run else 0,
            "tokens": run.tokens if run else 0,
            "cost": run.cost if run else 0.0,
            "seconds": time.monotonic() - self.begun,
            "error": error,
        }
        return StepResult(self.step.name, state, **{**said, **more})


def _digest(said: Any) -> str:
    return hashlib.blake2b(json.dumps(said).encode(), digest_size=16).hexdigest()
