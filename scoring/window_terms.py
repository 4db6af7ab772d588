"""Finds the terms of a window, of which the lexical explainer makes its labels."""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

MODEL = "lexical"

Kind = Literal["token", "word", "bigram", "class"]

WORD = re.compile(r"[^\W_]+")

KINDS: tuple[Kind, ...] = ("token", "word", "bigram", "class")

CLASSES: dict[str, Callable[[str], bool]] = {
    "numbers": str.isdigit,
    "single letters": lambda token: len(token) == 1 and token.isalpha(),
    "words in capitals": lambda token: len(token) > 1 and token.isalpha() and token.isupper(),
    "capitalised words": lambda token: len(token) > 1 and token.isalpha() and token.istitle(),
}


class Term(NamedTuple):
    """What is looked for in a window: an exact token, a case-folded word, two exact tokens, a class of tokens."""

    kind: Kind
    parts: tuple[str, ...]


def window_terms(tokens: Sequence[str]) -> set[Term]:
    """Every term that a window contains."""
    terms = token_classes(tokens)
    terms |= {Term("token", (token,)) for token in tokens}
    terms.update(Term("bigram", pair) for pair in pairwise(tokens))
    terms.update(Term("word", (word.casefold(),)) for word in WORD.findall("".join(tokens)))
    return terms


def token_classes(tokens: Sequence[str]) -> set[Term]:
    bare = {token.strip() for token in tokens}
    return {Term("class", (name,)) for name, member in CLASSES.items() if any(map(member, bare))}
