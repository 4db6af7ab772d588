"""Counts what a refresh would do with one step, and puts the rows that it would write beside the catalog's."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from catalog.quote import named
from catalog.store.comparison import Changes, compare
from catalog.store.scratch import Relation, Scratch
from queries.refresh.assess import Stale, Work, assess, problems
from queries.refresh.context import Context
from queries.refresh.kernel_input import KernelInput, replaced_by, shape_of_keys
from queries.refresh.kernel_run import KernelRun, kernel_rows
from queries.refresh.result import StepResult
from scoring.client.estimate import Estimate, estimated


def count(found: Stale, context: Context, scratch: Scratch, advance: Callable[[int, int], None]) -> StepResult:
    """What a refresh would do with a step that is stale; steps that are counted after it see the rows it would write.

    Of a step that reads what nobody can know yet, the result says so (`after`).
    """
    target = found.target
    unknown = sorted(target.reads & context.unknown)
    if unknown:
        context.unknown.add(target.step.writes)
        why = (f"inputs: {', '.join(unknown)} not known yet",)
        estimate = Estimate(0, 0, 0, 0, 0.0, 0, _may_ask(found, context)) if target.step.asks else None
        return _result(found, context, "after", why=why, estimate=estimate)
    work = assess(found, context, scratch)
    if work.kernel is None:
        return _count_query(work, context, scratch)
    return _count_kernel(work, work.kernel, context, scratch, advance)


def _count_query(work: Work, context: Context, scratch: Scratch) -> StepResult:
    if work.rows is None:
        return _result(work.stale, context, "current")
    step = work.target.step
    before = context.parted(step.writes)
    if before is not None and step.partition:
        made = {part: content for part, (_, content) in work.contents.items()}
        after = {part: made.get(part) or before.digests.get(part, "") for part in work.now}
        context.expect_parts(step.writes, step.partition, after)
    changes, same = _expect(work, work.rows, work.scope, context, scratch)
    return _result(work.stale, context, "stale" if changes else "current", changes=changes, same=same)


def _count_kernel(
    work: Work, given: KernelInput, context: Context, scratch: Scratch, advance: Callable[[int, int], None]
) -> StepResult:
    target, found = work.target, given.found
    if not target.keyed:
        context.expect_parts(target.step.writes, target.step.input, given.digests)
    if not found.stale and not found.gone:
        return _result(work.stale, context, "current", same=len(found.same), left=given.left)
    output = _expected_rows(work, given, context, advance)
    if output is None:
        context.unknown.add(target.step.writes)
    else:
        keys = scratch.tuples([*found.stale, *found.gone], shape_of_keys(target))
        _expect(work, scratch.rows(output, like=target.step.writes), replaced_by(target, keys), context, scratch)
    requests = [request for key in found.stale if key in given.asked for request in given.asked[key].requests]
    return _result(
        work.stale,
        context,
        "stale",
        changes=Changes(len(found.new), len(found.changed), len(found.gone)),
        same=len(found.same),
        left=given.left,
        estimate=estimated(context.catalog, requests) if target.step.asks else None,
        keys=tuple(sorted((*found.stale, *found.gone))),
    )


def _expected_rows(
    work: Work, given: KernelInput, context: Context, advance: Callable[[int, int], None]
) -> list[dict[str, Any]] | None:
    """The rows that the kernel may give for stale keys; None if nobody can know, so that what reads them waits."""
    from scoring.client.budget import Budget

    target = work.target
    if target.step.runs_in_plan:
        run = KernelRun(context.catalog, target.parameters, advance, Budget(0))
        return [row for batch in kernel_rows(target, given.stale_rows, run) for row in batch]
    if not given.asked or not target.keyed:
        return None
    expected = [{**row, "input": ""} for key in given.found.stale for row in given.asked[key].expected]
    return expected if len(expected) >= len(given.found.stale) else None


def _expect(work: Work, rows: Relation, scope: str, context: Context, scratch: Scratch) -> tuple[Changes, int]:
    """Put the new rows beside the table, if they differ from what is there: (how they differ, how many do not)."""
    step = work.target.step
    found = compare(scratch, step.writes, rows, list(step.key), scope, context.relations.of(step.writes))
    if found.changes:
        context.expect(step.writes, scope, rows, work.target.columns)
    return found.changes, found.same


def _may_ask(found: Stale, context: Context) -> tuple[tuple[str, str | None], ...]:
    """(model, base_url) of every endpoint that the step's explainers or scorers name."""
    asks: dict[tuple[str, str | None], None] = {}
    for table in sorted({"explainers", "scorers"} & found.target.step.parents):
        rows = f"SELECT model, settings FROM {context.relations.of(table)} WHERE {named('provider')} = 'openai'"
        for model, settings in context.catalog.rows(f"{rows} ORDER BY ALL"):
            with suppress(ValueError, TypeError, AttributeError):
                asks[model, json.loads(settings).get("base_url")] = None
    return tuple(asks)


def _result(found: Stale, context: Context, state: str, **more: Any) -> StepResult:
    said: dict[str, Any] = {
        "why": () if state == "current" else found.why,
        "failed": problems(found.target, context),
        "seconds": time.monotonic() - found.begun,
    }
    return StepResult(found.target.step.name, state, **{**said, **more})
