"""Orders the steps: each after those that write what it reads."""

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from catalog.errors import StepError
from queries.refresh.reads import parent_tables

if TYPE_CHECKING:
    from queries.refresh.step import Step


def ordered(steps: Iterable["Step"], views: Mapping[str, set[str]]) -> list["Step"]:
    """Steps with each after all those that write what it reads, and those that it names; ties in the order given.

    Raises StepError on a cycle, naming its files.
    """
    steps = list(steps)
    writers: dict[str, list[Step]] = {}
    for step in steps:
        writers.setdefault(step.writes, []).append(step)
    by_name = {step.name: step for step in steps}
    after = {
        step.name: {w.name for table in parent_tables(step.parents, views) for w in writers.get(table, [])}
        | (set(step.after) & by_name.keys())
        for step in steps
    }
    sorter = TopologicalSorter(after)
    try:
        sorter.prepare()
    except CycleError as error:
        stuck = [by_name[name] for name in dict.fromkeys(error.args[1])]
        told = "; ".join(
            f"{step.file}, line {step.line_of(table)} reads {table}"
            for step in sorted(stuck, key=lambda step: step.name)
            for table in sorted(step.parents)
            if any(w in stuck for w in writers.get(table, []))
        )
        raise StepError(f"these steps wait for each other: {told}") from error
    done: list[Step] = []
    ready: list[int] = []
    places = {step.name: place for place, step in enumerate(steps)}
    while sorter.is_active():
        for name in sorter.get_ready():
            heappush(ready, places[name])
        done.append(steps[heappop(ready)])
        sorter.done(done[-1].name)
    return done


def check_steps(steps: Iterable["Step"], known: Iterable[str]) -> None:
    """Raise StepError, with file and line, for a table or a step that is not there, and for slices that overlap."""
    steps, tables = list(steps), set(known)
    names = {step.name for step in steps}
    by_table: dict[str, list[Step]] = {}
    for step in steps:
        for name in sorted(set(step.after) - names):
            raise StepError(f"{step.file}, line {step.line_of('after')}: there is no step {name!r} to come after")
        for table in sorted({*step.parents, step.writes} - tables):
            raise StepError(
                f"{step.file}, line {step.line_of(table)}: the catalog has no table or view {table!r}; "
                f"it has {', '.join(sorted(tables))}"
            )
        for other in by_table.setdefault(step.writes, []):
            ours, theirs = step.sliced, other.sliced
            if not ours or not theirs or ours[0] != theirs[0] or ours[1] & theirs[1]:
                raise StepError(
                    f"{other.file}, line {other.line_of('slice')} and {step.file}, line {step.line_of('slice')}: both "
                    f"write {step.writes} where {other.slice} and {step.slice}; slices of one table must differ in the "
                    "value of one column"
                )
        by_table[step.writes].append(step)
