"""Says in words why a step is stale."""

from collections.abc import Iterator, Mapping

from queries.refresh.context import Context
from queries.refresh.target import Target


def reasons(target: Target, inputs: Mapping[str, int], context: Context) -> Iterator[str]:
    """How a step differs from its last run; `inputs` are the last changes of the tables that it reads."""
    last = context.runs.get(target.step.name)
    if last is None:
        yield "first run" if not context.was_rolled_back(target.step.name) else "rolled back"
        return
    fingerprint, before, made = last
    if not fingerprint:
        yield "the last refresh left some of its rows as they were"
    if made.get("query") != target.made["query"]:
        yield "query edited"
    if made.get("kernel") != target.made["kernel"]:
        yield f"kernel {target.step.kernel} edited"
    for name, digest in target.made["prompts"].items():
        if made.get("prompts", {}).get(name) != digest:
            yield f"prompt {name} edited"
    for name, value in target.made["parameters"].items():
        old = made.get("parameters", {}).get(name)
        if old != value:
            yield f"parameter {name}: {old} -> {value}"
    causes: dict[str, list[str]] = {}
    for table, snapshot in inputs.items():
        if before.get(table) != snapshot:
            causes.setdefault(context.changed_by(before.get(table, 0), snapshot, table), []).append(table)
    for cause, tables in causes.items():
        yield f"inputs: {', '.join(tables)}: {cause}"
    expected = sorted(target.reads & context.expected)
    if expected:
        yield f"inputs: {', '.join(expected)} will change"
