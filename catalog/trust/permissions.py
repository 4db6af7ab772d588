"""Keeps what this machine's user allowed: hosts that may get a key, databases that may get a password, models' code.

A catalog passed on by somebody else names all of them. The list therefore lies with the machine, never in a catalog:
`SAEQL_CONFIG`, else `$XDG_CONFIG_HOME/saeql` or `~/.config/saeql`.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Literal

from catalog.errors import InputError

Kind = Literal["endpoints", "databases", "code"]


def config_folder() -> Path:
    """Where saeql keeps what belongs to this machine's user."""
    given = os.environ.get("SAEQL_CONFIG")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "saeql"


def is_allowed(kind: Kind, value: str) -> bool:
    """Whether the user of this machine allowed `value` before. Raises InputError if the list cannot be read."""
    return value in _read().get(kind, [])


def allow(kind: Kind, value: str) -> None:
    """Remember that `value` is allowed on this machine. Raises InputError if the list cannot be read or written."""
    known = _read()
    if value in known.get(kind, []):
        return
    known[kind] = sorted({*known.get(kind, []), value})
    path = _path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".allowed-")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(known, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError as error:
        advice = "set SAEQL_CONFIG to a folder of yours"
        raise InputError(f"{path} cannot be written ({error.strerror}): {advice}") from error


def _path() -> Path:
    return config_folder() / "allowed.json"


def _read() -> dict[str, list[str]]:
    path = _path()
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): correct or remove it") from error
    lists = isinstance(known, dict) and all(
        isinstance(values, list) and all(isinstance(value, str) for value in values) for values in known.values()
    )
    if not lists:
        raise InputError(f"{path} is not an object of lists of text: correct or remove it")
    return dict(known)
