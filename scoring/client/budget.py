"""Limits paid calls and money, for all clients of a refresh together."""

import threading

from catalog.errors import SaeqlError


class BudgetSpent(SaeqlError):
    """A request that was not sent, because a limit on calls or money was reached."""


class Budget:
    """A limit on paid calls and money over several clients and threads; None is no limit.

    Before a request its largest possible cost is set aside, so that requests under way never pass the limit; a
    request that does not fit waits for those under way, which mostly cost less.
    """

    def __init__(self, calls: int | None = None, cost: float | None = None) -> None:
        self._calls, self._cost = calls, cost
        self._under_way = 0
        self._changed = threading.Condition()
        self.spent = False
        """Whether a request was refused."""

    def take(self, most: float) -> None:
        """Set aside one call of at most this cost. Raises BudgetSpent if there is not that much left."""
        with self._changed:
            while not self.spent and self._cost is not None and self._cost < most and self._under_way:
                self._changed.wait()
            short = self._cost is not None and self._cost < most
            if self.spent or short or (self._calls is not None and self._calls < 1):
                self.spent = True
                self._changed.notify_all()
                raise BudgetSpent("the limit on calls or cost of this refresh is reached")
            self._calls = None if self._calls is None else self._calls - 1
            self._cost = None if self._cost is None else self._cost - most
            self._under_way += 1

    def settle(self, unused: float) -> None:
        """A request has ended, and cost this much less than was set aside for it."""
        with self._changed:
            self._cost = None if self._cost is None else self._cost + unused
            self._under_way -= 1
            self._changed.notify_all()
