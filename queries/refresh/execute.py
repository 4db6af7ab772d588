"""Executes the work of one step of a refresh: makes the rows that are not made yet, and commits what differs.

A query's rows go into one snapshot. A kernel whose rows keep the digest of their input commits each batch that it
yields, so that a run which is cut off goes on where it was; any other kernel commits all of its rows at once.
"""

from collections.abc import Callable
from typing import Any

from catalog.errors import StepError
from catalog.store.scratch import Relation, Scratch
from queries.refresh.assess import Work
from queries.refresh.context import Context
from queries.refresh.done import Done
from queries.refresh.kernel_input import KernelInput, key_of, replaced_by, shape_of_keys
from queries.refresh.kernel_run import KernelRun, kernel_rows
from queries.refresh.result import Key
from queries.refresh.step_commit import StepCommit


def execute(work: Work, done: Done, context: Context, scratch: Scratch, advance: Callable[[int, int], None]) -> None:
    """Bring the step's table up to date, and say in `done` what that came to, also where it then fails.

    Raises InputsMoved if what was assessed has changed since: then it is to be assessed again.
    """
    done.partial = work.target.filter is not None
    if work.kernel is None:
        StepCommit(work, context, done).run(work.rows, work.scope)
        return
    from scoring.client.budget import Budget

    options = context.options
    budget = context.budget = context.budget or Budget(options.max_calls, options.max_cost)
    run = KernelRun(context.catalog, work.target.parameters, advance, budget, options.jobs)
    run.calls, run.tokens, run.cost = done.calls, done.tokens, done.cost
    done.left = work.kernel.left
    done.partial = done.partial or bool(done.left)
    execute_kernel = _by_batches if work.target.keyed else _at_once
    try:
        execute_kernel(work, work.kernel, StepCommit(work, context, done, run), run, scratch)
    finally:
        done.paid(run)
        done.warnings = tuple(dict.fromkeys((*done.warnings, *run.notes)))


def _at_once(work: Work, given: KernelInput, commit: StepCommit, run: KernelRun, scratch: Scratch) -> None:
    """The rows of the keys that are stale, or of all if they are of one piece, in one snapshot."""
    target, found = work.target, given.found
    fresh = list(given.rows.values()) if target.whole else given.stale_rows
    if not found.stale and not found.gone:
        commit.run(None, work.scope)
        return
    output = [row for batch in kernel_rows(target, fresh, run) for row in batch]
    commit.done.paid(run)
    scope = work.scope
    # With a filter, keys that it leaves out are in the table although they are nowhere in `found`.
    if not target.whole and (found.same or target.filter):
        scope = replaced_by(target, scratch.tuples([*found.stale, *found.gone], shape_of_keys(target)))
    commit.run(scratch.rows(output, like=target.step.writes), scope)
    said = [(subject, problem) for subject, problem in run.problems.items() if problem]
    commit.done.warnings = tuple(f"{target.step.input[0]} {subject!r}: {problem}" for subject, problem in said)


def _by_batches(work: Work, given: KernelInput, commit: StepCommit, run: KernelRun, scratch: Scratch) -> None:
    """The rows of each batch in a snapshot of their own; the last one records the run."""
    target, done = work.target, commit.done
    waiting = set(given.found.stale)
    for output in kernel_rows(target, [given.rows[key] for key in sorted(waiting)], run):
        keys = list(dict.fromkeys(key_of(target, row) for row in output))
        waiting -= set(keys)
        for row in output:
            row["input"] = given.digests[key_of(target, row)]
        with Scratch(scratch.connection) as batch:
            done.paid(run)
            commit.run_batch(*_batch(work, keys, output, batch))
    if waiting and not run.budget.spent:
        raise StepError(
            f"step {target.step.name}: the kernel gave no row for {len(waiting)} inputs, such as {min(waiting)}"
        )
    done.paid(run)
    done.left += len(waiting)
    done.partial = done.partial or bool(waiting)
    commit.run(*_batch(work, given.found.gone, [], scratch))


def _batch(work: Work, keys: list[Key], output: list[dict[str, Any]], scratch: Scratch) -> tuple[Relation | None, str]:
    """The rows of a batch, and what they replace; no rows if it is about no keys."""
    if not keys:
        return None, work.scope
    scope = replaced_by(work.target, scratch.tuples(keys, shape_of_keys(work.target)))
    return scratch.rows(output, like=work.target.step.writes), scope
