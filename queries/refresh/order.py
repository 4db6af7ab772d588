"""Orders the steps: each after those that write what it reads."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from catalog.errors import StepError
from queries.refresh.reads import parent_tables

if TYPE_CHECKING:
    from queries.refresh.step import Step


def ordered(steps: Iterable["Step"], views: Mapping[str, set[str]]) -> list["Step"]:
    """Steps with each after all those that write what it reads; ties in alphabetical order.

    Raises StepError on a cycle, naming its files.
    """
    steps = list(steps)
    writers: dict[str, list[Step]] = {}
    for step in steps:
        writers.setdefault(step.writes, []).append(step)
    after = {
        step.name: {w.name for table in parent_tables(step.parents, views) for w in writers.get(table, [])}
        for step in steps
    }
    done: list[Step] = []
    while len(done) < len(steps):
        names = {step.name for step in done}
        ready = [step for step in steps if step.name not in names and after[step.name] <= names]
        if not ready:
            stuck = [step for step in steps if step.name not in names]
            told = "; ".join(
                f"{step.file}, line {step.line_of(table)} reads {table}"
                for step in sorted(stuck, key=lambda step: step.name)
                for table in sorted(step.parents)
                if any(w in stuck for w in writers.get(table, []))
            )
            raise StepError(f"these steps wait for each other: {told}")
        done.append(ready[0])
    return done


def check_steps(steps: Iterable["Step"], known: Iterable[str]) -> None:
    """Raise StepError, with file and line, for a table that there is not, and for steps whose slices overlap."""
    tables = set(known)
    by_table: dict[str, list[Step]] = {}
    for step in steps:
        for table in sorted({*step.parents, step.writes} - tables):
            raise StepError(
                f"{step.file}, line {step.line_of(table)}: the catalog has no table or view {table!r}; "
                f"it has {', '.join(sorted(tables))}"
            )
        for other in by_table.setdefault(step.writes, []):
            ours, theirs = step.sliced, other.sliced
            if not ours or not theirs or ours[0] != theirs[0] or ours[1] == theirs[1]:
                raise StepError(
                    f"{other.file}, line {other.line_of('slice')} and {step.file}, line {step.line_of('slice')}: both "
                    f"write {step.writes} where {other.slice} and {step.slice}; slices of one table must differ in the "
                    "value of one column"
                )
        by_table[step.writes].append(step)
