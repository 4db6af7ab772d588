"""Schedules the steps of a refresh: each after those that write what it reads.

A query over much text has all cores. Of those over little text two run at a time, with one thread each: what they take
goes mostly into metadata and into pieces too small to share. After 1% more text eleven steps took 0.87 s so,
on two cores, 1.26 s two at a time with two threads, and 1.49 s one by one with two threads.
A step that asks models runs alone: it has threads of its own.
Kernels run in the thread that called.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field

from catalog import Catalog
from queries.refresh.context import Context
from queries.refresh.reads import parent_tables
from queries.refresh.result import StepResult
from queries.refresh.step import Step


@dataclass
class Listener:
    """Callbacks for whoever shows progress; each may be left as it is."""

    begin: Callable[[Step], None] = lambda step: None
    advance: Callable[[Step, int, int], None] = lambda step, done, total: None
    end: Callable[[StepResult], None] = lambda result: None


Run = Callable[[Context, Step, Listener], StepResult]
LITTLE = 4_000_000
"""Rows that one thread reads in about half a second."""


def side_by_side(
    context: Context,
    steps: list[Step],
    sizes: Mapping[str, int],
    listener: Listener,
    run: Run,
    current: Mapping[str, StepResult] | None = None,
) -> list[StepResult]:
    """Each step's result, in the order given; those that read what a failed step writes are left `waiting`.

    `sizes` are the rows that each step reads; `current` has results of steps that need not run.
    """
    results = dict(current or {})
    for step in steps:
        if step.name in results:
            listener.begin(step)
            listener.end(results[step.name])
    if len(results) < len(steps):
        results = _scheduled(context, steps, sizes, listener, run, results)
    return [results[step.name] for step in steps]


def _scheduled(
    context: Context,
    steps: list[Step],
    sizes: Mapping[str, int],
    listener: Listener,
    run: Run,
    results: dict[str, StepResult],
) -> dict[str, StepResult]:
    """`results`, and those of the steps that it lacks."""
    with ExitStack() as stack:
        other = stack.enter_context(context.catalog.beside())
        engine = _Engine(context.catalog)
        idle = [context] if engine.threads == 1 else [context.beside(other), context]
        pool = ThreadPoolExecutor(2)
        schedule = _Schedule(context, steps, sizes, listener, run, pool, engine, idle, results)
        stack.callback(schedule.close)
        stack.enter_context(pool)
        # Left early, such as by Ctrl-C: queries that go on are broken off before the pool waits for them.
        stack.callback(schedule.interrupt)
        while schedule.waiting or schedule.running:
            if not schedule.start():
                schedule.end()
    return schedule.results


class _Engine:
    """The engine's settings for one query, or for several at a time.

    DuckDB deadlocks if `SET threads` runs beside a query, so the scheduler changes it only while no query runs.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.threads = int(catalog.value("SELECT current_setting('threads')"))
        """As many as a query may have."""
        self._several = False
        self._open: Catalog | None = None

    def for_several(self) -> None:
        """Give each query one thread and, if the metadata is in SQLite, keep one transaction open beside them.

        Without an open transaction, DuckDB closes the SQLite file whenever the last query ends. If another query
        opens the file at that moment, SQLite waits for a whole second.
        """
        if self._several:
            return
        self._several = True
        self._catalog.connection.execute("SET threads = 1")
        if self._catalog.location.server is None:
            self._open = self._catalog.beside()
            self._open.connection.execute("BEGIN")
            self._open.snapshot()

    def for_one(self) -> None:
        """All threads."""
        if self._open is not None:
            self._open.close()
            self._open = None
        if self._several:
            self._several = False
            self._catalog.connection.execute(f"SET threads = {self.threads}")


@dataclass
class _Schedule:
    """The steps that wait, run, and are done."""

    context: Context
    steps: list[Step]
    sizes: Mapping[str, int]
    listener: Listener
    run: Run
    pool: ThreadPoolExecutor
    engine: _Engine
    idle: list[Context]
    """Connections that no step uses."""
    results: dict[str, StepResult]
    running: dict[Future[StepResult], tuple[Step, Context]] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    """Tables that were not written."""

    def __post_init__(self) -> None:
        self.reads = {step.name: parent_tables(step.parents, self.context.view_parents) for step in self.steps}
        self.after = {
            step.name: {
                other.name for other in self.steps if other.writes in self.reads[step.name] or other.name in step.after
            }
            for step in self.steps
        }
        # What most steps wait for comes first; models are asked last.
        waiting = [step for step in self.steps if step.name not in self.results]
        self.waiting = sorted(waiting, key=lambda step: (bool(step.asks), -_chain(step.name, self.after)))

    def start(self) -> bool:
        """Start the next step that can run now; whether there was one."""
        ready = [step for step in self.waiting if self.after[step.name] <= self.results.keys()]
        lost = [step for step in ready if self.reads[step.name] & self.failed or self._unmade & set(step.after)]
        small = [step for step in ready if not self._alone(step)]
        if lost:
            self._take(lost[0])
            self._end(lost[0], StepResult(lost[0].name, "waiting"))
        elif ready and not self.running and self._alone(ready[0]):
            self.engine.for_one()
            self._start(ready[0])
        elif small and self.idle and not any(self._alone(step) for step, _ in self.running.values()):
            if not self.running:
                self.engine.for_several()
            # A kernel keeps the thread that would start another: a query beside it comes first.
            queries = [step for step in small if not step.kernel]
            self._start(queries[0] if queries and not self.running else small[0])
        else:
            return False
        return True

    @property
    def _unmade(self) -> set[str]:
        """The steps that failed, or wait for one that did."""
        return {name for name, result in self.results.items() if result.state in ("failed", "waiting")}

    def _alone(self, step: Step) -> bool:
        return bool(step.asks) or self.sizes[step.name] > LITTLE

    def _start(self, step: Step) -> None:
        self._take(step)
        self.listener.begin(step)
        if step.kernel:
            # In the thread that called: Ctrl-C reaches it, and it may use signals and event loops. What asks has the
            # refresh's own context, where the budget is.
            self._end(step, self.run(self.context if step.asks else self.idle[-1], step, self.listener))
        else:
            used = self.idle.pop()
            self.running[self.pool.submit(self.run, used, step, self.listener)] = (step, used)

    def _take(self, step: Step) -> None:
        self.waiting = [other for other in self.waiting if other is not step]

    def end(self) -> None:
        """Wait until a running step is done."""
        for future in wait(self.running, return_when=FIRST_COMPLETED).done:
            step, used = self.running.pop(future)
            self.idle.append(used)
            self._end(step, future.result())

    def _end(self, step: Step, result: StepResult) -> None:
        if result.state in ("failed", "waiting"):
            self.failed.add(step.writes)
        self.results[step.name] = result
        self.listener.end(result)

    def close(self) -> None:
        """Give the threads back, unless a query still runs: a second Ctrl-C does not wait for its end."""
        if not wait(self.running, timeout=0).not_done:
            self.engine.for_one()

    def interrupt(self) -> None:
        """Break off the queries that run, and those that they would be followed by."""
        while wait(self.running, timeout=0.1).not_done:
            for _, used in self.running.values():
                used.catalog.connection.interrupt()


def _chain(name: str, after: Mapping[str, set[str]]) -> int:
    """Length of the longest chain of steps that begins with this one."""
    return 1 + max((_chain(other, after) for other, before in after.items() if name in before), default=0)
