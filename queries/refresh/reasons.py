"""Says in words why a step is stale."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from queries.refresh.step_run import StepRun


def reasons(run: "StepRun", recorded: tuple[str, dict[str, int], dict[str, Any]] | None, again: bool) -> Iterator[str]:
    """Why a step has work: `recorded` is (fingerprint, inputs, what it was made of) of its last run, if it had one.

    `again` says that rows with a problem are to be tried again.
    """
    if recorded is None:
        yield "first run" if not run.context.was_rolled_back(run.step.name) else "rolled back"
        return
    fingerprint, before, made = recorded
    if not fingerprint:
        yield "the last refresh left some of its rows as they were"
    if made.get("query") != run.made["query"]:
        yield "query edited"
    if made.get("kernel") != run.made["kernel"]:
        yield f"kernel {run.step.kernel} edited"
    for name, digest in run.made["prompts"].items():
        if made.get("prompts", {}).get(name) != digest:
            yield f"prompt {name} edited"
    for name, value in run.made["parameters"].items():
        old = made.get("parameters", {}).get(name)
        if old != value:
            yield f"parameter {name}: {old} -> {value}"
    causes: dict[str, list[str]] = {}
    for table, snapshot in run.inputs.items():
        if before.get(table) != snapshot:
            causes.setdefault(run.context.changed_by(before.get(table, 0), snapshot, table), []).append(table)
    for cause, tables in causes.items():
        yield f"inputs: {', '.join(tables)}: {cause}"
    expected = sorted(run.reads & run.context.expected)
    if expected:
        yield f"inputs: {', '.join(expected)} will change"
    if run.lost:
        yield run.lost
    if again:
        yield "rows with a problem are tried again"
