"""Holds what one step of a refresh or a plan came to."""

from dataclasses import dataclass
from typing import Any

from catalog.errors import SaeqlError
from catalog.store.comparison import NONE, Changes
from scoring.client.estimate import Estimate

Key = tuple[Any, ...]


@dataclass(frozen=True)
class StepResult:
    """What one step of a refresh did, or would do."""

    step: str
    state: str
    """`current` (nothing to do), `done`, `failed`, `waiting` (a step it reads from failed), `part` (a limit or a
    filter left some of it undone), and in a plan `stale` or `after` (what it reads is not known before then)."""
    changes: Changes = NONE
    """Rows written; in a plan of a step with a kernel, its input keys."""
    same: int | None = None
    """In a plan: how many are as they should be."""
    why: tuple[str, ...] = ()
    failed: int = 0
    """Rows that carry a problem instead of a result."""
    left: int = 0
    """Stale keys that a limit, or `keep`, left as they are."""
    calls: int = 0
    tokens: int = 0
    cost: float = 0.0
    estimate: Estimate | None = None
    """In a plan: what the paid calls will come to."""
    keys: tuple[Key, ...] = ()
    """In a plan of a step with a kernel: the stale keys."""
    warnings: tuple[str, ...] = ()
    """What the step found wrong and went on without, such as a concept that matches no token."""
    seconds: float = 0.0
    error: SaeqlError | None = None
