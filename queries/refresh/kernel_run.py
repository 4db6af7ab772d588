"""Calls a step's kernel: rows of its query in, batches of rows of its table out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from catalog import Catalog
from queries.refresh.step import called
from queries.refresh.target import Target

if TYPE_CHECKING:
    from scoring.client.budget import Budget


@dataclass
class KernelRun:
    """What a kernel may use besides its input rows, and what it reports back."""

    catalog: Catalog
    parameters: dict[str, Any]
    progress: Callable[[int, int], None]
    budget: "Budget"
    jobs: int | None = None
    problems: dict[str, str | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    calls: int = 0
    tokens: int = 0
    cost: float = 0.0

    def select(self, sql: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        """Rows of a user's SELECT, checked by the allow-list first. Raises QueryRefused as `guard.check` does."""
        from queries.ask.guard import check

        return self.catalog.rows(check(sql, self.catalog).sql, parameters)


def kernel_rows(target: Target, rows: list[dict[str, Any]], run: KernelRun) -> Iterator[list[dict[str, Any]]]:
    """The batches of rows that the step's kernel makes from these; a kernel is not called for nothing."""
    if rows:
        yield from called(str(target.step.kernel))(rows, run)
