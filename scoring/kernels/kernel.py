"""Defines what the engine gives a kernel besides its rows."""

from collections.abc import Callable
from typing import Any, Protocol

from catalog import Catalog
from scoring.client.budget import Budget


class Run(Protocol):
    """One run of one step."""

    catalog: Catalog
    parameters: dict[str, Any]
    progress: Callable[[int, int], None]
    """Called with (input rows done, input rows)."""
    budget: Budget
    """Limit on what is paid; an input row that it does not reach gets no output row."""
    jobs: int | None
    """Requests at a time, instead of the configuration's own."""
    problems: dict[str, str | None]
    """To be filled: a value of the first input column -> what is wrong with it, None for nothing. It stays in the
    table `problems`, under the step's name, until the kernel says otherwise or the value is gone."""
    notes: list[str]
    """To be added to: what the user is to be told once, and no row says."""
    calls: int
    """To be counted up: calls of a paid endpoint."""
    tokens: int
    """To be counted up: tokens of prompts and answers that were paid for."""
    cost: float
    """To be counted up: money spent."""

    def select(self, sql: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        """Rows of a user's SELECT, checked by the allow-list first."""
        ...
