"""The refresh: finds what is stale, runs it, commits one snapshot a step.

A step is skipped when its fingerprint and the last change of every table it reads are those of its last
run. Of a step with a kernel, only input rows whose digest is new reach the kernel. A step that fails
leaves its table as it was; steps that do not depend on it go on.
"""

import hashlib
import importlib
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import duckdb
import sqlglot

from catalog import Catalog
from catalog.errors import SaeqlError, StepError
from catalog.locks import locked
from catalog.transaction import Changes, Transaction, named
from queries.step import Step, ordered, packaged_steps, parent_tables, tables_read

_FRESH = "_fresh"
_TRIES = 3


@dataclass
class KernelRun:
    """What a kernel may use besides its input rows, and what it reports back."""

    catalog: Catalog
    parameters: dict[str, Any]
    progress: Callable[[int, int], None]
    calls: int = 0
    """Calls of a paid endpoint."""
    cost: float = 0.0
    """Money spent, in the unit of the study's prices."""

    def select(self, sql: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        """Rows of a user's SELECT, checked by the allow-list first. Raises QueryRefused as `guard.check` does."""
        from queries.guard import check

        return self.catalog.rows(check(sql, self.catalog).sql, parameters)


@dataclass(frozen=True)
class StepResult:
    """What one step of a refresh did."""

    step: str
    state: str
    """`current` (nothing to do), `done`, `failed`, or `waiting` (a step it depends on failed)."""
    changes: Changes = field(default_factory=lambda: Changes(0, 0, 0))
    failed: int = 0
    """Rows that carry a problem instead of a result."""
    calls: int = 0
    cost: float = 0.0
    seconds: float = 0.0
    error: SaeqlError | None = None


@dataclass
class Listener:
    """Callbacks for whoever shows progress; each may be left as it is."""

    begin: Callable[[Step], None] = lambda step: None
    advance: Callable[[Step, int, int], None] = lambda step, done, total: None
    end: Callable[[StepResult], None] = lambda result: None


def refresh(
    catalog: Catalog,
    names: tuple[str, ...] = (),
    settings: dict[str, Any] | None = None,
    listener: Listener | None = None,
    wait: float = 0.0,
    retry: bool = False,
) -> list[StepResult]:
    """Run every stale step (or those named and what they need), in the order of what they read.

    `settings` maps `step.parameter` to a value. With `retry`, rows that carry a problem are
    asked for again. Raises StepError for an unknown step or parameter,
    CatalogLocked if another refresh runs. A failing step is a result, not an exception.
    """
    listener = listener or Listener()
    views = view_parents(catalog)
    steps = _chosen(ordered(packaged_steps(), views), names, views)
    parameters = {step.name: _parameters(step, settings or {}) for step in steps}
    _check_settings(settings or {})
    results: list[StepResult] = []
    failed: set[str] = set()
    with locked(catalog.root / "refresh.lock", wait=wait):
        for step in steps:
            reads = parent_tables(step, views)
            if reads & failed:
                result = StepResult(step.name, "waiting")
                failed.add(step.writes)
            else:
                listener.begin(step)
                result = _StepRun(catalog, step, reads, parameters[step.name], listener, retry).run()
                if result.state == "failed":
                    failed.add(step.writes)
            results.append(result)
            listener.end(result)
    return results


def view_parents(catalog: Catalog) -> dict[str, set[str]]:
    """The tables and views that each view of the catalog reads."""
    found = catalog.rows(
        "SELECT view_name, sql FROM duckdb_views() WHERE database_name = 'lake' AND NOT internal"
    )
    return {name: tables_read(sqlglot.parse_one(sql, read="duckdb")) - {name} for name, sql in found}


def _chosen(steps: list[Step], names: tuple[str, ...], views: dict[str, set[str]]) -> list[Step]:
    known = {step.name: step for step in steps}
    for name in names:
        if name not in known:
            raise StepError(f"there is no step {name!r}; the steps are {', '.join(sorted(known))}")
    if not names:
        return steps
    wanted: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in wanted:
            wanted.add(name)
            reads = parent_tables(known[name], views)
            waiting += [step.name for step in steps if step.writes in reads]
    return [step for step in steps if step.name in wanted]


def _parameters(step: Step, settings: dict[str, Any]) -> dict[str, Any]:
    return {name: settings.get(f"{step.name}.{name}", value) for name, value in step.parameters.items()}


def _check_settings(settings: dict[str, Any]) -> None:
    known = {f"{step.name}.{name}" for step in packaged_steps() for name in step.parameters}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise StepError(f"no step has the parameter {unknown[0]!r}; known are {', '.join(sorted(known))}")


class _StepRun:
    """One step of one refresh."""

    def __init__(
        self,
        catalog: Catalog,
        step: Step,
        reads: set[str],
        parameters: dict[str, Any],
        listener: Listener,
        retry: bool,
    ):
        self.catalog, self.step, self.reads = catalog, step, reads
        self.parameters, self.listener = parameters, listener
        self.fingerprint = step.fingerprint(parameters)
        self.added = self.changed = self.removed = 0
        self.calls, self.cost = 0, 0.0
        self.begun = time.monotonic()
        self.columns = {row[0]: row[1] for row in catalog.rows(f"DESCRIBE lake.{named(step.writes)}")}
        # With a digest beside each row, only input rows that are new or changed reach the kernel.
        self.keeps_digests = "input" in self.columns
        self.retry = retry and self.keeps_digests and "problem" in self.columns

    def run(self) -> StepResult:
        """Bring the step's table up to date; every failure that has a message becomes a result."""
        try:
            for _ in range(_TRIES):
                inputs = self._inputs()
                again = self.retry and self._problems() > 0
                if self._recorded() == (self.fingerprint, inputs) and not again:
                    return self._result("current", self._problems())
                if self._attempt(inputs):
                    return self._result("done", self._problems())
            raise StepError(f"step {self.step.name}: its inputs kept changing; refresh again")
        except SaeqlError as error:
            return self._result("failed", 0, error)
        except (duckdb.Error, OSError) as error:
            return self._result("failed", 0, StepError(f"step {self.step.name}: {error}"))

    def _attempt(self, inputs: str) -> bool:
        """Compute and commit; False if the inputs moved meanwhile, so that the result may be of the past."""
        if self.step.kernel is None:
            self._to_temporary(self.step.query)
            with self.catalog.write(f"refresh {self.step.name}") as tx:
                if self._inputs() != inputs:
                    return False
                self._count(tx.replace(self.step.writes, _FRESH, list(self.step.key), self.step.slice))
                self._record(tx, inputs)
            return True
        return self._run_kernel(inputs)

    def _to_temporary(self, query: str) -> None:
        made = f"CREATE OR REPLACE TEMP TABLE {_FRESH} AS {query}"
        self.catalog.connection.execute(made, self._named_in(query))

    def _named_in(self, query: str) -> dict[str, Any]:
        """The parameters that a query names; the engine refuses others, and a kernel may have some of its own."""
        return {name: value for name, value in self.parameters.items() if re.search(rf"\${name}\b", query)}

    def _run_kernel(self, inputs: str) -> bool:
        """Give new and changed input rows to the kernel; commit each batch that it yields."""
        rows, digests = self._input_rows()
        stored = self._stored_digests()
        fresh = [row for row, digest in zip(rows, digests, strict=True) if stored.get(self._input_key(row)) != digest]
        by_key = {self._input_key(row): digest for row, digest in zip(rows, digests, strict=True)}
        gone = [key for key in stored if key not in by_key]
        run = KernelRun(
            self.catalog, self.parameters, lambda done, total: self.listener.advance(self.step, done, total)
        )
        for keys, output in self._kernel(fresh if self.keeps_digests else rows, run):
            if self.keeps_digests:
                for row in output:
                    row["input"] = by_key[self._input_key(row)]
            self.catalog.stage(self.step.writes, output)
            with self.catalog.write(f"refresh {self.step.name}") as tx:
                if self._inputs() != inputs:
                    return False
                self._count(tx.replace(self.step.writes, _FRESH, list(self.step.key), self._scope(tx, keys)))
                self.calls, self.cost = run.calls, run.cost
        self.calls, self.cost = run.calls, run.cost
        with self.catalog.write(f"refresh {self.step.name}") as tx:
            if self._inputs() != inputs:
                return False
            if gone:
                self.catalog.stage(self.step.writes, [])
                self._count(tx.replace(self.step.writes, _FRESH, list(self.step.key), self._scope(tx, gone)))
            self._record(tx, inputs)
        return True

    def _kernel(
        self, rows: list[dict[str, Any]], run: KernelRun
    ) -> Iterator[tuple[list[tuple[Any, ...]] | None, list[dict[str, Any]]]]:
        """(input keys that are done, their output rows) of each batch; None for the whole slice."""
        if not rows and self.keeps_digests:
            return
        module, _, function = str(self.step.kernel).partition(":")
        kernel = getattr(importlib.import_module(module), function)
        if not self.keeps_digests:
            yield None, [row for batch in kernel(rows, run) for row in batch]
            return
        waiting = {self._input_key(row) for row in rows}
        for output in kernel(rows, run):
            keys = list(dict.fromkeys(self._input_key(row) for row in output))
            waiting -= set(keys)
            yield keys, output
        if waiting:
            raise StepError(
                f"step {self.step.name}: the kernel gave no row for {len(waiting)} inputs, such as {min(waiting)}"
            )

    def _input_rows(self) -> tuple[list[dict[str, Any]], list[str]]:
        """The query's rows, and a digest of each with the step's fingerprint."""
        query = f"SELECT q.*, md5(to_json(q)::VARCHAR) AS _digest FROM ({self.step.query}\n) AS q"
        rows = self.catalog.arrow(query, self._named_in(query)).to_pylist()
        digests = [
            hashlib.blake2b((self.fingerprint + row.pop("_digest")).encode(), digest_size=16).hexdigest()
            for row in rows
        ]
        order = sorted(range(len(rows)), key=lambda i: self._input_key(rows[i]))
        return [rows[i] for i in order], [digests[i] for i in order]

    def _input_key(self, row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row[name] for name in self.step.input)

    def _stored_digests(self) -> dict[tuple[Any, ...], str]:
        if not self.keeps_digests:
            return {}
        columns = ", ".join(named(name) for name in self.step.input)
        # A row whose problem is to be tried again counts as made from something else.
        digest = "CASE WHEN count(problem) > 0 THEN '' ELSE any_value(input) END" if self.retry else "any_value(input)"
        rows = self.catalog.rows(
            f"SELECT {columns}, {digest} FROM lake.{named(self.step.writes)} "
            f"WHERE {self.step.slice} GROUP BY {columns}"
        )
        return {tuple(row[:-1]): row[-1] for row in rows}

    def _scope(self, tx: Transaction, keys: list[tuple[Any, ...]] | None) -> str:
        """Predicate for the rows that belong to these input keys; None means all of the step's slice."""
        if keys is None:
            return self.step.slice
        columns = ", ".join(named(name) for name in self.step.input)
        shape = ", ".join(f"{named(name)} {self.columns[name]}" for name in self.step.input)
        tx.connection.execute(f"CREATE OR REPLACE TEMP TABLE _keys ({shape})")
        tx.connection.executemany(f"INSERT INTO _keys VALUES ({', '.join('?' * len(self.step.input))})", keys)
        return f"({self.step.slice}) AND ({columns}) IN (SELECT ({columns}) FROM _keys)"

    def _inputs(self) -> str:
        """The last change of every table that the step reads, JSON."""
        changes = self.catalog.last_changes()
        unknown = sorted(table for table in self.reads if table not in changes)
        if unknown:
            raise StepError(f"step {self.step.name} reads {unknown[0]!r}, and the catalog has no such table or view")
        return json.dumps({table: changes[table] for table in sorted(self.reads)})

    def _recorded(self) -> tuple[str, str] | None:
        rows = self.catalog.rows("SELECT fingerprint, inputs FROM runs WHERE step = ?", [self.step.name])
        return rows[0] if rows else None

    def _record(self, tx: Transaction, inputs: str) -> None:
        row = {
            "step": self.step.name,
            "fingerprint": self.fingerprint,
            "inputs": inputs,
            "added": self.added,
            "changed": self.changed,
            "removed": self.removed,
            "failed": self._problems(),
            "calls": self.calls,
            "cost": self.cost,
            "seconds": round(time.monotonic() - self.begun, 3),
        }
        tx.execute("DELETE FROM lake.runs WHERE step = ?", [self.step.name])
        tx.insert("runs", [row])
        tx.details.update(row, inputs=json.loads(inputs))

    def _problems(self) -> int:
        """Rows of the step that carry a problem."""
        if "problem" not in self.columns:
            return 0
        return int(
            self.catalog.value(
                f"SELECT count(*) FROM lake.{named(self.step.writes)} WHERE ({self.step.slice}) AND problem IS NOT NULL"
            )
        )

    def _count(self, changes: Changes) -> None:
        self.added += changes.added
        self.changed += changes.changed
        self.removed += changes.removed

    def _result(self, state: str, failed: int, error: SaeqlError | None = None) -> StepResult:
        return StepResult(
            self.step.name,
            state,
            Changes(self.added, self.changed, self.removed),
            failed,
            self.calls,
            self.cost,
            time.monotonic() - self.begun,
            error,
        )
