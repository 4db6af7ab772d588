"""Says how callers are told of the progress of an ingest."""

from collections.abc import Callable

Progress = Callable[[str, int, int | None, str], None]
"""Called with (what is being done, done, total, figures so far)."""
Counted = Callable[[int, int | None], None]
"""Called with (done, total)."""


def tell(progress: Progress, what: str, done: int, total: int | None) -> None:
    """Progress without figures."""
    progress(what, done, total, "")
