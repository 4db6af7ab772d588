"""Engines of the tests' own processes take DuckDB's extensions without hashing them, and do not look for pandas.

The engine checks the signatures of two files of 35 MB whenever a catalog is opened: 0.3 s, ten times all the rest. The
files are those that pip installed and checked. Processes that tests start check signatures as everyone's do.
With each parameter and each relation the engine imports pandas, to see whether it is one of pandas' frames. Where
there is no pandas, that is 1,300 searches of all folders in one refresh, a tenth of its time.
"""

import importlib.util
import sys
from typing import Any

import duckdb

_connect = duckdb.connect


def connect(
    database: Any = ":memory:", read_only: bool = False, config: dict[str, Any] | None = None
) -> duckdb.DuckDBPyConnection:
    """As duckdb.connect."""
    return _connect(database, read_only, {**(config or {}), "allow_unsigned_extensions": "true"})


class _Without:
    """A finder that knows of one module that it is not installed: its import fails at once."""

    def __init__(self, module: str) -> None:
        self._module = module

    def find_spec(self, name: str, *_: Any) -> None:
        # Who only asks whether it is there goes on to the other finders, and hears no.
        if name == self._module and sys._getframe(2).f_code.co_name == "_find_and_load_unlocked":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def trust_extensions() -> None:
    """From now on, in this process."""
    duckdb.connect = connect
    if importlib.util.find_spec("pandas") is None:
        sys.meta_path.insert(0, _Without("pandas"))
