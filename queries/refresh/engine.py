"""Refreshes and plans: takes the steps in the order of what they read, and runs or plans each by `StepRun`.

A step is skipped when its fingerprint and the last change of every table that it reads are those of its last run.
A step that fails leaves its table as it was; steps that do not depend on it go on.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from catalog import Catalog
from catalog.errors import CatalogError, StepError
from catalog.store.locks import locked
from catalog.store.migrations import newest
from queries.refresh.context import Context
from queries.refresh.kernel_run import KernelStepRun
from queries.refresh.options import Options, check_settings
from queries.refresh.order import check_steps, ordered
from queries.refresh.query_run import QueryRun
from queries.refresh.reads import parent_tables
from queries.refresh.result import StepResult
from queries.refresh.schedule import Listener, side_by_side
from queries.refresh.sizes import rows_to_read
from queries.refresh.step import Step, packaged_steps
from queries.refresh.unjudged import record_unjudged


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
        record_unjudged(catalog)
        context = Context(catalog, steps or packaged_steps(), options or Options(), dry=False)
        chosen_steps = _checked(context, names)
        with catalog.reading():
            sizes = rows_to_read(context, chosen_steps)
        return side_by_side(context, chosen_steps, sizes, listener or Listener(), _run)


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
    if catalog.schema < newest():
        raise CatalogError(
            f"{catalog.root} has schema {catalog.schema} of {newest()}: it is of an older version, or its making was "
            "cut off; `saeql refresh` brings it up to date"
        )
    broken: dict[str, StepResult] = {}
    while True:
        with catalog.reading():
            context = Context(catalog, steps or packaged_steps(), options or Options(), dry=True)
            for table, rows in (expected or {}).items():
                context.expect_rows(table, rows)
            results = _one_by_one(context, _checked(context, names), listener or Listener(), broken)
            if catalog.readable():
                return results
        # The first step that failed ended the transaction, and all after it with it: again without that step.
        failed = [result for result in results if result.state == "failed" and result.step not in broken]
        if not failed:
            raise CatalogError("the transaction of a plan ended although no step failed: plan again")
        broken[failed[0].step] = failed[0]


def _checked(context: Context, names: tuple[str, ...]) -> list[Step]:
    """The steps to run, in the order of what they read. Raises StepError for steps that cannot be."""
    check_steps(context.steps, context.schema)
    check_settings(context.steps, context.options.settings)
    return chosen(ordered(context.steps, context.view_parents), names, context)


def _one_by_one(
    context: Context, steps: list[Step], listener: Listener, broken: Mapping[str, StepResult]
) -> list[StepResult]:
    """Each step's result, those of `broken` as they are."""
    results: list[StepResult] = []
    failed: set[str] = set()
    for step in steps:
        if parent_tables(step.parents, context.view_parents) & failed:
            result = StepResult(step.name, "waiting")
        elif step.name in broken:
            result = broken[step.name]
        else:
            listener.begin(step)
            result = _run(context, step, listener)
        if result.state in ("failed", "waiting"):
            failed.add(step.writes)
        results.append(result)
        listener.end(result)
    return results


def _run(context: Context, step: Step, listener: Listener) -> StepResult:
    kind = KernelStepRun if step.kernel else QueryRun
    return kind(context, step, context.parameters_of(step), partial(listener.advance, step)).run()


def chosen(steps: list[Step], names: Iterable[str], context: Context) -> list[Step]:
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
            waiting += [step.name for step in steps if step.writes in reads]
    return [step for step in steps if step.name in wanted]


__all__ = ["Listener", "Options", "StepResult", "plan", "refresh"]
