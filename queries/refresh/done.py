"""Holds what the run of one step has come to so far."""

import time
from dataclasses import dataclass, field

from catalog.errors import SaeqlError
from catalog.store.comparison import NONE, Changes
from queries.refresh.kernel_run import KernelRun
from queries.refresh.result import StepResult
from queries.refresh.step import Step


@dataclass
class Done:
    """What the run of a step came to."""

    partial: bool = False
    """Whether a limit or a filter left some of it undone."""
    left: int = 0
    """Stale keys that stay as they are."""
    changes: Changes = NONE
    failed: int = 0
    """Rows that carry a problem."""
    calls: int = 0
    tokens: int = 0
    cost: float = 0.0
    warnings: tuple[str, ...] = ()

    why: tuple[str, ...] = ()
    begun: float = field(default_factory=time.monotonic)
    """When the step began, also if its work was then assessed anew; on the monotonic clock."""

    def paid(self, run: KernelRun) -> None:
        """Take over what a kernel has paid so far."""
        self.calls, self.tokens, self.cost = run.calls, run.tokens, run.cost

    def result(self, step: Step, error: SaeqlError | None = None) -> StepResult:
        """The step's result."""
        return StepResult(
            step.name,
            "failed" if error else "part" if self.partial else "done",
            changes=self.changes,
            why=self.why,
            failed=0 if error else self.failed,
            left=self.left,
            calls=self.calls,
            tokens=self.tokens,
            cost=self.cost,
            warnings=self.warnings,
            seconds=time.monotonic() - self.begun,
            error=error,
        )
