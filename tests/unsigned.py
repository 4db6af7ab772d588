"""Engines of the tests' own processes take DuckDB's extensions without hashing them.

The engine checks the signatures of two files of 35 MB whenever a catalog is opened: 0.3 s, ten times all the rest. The
files are those that pip installed and checked. Processes that tests start check signatures as everyone's do.
"""

from typing import Any

import duckdb

_connect = duckdb.connect


def connect(
    database: Any = ":memory:", read_only: bool = False, config: dict[str, Any] | None = None
) -> duckdb.DuckDBPyConnection:
    """As duckdb.connect."""
    return _connect(database, read_only, {**(config or {}), "allow_unsigned_extensions": "true"})


def trust_extensions() -> None:
    """From now on, in this process."""
    duckdb.connect = connect
