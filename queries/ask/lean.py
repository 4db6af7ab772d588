"""What a process that only answers or prints a query does not load: half of its start would be imports."""

import sys
from contextlib import suppress
from types import ModuleType


def load_engine() -> None:
    """Import DuckDB without what it asks for the version of its own package: 50 ms for a string, which this gives it.

    Whatever goes wrong, the next `import duckdb` is an ordinary one.
    """
    with suppress(ImportError):
        import _duckdb

        stand_in = ModuleType("importlib.metadata")
        stand_in.version = lambda name: _duckdb.__version__  # type: ignore[attr-defined]
        before = sys.modules.setdefault(stand_in.__name__, stand_in)
        try:
            import duckdb  # noqa: F401
        finally:
            if before is stand_in:
                del sys.modules[stand_in.__name__]


def without_numpy() -> None:
    """Have Arrow be imported without NumPy, for half of the time that it takes otherwise.

    Only for a process of our own in which no row becomes an array of NumPy's: none can be made there any more.
    """
    sys.modules.setdefault("numpy", None)  # type: ignore[arg-type]


def with_numpy() -> None:
    """NumPy can be imported again."""
    if sys.modules.get("numpy", sys) is None:
        del sys.modules["numpy"]
