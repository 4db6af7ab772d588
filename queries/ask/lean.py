"""Lets a process that only answers or prints a query import Arrow without NumPy."""

import sys


def without_numpy() -> None:
    """Have Arrow be imported without NumPy, for half of the time that it takes otherwise.

    Only for a process of our own in which no row becomes an array of NumPy's: none can be made there any more.
    """
    sys.modules.setdefault("numpy", None)  # type: ignore[arg-type]


def with_numpy() -> None:
    """NumPy can be imported again."""
    if sys.modules.get("numpy", sys) is None:
        del sys.modules["numpy"]
