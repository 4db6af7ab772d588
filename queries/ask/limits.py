"""Sets how long a user's query may take, and how much memory its process may hold."""

import math
import os
import re

from catalog.errors import InputError

DEFAULT_TIMEOUT = 60.0
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_BESIDES_ENGINE = 640 * 2**20
"""Python, Arrow, the code of the engine, and what the engine keeps for reuse."""
_PER_THREAD = 16 * 2**20
"""A stack, and an arena of the allocator."""


def timeout(given: float | None) -> float:
    """Seconds that a query may take: the flag or argument, then SAEQL_TIMEOUT, then 60. 0 becomes infinity.

    Raises InputError for what is no number of seconds.

    >>> timeout(2.5), timeout(0)
    (2.5, inf)
    """
    said = given if given is not None else os.environ.get("SAEQL_TIMEOUT") or DEFAULT_TIMEOUT
    try:
        seconds = float(said)
    except (TypeError, ValueError):
        seconds = math.nan
    if not seconds >= 0:
        source = "the time limit" if given is not None else "SAEQL_TIMEOUT"
        raise InputError(f"{source} is {said!r}: give a number of seconds, 0 for no limit")
    return seconds or math.inf


def in_bytes(engine: str) -> int:
    """What the engine says of its `memory_limit`, in bytes.

    >>> in_bytes("476.8 MiB")
    499961036
    """
    match = re.fullmatch(r"([\d.]+) (\w+)", engine)
    if match is None or match[2] not in _UNITS:
        raise InputError(f"the engine's memory limit reads {engine!r}: give SAEQL_MEMORY as in 4GB")
    return int(float(match[1]) * _UNITS[match[2]])


def process_bytes(engine: int, threads: int) -> int:
    """Writable memory that the process of a query may map, given the engine's own limit in bytes.

    The engine overshoots its limit by up to a fifth in honest queries, keeps freed pages mapped, and counts neither
    text under construction nor JSON.
    """
    return engine * 3 // 2 + _BESIDES_ENGINE + threads * _PER_THREAD


def value_bytes(engine: int) -> int:
    """How large one row of a result may be: it is copied several times on its way out."""
    return engine // 8
