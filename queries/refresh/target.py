"""Holds one step as a refresh or a plan finds it: its parameters, what it is made of, how its rows are found."""

import re
from dataclasses import dataclass
from typing import Any

from queries.refresh.context import Context
from queries.refresh.reads import parent_tables
from queries.refresh.step import Step, fingerprint


@dataclass(frozen=True)
class Target:
    """One step, and what a refresh makes of its declaration."""

    step: Step
    parameters: dict[str, Any]
    made: dict[str, Any]
    """`Step.made_of`."""
    reads: frozenset[str]
    """Tables that it reads, also through views."""
    columns: dict[str, str]
    """Of the table that it writes: name -> type."""
    filter: str | None
    """The condition of `--where`, if the step's key, or its kernel's, has all columns that it names."""
    retry: bool
    """Whether rows that carry a problem are made again."""

    @property
    def fingerprint(self) -> str:
        """Digest of what the step is made of."""
        return fingerprint(self.made)

    @property
    def keyed(self) -> bool:
        """Whether each row keeps the digest of its input, so that it is stale by itself; else parts are recorded."""
        return self.step.kernel is not None and "input" in self.columns

    @property
    def whole(self) -> bool:
        """Whether the kernel writes all of its rows at once, such as a version of the vectors."""
        return self.step.kernel is not None and not set(self.step.input) <= self.columns.keys()

    @property
    def parts(self) -> tuple[str, ...]:
        """Columns of the parts that are recorded of the step; empty if none are."""
        if self.step.kernel is None:
            return self.step.partition
        return () if self.keyed else self.step.input

    def named_in(self, query: str) -> dict[str, Any]:
        """The parameters that a query names; the engine refuses others, and a kernel may have some of its own."""
        return {name: value for name, value in self.parameters.items() if re.search(rf"\${name}\b", query)}


def target(step: Step, context: Context) -> Target:
    """The step as this refresh or plan is to run it."""
    columns = dict(context.schema[step.writes])
    parameters = context.parameters_of(step)
    where = context.options.where
    by = step.input if step.kernel else step.key
    whole = step.kernel is not None and not set(step.input) <= columns.keys()
    return Target(
        step,
        parameters,
        context.made_of(step, parameters),
        frozenset(parent_tables(step.parents, context.view_parents)),
        columns,
        # A kernel that writes all of its rows at once needs all of its input.
        where.sql if where is not None and not whole and set(where.columns) <= set(by) else None,
        context.options.retry and step.kernel is not None and {"input", "problem"} <= columns.keys(),
    )
