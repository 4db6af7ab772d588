"""Reads the prompt templates of this folder, and puts values into them.

A template is a TOML file: `system`, `user`, and few-shot `[[shots]]`. Values go in by one pass of
`string.Template`, so that text from a corpus, whatever `$name` or `{name}` it holds, is never substituted again.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Template

from catalog.errors import UnknownName
from catalog.study import prompt_text
from catalog.study.small_file import read_small

FOLDER = Path(__file__).parent
LINE_BREAK = "⏎"
_BREAK = re.compile("\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
"""What str.splitlines breaks at."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A template's parts; `hash` is the BLAKE2b of its file, with the algorithm's name before it."""

    name: str
    system: str
    user: str
    shots: tuple[tuple[str, str], ...]
    hash: str

    def messages(self, values: Mapping[str, str]) -> list[dict[str, str]]:
        """The conversation: system, the shots as turns, then the user's message; `$name` stands for a value."""
        turns = [message for user, reply in self.shots for message in (_said("user", user), _said("assistant", reply))]
        return [
            _said("system", Template(self.system).safe_substitute(values)),
            *turns,
            _said("user", Template(self.user).safe_substitute(values)),
        ]


def names() -> list[str]:
    """The packaged templates."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


@cache
def load(name: str) -> Prompt:
    """The packaged template of that name, or the file if `name` is a path that ends in .toml.

    Raises UnknownName if there is none, InputError if it lacks a part.
    """
    path = FOLDER / f"{name}.toml" if name in names() else Path(name)
    if path.suffix != ".toml" or not path.is_file():
        raise UnknownName(f"no prompt template {name!r}; known: {', '.join(names())}, or the path of a .toml file")
    text = read_small(path, "the prompt template", prompt_text.MOST_BYTES).decode(errors="replace")
    return parse(text, str(path), name)


def chosen(name: str, text: str | None) -> Prompt:
    """The template that an explainer or scorer uses: the one of its own if it has one, else the packaged `name`."""
    return load(name) if text is None else parse(text, "of this explainer or scorer")


@cache
def parse(text: str, where: str, name: str = "") -> Prompt:
    """A template from its TOML text. Raises InputError, naming `where` and quoting nothing, if it lacks a part."""
    found = prompt_text.parts(text, where)
    raw = text.encode(errors="surrogatepass")
    digest = "blake2b:" + hashlib.blake2b(raw, digest_size=16).hexdigest()
    return Prompt(name or where, found.system, found.user, found.shots, digest)


def one_line(text: str) -> str:
    """The text with each line break as a visible symbol, so that no window can pretend to be the next one."""
    return _BREAK.sub(LINE_BREAK, text)


def _said(role: str, text: str) -> dict[str, str]:
    # Only the newlines of the TOML layout go: a window may end in blanks that matter.
    return {"role": role, "content": text.strip("\n")}
