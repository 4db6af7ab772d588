"""Defines the rules that lexical labels state, and finds the windows that they hold in, for explainer and scorer alike.

A rule is one of four kinds: `terms` holds where a window contains any of some terms; `like` where it contains a word
whose vector is near enough to one of some words; `any` where either is so, each word with a cutoff of its own; `topic`
where a window's words together are near enough to a phrase.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from scoring.window_terms import Term, Window

Kind = Literal["terms", "like", "any", "topic"]
Side = Literal["after", "before"]
Scores = npt.NDArray[np.float64]

NOWHERE = -1.0
"""Similarity of a window without words."""


@dataclass(frozen=True)
class Rule:
    """What a label says, as it can be looked for: a window fires if its score reaches `cutoff`."""

    kind: Kind
    terms: tuple[Term, ...] = ()
    words: tuple[str, ...] = ()
    """like: those that others are compared with; topic: the phrase."""
    cutoff: float = 0.5
    """like and topic: least cosine; terms and any: 0.5."""
    cutoffs: tuple[float, ...] = ()
    """any: least cosine of each word."""
    surfaces: tuple[tuple[str, str], ...] = ()
    """(stem, how it is written most often) of the terms' words."""
    beside: tuple[tuple[str, Side], ...] = ()
    """(code of a term, side on which the feature fires) of terms that it fires beside and not on."""

    def scores(self, windows: Sequence[Window]) -> Scores:
        """`[windows]`: terms 1 or 0; like and topic the largest cosine; any 1, or how far one is past its cutoff."""
        wanted = frozenset(term.code for term in self.terms)
        present = np.array([not wanted.isdisjoint(window.terms) for window in windows], dtype=np.float64)
        if self.kind == "terms":
            return present
        if self.kind == "any":
            past = nearest(windows, self.words) - np.array(self.cutoffs) + self.cutoff
            either: Scores = np.maximum(present, past.max(1, initial=NOWHERE))
            return either
        if self.kind == "like":
            near: Scores = nearest(windows, self.words).max(1, initial=NOWHERE)
            return near
        return about(windows, [self.words])[:, 0]

    def holds(self, windows: Sequence[Window]) -> npt.NDArray[np.bool_]:
        """`[windows]`: whether the rule says that the feature fires."""
        return self.scores(windows) >= self.cutoff

    def units(self, window: Window) -> set[int]:
        """The units of a window on which, by the rule, the feature fires: none where the rule does not hold.

        That is each term where it stands, or the unit on its side if the rule says that the feature fires beside it;
        each word that is near enough; of a topic every unit.
        """
        if self.kind == "topic":
            return set(range(len(window.units))) if self.holds([window])[0] else set()
        sides = dict(self.beside)
        found: set[int] = set()
        for term in self.terms:
            n = len(term.keys)
            starts = [j for j in range(len(window.units) - n + 1) if _stands(term, window, j)]
            if len(starts) < term.least:
                continue
            side = sides.get(term.code)
            for j in starts:
                found.update(range(j, j + n) if side is None else [j + n if side == "after" else j - 1])
        if self.words and window.words:
            from ingest.model.word_vectors import word_vectors

            cutoffs = np.array(self.cutoffs if self.kind == "any" else [self.cutoff] * len(self.words))
            spoken = sorted(window.words)
            near = word_vectors(spoken) @ word_vectors(self.words).T >= cutoffs
            wanted = {word for word, row in zip(spoken, near.tolist(), strict=True) if any(row)}
            found.update(i for i, unit in enumerate(window.units) if unit.text.casefold() in wanted)
        return found & set(range(len(window.units)))

    def to_json(self) -> dict[str, Any]:
        """As a label's details keep it."""
        said: dict[str, Any] = {"kind": self.kind}
        if self.kind in ("like", "topic"):
            return said | {"words": list(self.words), "cutoff": self.cutoff}
        said |= {"terms": [[list(t.keys), t.least] for t in self.terms], "surfaces": dict(self.surfaces)}
        sides = dict(self.beside)
        if sides:
            said["beside"] = [[i, sides[term.code]] for i, term in enumerate(self.terms) if term.code in sides]
        return said if self.kind == "terms" else said | {"words": list(self.words), "cutoffs": list(self.cutoffs)}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> "Rule":
        """Reads `to_json`. Raises KeyError, TypeError or ValueError for anything else."""
        if said["kind"] in ("terms", "any"):
            terms = tuple(Term(tuple(map(str, keys)), int(count)) for keys, count in said["terms"])
            surfaces = tuple((str(a), str(b)) for a, b in said["surfaces"].items())
            words, cutoffs = said.get("words", ()), said.get("cutoffs", ())
            if len(words) != len(cutoffs):
                raise ValueError(f"{len(words)} words with {len(cutoffs)} cutoffs")
            if any(side not in get_args(Side) for _, side in said.get("beside", ())):
                raise ValueError(f"no side of a term: {said['beside']!r}")
            beside = tuple((terms[i].code, side) for i, side in said.get("beside", ()))
            return cls(said["kind"], terms, tuple(map(str, words)), 0.5, tuple(map(float, cutoffs)), surfaces, beside)
        if said["kind"] not in ("like", "topic"):
            raise ValueError(f"no rule of kind {said['kind']!r}")
        return cls(said["kind"], words=tuple(map(str, said["words"])), cutoff=float(said["cutoff"]))

    @property
    def text(self) -> str:
        """The rule as a person reads it: `"tumor" or "cancer"`, `words like "glad"`, `text about "rare disease"`."""
        if self.kind == "like":
            return f"words like {_listed([_quoted(word) for word in self.words])}"
        if self.kind == "topic":
            return f"text about {_quoted(' '.join(self.words))}"
        surfaces = dict(self.surfaces)
        sides = dict(self.beside)
        parts = [_term_text(term, surfaces) for term in self.terms if term.code not in sides]
        if self.words:
            parts.append(f"words like {_listed([_quoted(word) for word in self.words], ' or ')}")
        # Last: what follows "the token after" would seem to belong to it.
        for term in self.terms:
            if term.code in sides:
                parts.append(f"the token {sides[term.code]} {_term_text(term, surfaces)}")
        return _listed(parts, " or ")


def _stands(term: Term, window: Window, at: int) -> bool:
    return all(key in window.keys[at + i] for i, key in enumerate(term.keys))


def nearest(windows: Sequence[Window], words: Sequence[str]) -> Scores:
    """`[windows, words]`: the cosine of each word with that word of a window which is nearest to it."""
    from ingest.model.word_vectors import word_vectors

    every = sorted(set().union(*(window.words for window in windows)))
    column = {word: i for i, word in enumerate(every)}
    near = word_vectors(words) @ word_vectors(every).T
    return np.array(
        [near[:, [column[word] for word in sorted(window.words)]].max(1, initial=NOWHERE) for window in windows],
        np.float64,
    ).reshape(len(windows), len(words))


def about(windows: Sequence[Window], phrases: Sequence[Sequence[str]]) -> Scores:
    """`[windows, phrases]`: the cosine of all words of a window together with those of a phrase."""
    from ingest.model.word_vectors import text_vector

    texts = np.array([text_vector(sorted(window.words)) for window in windows])
    said = np.array([text_vector(phrase) for phrase in phrases])
    found: Scores = (texts @ said.T).astype(np.float64).reshape(len(windows), len(phrases))
    return found


def _term_text(term: Term, surfaces: Mapping[str, str]) -> str:
    if len(term.keys) == 1:
        kind, _, name = term.keys[0].partition(":")
        if kind == "class":
            return name if term.least == 1 else f"at least {term.least} {name}"
        return f"words in {_quoted('-' + name)}" if kind == "ending" else _quoted(surfaces.get(name, name))
    (before, first), (after, second) = ((kind, name) for kind, _, name in (key.partition(":") for key in term.keys))
    if before == "class" and after == "class":
        return f"{first} before {second}"
    if after == "class":
        return f"{second} after {_quoted(surfaces.get(first, first))}"
    if before == "class":
        return f"{first} before {_quoted(surfaces.get(second, second))}"
    glue = " " if (before, after) == ("word", "word") else ""
    return _quoted(surfaces.get(first, first) + glue + surfaces.get(second, second))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _listed(items: Sequence[str], last: str = ", ") -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])}{last}{items[-1]}"
