"""Finds the terms of a window, of which the lexical explainer makes its labels.

A window is cut into units: words, numbers, marks, line breaks. A unit has keys: the stem of a word, the classes that it
belongs to, a mark itself. A term is a key that a window contains (of a class, at least so many of them), or two keys
of neighbouring units.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from scoring.word_classes import CLASSES_OF, CLOSING, ENDINGS, OPENING, QUOTES

COUNTS = (1, 2, 3, 5)
"""How many of a class a term may ask for."""
NEIGHBOURS = 2
"""A term may stand this many units before or after a firing one."""

_UNIT = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?|\d+|[\n\r]+|[^\w\s]|_")
_BESIDE, _TIMES = "\x1f", "\x1e"
_POSSESSIVE = re.compile("['\u2019]s$")
_VOWEL = re.compile("[aeiouy]")
_SENTENCE_END = frozenset('.!?:\n"\u201c\u201d')


class Unit(NamedTuple):
    """A word, number, mark or run of line breaks; `first` and `last` are the tokens that it lies in."""

    text: str
    first: int
    last: int


class Term(NamedTuple):
    """What is looked for in a window: one key at least `least` times, or two keys side by side.

    A key is `word:STEM`, `class:NAME`, `mark:CHARACTER` or `ending:LETTERS`. Windows hold the terms' codes: a window
    has a hundred terms, and strings are made and compared fastest.
    """

    keys: tuple[str, ...]
    least: int = 1

    @property
    def code(self) -> str:
        """The term as one string."""
        return _BESIDE.join(self.keys) if self.least == 1 else f"{self.keys[0]}{_TIMES}{self.least}"

    @classmethod
    def read(cls, code: str) -> "Term":
        """The term of a code."""
        keys, _, count = code.partition(_TIMES)
        return cls(tuple(keys.split(_BESIDE)), int(count or 1))


class Window(NamedTuple):
    """A window's units with their keys, and the codes of the terms that it contains."""

    units: tuple[Unit, ...]
    keys: tuple[tuple[str, ...], ...]
    terms: frozenset[str]
    words: frozenset[str]
    """Its words of more than one letter, in lower case."""


@lru_cache(maxsize=16_384)
def read_window(tokens: tuple[str, ...]) -> Window:
    """Cut a window into units and find its terms. Features share windows, so that many are read once."""
    found = _units(tokens)
    keys = tuple(_keys(unit, found[i - 1].text if i else None) for i, unit in enumerate(found))
    counts = Counter(key for of_unit in keys for key in of_unit)
    terms = set(counts)
    for key, times in counts.items():
        if times > 1 and key.startswith("class:"):
            terms.update(f"{key}{_TIMES}{n}" for n in COUNTS if 1 < n <= times)
    paired = [[key for key in of_unit if not key.startswith("ending:")] for of_unit in keys]
    for before, after in pairwise(paired):
        terms.update([a + _BESIDE + b for a in before for b in after])
    words = frozenset(unit.text.casefold() for unit in found if is_word(unit.text))
    return Window(tuple(found), keys, frozenset(terms), words)


def terms_near(window: Window, fires: Sequence[bool]) -> set[str]:
    """Codes of the window's terms whose last unit lies within two units of one on whose tokens the feature fires."""
    at = [i for i, unit in enumerate(window.units) if any(fires[unit.first : unit.last + 1])]
    near = sorted({j for i in at for j in range(i - NEIGHBOURS, i + NEIGHBOURS + 1) if 0 <= j < len(window.units)})
    found: set[str] = set()
    for j in near:
        found.update(window.keys[j])
        found.update(f"{key}{_TIMES}{n}" for key in window.keys[j] for n in COUNTS if n > 1)
        if j:
            found.update(a + _BESIDE + b for a in window.keys[j - 1] for b in window.keys[j])
    return found & window.terms


def sides_of(window: Window, term: Term, fires: Sequence[bool]) -> Counter[str]:
    """How often the feature fires on the term, or else on the unit right "after" or "before" it, where it stands."""
    found: Counter[str] = Counter()
    lit = [any(fires[unit.first : unit.last + 1]) for unit in window.units]
    n = len(term.keys)
    for j in range(len(lit) - n + 1):
        if all(key in window.keys[j + i] for i, key in enumerate(term.keys)):
            if any(lit[j : j + n]):
                found["on"] += 1
            elif j + n < len(lit) and lit[j + n]:
                found["after"] += 1
            elif j and lit[j - 1]:
                found["before"] += 1
    return found


def words_near(window: Window, fires: Sequence[bool]) -> list[str]:
    """The words, in lower case, on which the feature fires."""
    return [
        unit.text.casefold() for unit in window.units if is_word(unit.text) and any(fires[unit.first : unit.last + 1])
    ]


def is_word(text: str) -> bool:
    """Whether a unit is a word of more than one letter."""
    return len(text) > 1 and text[0].isalpha()


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """The word without case and the endings of English inflection: "Tumors" and "tumor" have one stem.

    A rule of thumb, not a dictionary: what it leaves need not be a word.
    """
    stemmed = _POSSESSIVE.sub("", word.casefold())
    if len(stemmed) <= 3:
        return stemmed
    if stemmed.endswith(("ies", "ied")) and len(stemmed) > 4:
        stemmed = stemmed[:-3] + "y"
    elif stemmed.endswith(("sses", "xes", "ches", "shes", "zes")):
        stemmed = stemmed[:-2]
    elif stemmed.endswith("s") and not stemmed.endswith(("ss", "us", "is")):
        stemmed = stemmed[:-1]
    for ending in ("ing", "ed"):
        root = stemmed.removesuffix(ending)
        if root != stemmed and len(root) >= 3 and _VOWEL.search(root):
            doubled = len(root) > 3 and root[-1] == root[-2] and root[-1] not in "lsz"
            stemmed = root[:-1] if doubled else root
            break
    return stemmed[:-1] if len(stemmed) > 4 and stemmed.endswith("e") else stemmed


def _units(tokens: tuple[str, ...]) -> list[Unit]:
    text = "".join(tokens)
    token_of = [i for i, token in enumerate(tokens) for _ in token]
    return [Unit(m.group(), token_of[m.start()], token_of[m.end() - 1]) for m in _UNIT.finditer(text)]


def _keys(unit: Unit, before: str | None) -> tuple[str, ...]:
    text = unit.text
    if text[0].isalpha():
        return tuple(_word_keys(unit, before))
    if text[0].isdigit():
        year = len(text) == 4 and text[0] in "12"
        return ("class:numbers", *(["class:years"] if year else []))
    if text[0] in "\n\r":
        return ("class:line breaks",)
    of = {"opening brackets": OPENING, "closing brackets": CLOSING, "quotation marks": QUOTES}
    return (f"mark:{text}", *(f"class:{name}" for name, marks in of.items() if text in marks))


def _word_keys(unit: Unit, before: str | None) -> list[str]:
    text = unit.text
    keys = [f"word:{stem(text)}", *(f"class:{name}" for name in CLASSES_OF.get(text.casefold(), ()))]
    if len(text) == 1:
        return keys if text in "aAI" else [*keys, "class:single letters"]
    if text.isupper():
        keys.append("class:words in capitals")
    elif text[0].isupper():
        keys.append("class:capitalised words")
        if before is not None and before[0] in ".!?":
            keys.append("class:first words of a sentence")
        if before is not None and before[0] not in _SENTENCE_END:
            keys.append("class:capitalised words within a sentence")
    if unit.last > unit.first + 1:
        keys.append("class:rare words")
    if len(text) >= 6:
        keys += [f"ending:{end}" for end in ENDINGS if text.casefold().endswith(end)]
    return keys
