"""Checks a prompt template (TOML: system, user, few-shot [[shots]]), and keeps one of the user's own.

A message of this module quotes nothing of a file: somebody else's study may name any file of this machine.
"""

import json
import re
import tomllib
from dataclasses import dataclass
from string import Template

from catalog.errors import InputError
from catalog.study.small_file import read_small

PLACEHOLDERS = {
    "explainer": ("constraints", "examples", "instructions"),
    "scorer": ("examples", "explanation", "n"),
}
"""The kind of a section -> the names that its prompt may put values at."""
MOST_BYTES = 64 * 1024
_NEEDS = "it needs `system`, `user`, and `user` and `assistant` in each of its [[shots]], all of them text"


@dataclass(frozen=True, slots=True)
class Parts:
    """What a template holds."""

    system: str
    user: str
    shots: tuple[tuple[str, str], ...]


def parts(text: str, where: str, *, others: bool = True) -> Parts:
    """A template's parts from its TOML text; `others` says whether it may have further keys, which are not read.

    Raises InputError, naming `where`, if it is not whole.
    """
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # The parser's own words may quote the text.
        place = re.search(r"at line \d+, column \d+", str(error))
        said = f"not TOML {place[0]}" if place else "not TOML"
        raise InputError(f"the prompt template {where} is not usable ({said}); {_NEEDS}") from None
    shots = raw.get("shots", [])
    whole = (
        _texts(raw, ("system", "user"))
        and isinstance(shots, list)
        and all(isinstance(shot, dict) and _texts(shot, ("user", "assistant")) for shot in shots)
        and (others or raw.keys() <= {"system", "user", "shots"})
    )
    if not whole:
        raise InputError(f"the prompt template {where} is not usable (a key is missing, unknown or no text); {_NEEDS}")
    return Parts(raw["system"], raw["user"], tuple((shot["user"], shot["assistant"]) for shot in shots))


def read_template(path: str, kind: str) -> str:
    """The text of the template in a file, made anew from its parts, so that a catalog keeps nothing else of the file.

    `kind` is "explainer" or "scorer". Raises InputError for what is no regular file of at most 64 kB, no UTF-8, no
    template, or names a value that this kind does not have.
    """
    content = read_small(path, "the prompt template", MOST_BYTES)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"the prompt template {path} is not UTF-8 at byte {error.start}: save it as UTF-8") from None
    found = parts(text, path, others=False)
    unknown = sorted(_placeholders(found) - set(PLACEHOLDERS[kind]))
    if unknown:
        known = ", ".join(f"${name}" for name in PLACEHOLDERS[kind])
        raise InputError(
            f"the prompt template {path} names a value ${unknown[0]} that no {kind} has: it may use {known}; "
            "write $$ for a dollar"
        )
    return written(found)


def written(said: Parts) -> str:
    """The parts as TOML."""
    lines = [f"system = {_quoted(said.system)}", f"user = {_quoted(said.user)}"]
    for user, assistant in said.shots:
        lines += ["", "[[shots]]", f"user = {_quoted(user)}", f"assistant = {_quoted(assistant)}"]
    return "\n".join(lines) + "\n"


def _placeholders(said: Parts) -> set[str]:
    """The names in system and user; few-shot turns are sent as they are."""
    matches = [match for text in (said.system, said.user) for match in Template.pattern.finditer(text)]
    return {name for match in matches if (name := match["named"] or match["braced"])}


def _texts(table: dict[str, object], names: tuple[str, ...]) -> bool:
    """Whether a table has these keys, all of them text."""
    return all(isinstance(table.get(name), str) for name in names)


def _quoted(text: str) -> str:
    # A basic string of TOML is one of JSON, but for DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
