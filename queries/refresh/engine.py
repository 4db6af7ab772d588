"""Refreshes and plans: takes the steps in the order of what they read, assesses each, and executes or counts its work.

A step is skipped when its fingerprint and the last change of every table that it reads are those of its last run.
A step that fails leaves its table as it was; steps that do not depend on it go on.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import duckdb

from catalog import Catalog
from catalog.errors import CatalogError, InputsMoved, SaeqlError, StepError
from catalog.store.locks import locked
from catalog.store.scratch import Scratch
from queries.refresh.assess import assess, problems, stale
from queries.refresh.context import Context
from queries.refresh.count import count
from queries.refresh.done import Done
from queries.refresh.execute import execute
from queries.refresh.options import Options, check_settings, check_where
from queries.refresh.order import check_steps, ordered
from queries.refresh.reads import parent_tables
from queries.refresh.result import StepResult
from queries.refresh.schedule import Listener, side_by_side
from queries.refresh.sizes import rows_to_read
from queries.refresh.step import Step, packaged_steps
from queries.refresh.target import target
from queries.refresh.unjudged import record_unjudged

_TRIES = 3


def refresh(
    catalog: Catalog,
    names: tuple[str, ...] = (),
    options: Options | None = None,
    listener: Listener | None = None,
    wait: float = 0.0,
    steps: tuple[Step, ...] | None = None,
) -> list[StepResult]:
    """Run every stale step (or those named and what they need), in the order of what they read.

    Raises StepError for steps that cannot be, an unknown step or parameter, CatalogLocked if another refresh runs.
    A failing step is a result, not an exception.
    """
    with locked(catalog.root / "refresh.lock", wait=wait):
        with catalog.reading():
            context = Context(catalog, steps or packaged_steps(), options or Options())
            chosen = _chosen(context, names)
            sizes = rows_to_read(context, chosen)
            current = _current(context, chosen)
        results = side_by_side(context, chosen, sizes, listener or Listener(), refresh_step, current)
        record_unjudged(catalog)
        return results


def refresh_step(context: Context, step: Step, listener: Listener) -> StepResult:
    """Assess a step and execute what it has to do; every failure becomes a result."""
    done = Done()
    try:
        with context.catalog.scratch() as scratch:
            for _ in range(_TRIES):
                scratch.drop()
                with context.catalog.reading(keep=True):
                    found = stale(target(step, context), context)
                    if found is None:
                        return _current_result(context, step)
                    done.why = found.why
                    work = assess(found, context, scratch)
                with suppress(InputsMoved):
                    execute(work, done, context, scratch, partial(listener.advance, step))
                    return done.result(step)
        raise StepError(f"step {step.name}: its inputs kept changing; refresh again")
    except (SaeqlError, duckdb.Error, OSError) as error:
        return done.result(step, _as_ours(step, error))


def plan(
    catalog: Catalog,
    names: tuple[str, ...] = (),
    options: Options | None = None,
    listener: Listener | None = None,
    steps: tuple[Step, ...] | None = None,
    expected: Mapping[str, list[dict[str, Any]]] | None = None,
) -> list[StepResult]:
    """What `refresh` would do: each step's new, changed and gone rows, why, and what its paid calls will come to.

    Steps in SQL are run, and their rows put beside the catalog's for those that follow; nothing is written. Where
    a model will have to be asked, counts of what follows are those of labels that nobody has seen yet.
    `expected` has rows to plan with instead of those of whole tables, such as explainers that are not recorded yet.

    All of it is about one snapshot: a refresh that goes on meanwhile is seen as it was before. Raises CatalogError
    for a catalog of an older schema.
    """
    if catalog.outdated:
        raise CatalogError(catalog.outdated)
    broken: dict[str, StepResult] = {}
    while True:
        with catalog.scratch() as scratch, catalog.reading():
            context = Context(catalog, steps or packaged_steps(), options or Options())
            for table, rows in (expected or {}).items():
                context.expect_rows(table, rows, scratch)
            results = _planned(context, _chosen(context, names), listener or Listener(), broken, scratch)
            if catalog.readable():
                return results
        # The first step that failed ended the transaction, and all after it with it: again without that step.
        failed = [result for result in results if result.state == "failed" and result.step not in broken]
        if not failed:
            raise CatalogError("the transaction of a plan ended although no step failed: plan again")
        broken[failed[0].step] = failed[0]


def _planned(
    context: Context, steps: list[Step], listener: Listener, broken: Mapping[str, StepResult], scratch: Scratch
) -> list[StepResult]:
    """What a refresh would do with each step, one by one; results of `broken` as they are."""
    results: list[StepResult] = []
    failed: set[str] = set()
    for step in steps:
        if parent_tables(step.parents, context.view_parents) & failed:
            result = StepResult(step.name, "waiting")
        elif step.name in broken:
            result = broken[step.name]
        else:
            listener.begin(step)
            result = plan_step(context, step, listener, scratch)
        if result.state in ("failed", "waiting"):
            failed.add(step.writes)
        results.append(result)
        listener.end(result)
    return results


def plan_step(context: Context, step: Step, listener: Listener, scratch: Scratch) -> StepResult:
    """Assess a step and count what it would do; every failure becomes a result."""
    done = Done()
    try:
        found = stale(target(step, context), context)
        if found is None:
            return _current_result(context, step)
        done.why = found.why
        return count(found, context, scratch, partial(listener.advance, step))
    except (SaeqlError, duckdb.Error, OSError) as error:
        return done.result(step, _as_ours(step, error))


def _current(context: Context, steps: list[Step]) -> dict[str, StepResult]:
    """Results of the steps that are up to date, and stay so whatever the others write."""
    found: dict[str, StepResult] = {}
    written: set[str] = set()
    for step in steps:
        try:
            if not parent_tables(step.parents, context.view_parents) & written and not stale(
                target(step, context), context
            ):
                found[step.name] = _current_result(context, step)
                continue
        except (SaeqlError, duckdb.Error, OSError):
            return found  # Its own run says what is wrong; the transaction may have ended with it.
        written.add(step.writes)
    return found


def _current_result(context: Context, step: Step) -> StepResult:
    return StepResult(step.name, "current", failed=problems(target(step, context), context))


def _as_ours(step: Step, error: Exception) -> SaeqlError:
    return error if isinstance(error, SaeqlError) else StepError(f"step {step.name}: {error}")


def _chosen(context: Context, names: tuple[str, ...]) -> list[Step]:
    """The steps to run, in the order of what they read. Raises StepError for steps that cannot be."""
    check_steps(context.steps, context.schema)
    check_settings(context.steps, context.options.settings)
    chosen = with_parents(ordered(context.steps, context.view_parents), names, context)
    check_where(chosen, context.options.where)
    return chosen


def with_parents(steps: list[Step], names: Iterable[str], context: Context) -> list[Step]:
    """The named steps and those that write what they read, all if none is named. Raises StepError for unknown ones."""
    known = {step.name: step for step in steps}
    waiting = list(names)
    for name in waiting:
        if name not in known:
            raise StepError(f"there is no step {name!r}; the steps are {', '.join(sorted(known))}")
    if not waiting:
        return steps
    wanted: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in wanted:
            wanted.add(name)
            reads = parent_tables(known[name].parents, context.view_parents)
            waiting += [step.name for step in steps if step.writes in reads or step.name in known[name].after]
    return [step for step in steps if step.name in wanted]


__all__ = ["Listener", "Options", "StepResult", "plan", "refresh"]
