"""What a kernel is given besides its rows, as the engine fulfils it."""

from collections.abc import Callable
from typing import Any, Protocol

from catalog import Catalog


class Run(Protocol):
    """One run of one step."""

    catalog: Catalog
    parameters: dict[str, Any]
    progress: Callable[[int, int], None]
    """Called with (input rows done, input rows)."""
    calls: int
    """To be counted up: calls of a paid endpoint."""
    cost: float
    """To be counted up: money spent."""

    def select(self, sql: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        """Rows of a user's SELECT, checked by the allow-list first."""
        ...
