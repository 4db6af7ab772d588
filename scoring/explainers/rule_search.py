"""Searches rules that tell windows in which a feature fires from others: terms, words like some, a topic.

Each search takes the windows that it may learn from, and gives rules of growing size, each an extension of the one
before: how many parts a rule keeps is for windows to say that it was not chosen on.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import get_args

import numpy as np
import numpy.typing as npt

from scoring.label_rules import Kind, Rule, Side, about, nearest
from scoring.window_terms import Term, Window, is_word, sides_of, stem, terms_near, words_near

Mask = npt.NDArray[np.bool_]
Matrix = npt.NDArray[np.float64]

_MOST_TERMS, _MOST_WORDS, _MOST_PHRASES = 150, 40, 40
"""Candidates of each kind: those that the firing windows have most beyond the others."""
_OFTEN = 3
"""Firing windows that a candidate stands in at least, where there are so many."""
_EVEN = 0.01
"""Balanced accuracies that differ by less count as even: then the commoner candidate is taken."""


@dataclass(frozen=True)
class Evidence:
    """Windows with what the feature does in them, and what the candidates of each kind score there."""

    active: Mask
    terms: tuple[str, ...]
    """Their codes."""
    contains: Mask
    """`[windows, terms]`."""
    words: tuple[str, ...]
    near: Matrix
    """`[windows, words]`: see label_rules.nearest."""
    phrases: tuple[tuple[str, ...], ...]
    topics: Matrix
    """`[windows, phrases]`: see label_rules.about."""
    surfaces: dict[str, str]
    """Stem -> how it is written most often."""


def gather(windows: Sequence[Window], fires: Sequence[Sequence[bool]], active: Mask, train: Mask) -> Evidence:
    """The candidates that firing train windows offer, scored in all windows.

    `fires` says of each window's tokens whether the feature fires on them. Terms and words stand where it fires,
    phrases anywhere in the window.
    """
    firing = [i for i in range(len(windows)) if train[i] and active[i]]
    often = min(_OFTEN, max(len(firing) // 4, 1))
    near_firing: Counter[str] = Counter()
    on_firing: Counter[str] = Counter()
    phrases: Counter[tuple[str, ...]] = Counter()
    written: dict[str, Counter[str]] = {}
    for i in firing:
        near_firing.update(terms_near(windows[i], fires[i]))
        on_firing.update(set(words_near(windows[i], fires[i])))
        phrases.update(_phrases(windows[i]))
        for unit in windows[i].units:
            if is_word(unit.text):
                written.setdefault(stem(unit.text), Counter())[unit.text.casefold()] += 1
    # Of terms that do as well the first is taken: one key says it in fewer words than two side by side.
    terms = sorted((len(Term.read(code).keys), code) for code, n in near_firing.items() if n >= often)
    contains = np.array([[code in window.terms for _, code in terms] for window in windows], bool)
    contains = contains.reshape(len(windows), len(terms))
    kept = _best_columns(contains, active, train, _MOST_TERMS)
    words = [word for word, n in sorted(on_firing.items(), key=lambda pair: (-pair[1], pair[0]))][:_MOST_WORDS]
    said = [phrase for phrase, n in sorted(phrases.items(), key=lambda p: (-p[1] * len(p[0]), p[0])) if n >= often]
    said = said[: 4 * _MOST_PHRASES]
    holds = np.array([[set(phrase) <= window.words for phrase in said] for window in windows], bool)
    some = _best_columns(holds.reshape(len(windows), len(said)), active, train, _MOST_PHRASES)
    said = [said[j] for j in some]
    return Evidence(
        active,
        tuple(terms[j][1] for j in kept),
        contains[:, kept],
        tuple(words),
        nearest(windows, words),
        tuple(said),
        about(windows, said) if said else np.zeros((len(windows), 0)),
        {root: forms.most_common(1)[0][0] for root, forms in written.items()},
    )


def grown(evidence: Evidence, learn: Mask, most: int) -> dict[Kind, list[Rule]]:
    """Rules of each kind, of 1 to `most` parts, learned from the windows in `learn` alone; topics have one part."""
    y = evidence.active[learn]
    found: dict[Kind, list[Rule]] = {"terms": [], "like": [], "any": [], "topic": []}
    picked = _any_of(evidence.contains[learn], y, most)
    for n in range(1, len(picked) + 1):
        terms = tuple(Term.read(evidence.terms[j]) for j in picked[:n])
        found["terms"].append(Rule("terms", terms, surfaces=_surfaces(terms, evidence)))
    for picked_words, cutoff in _nearest_of(evidence.near[learn], y, most):
        found["like"].append(Rule("like", words=tuple(evidence.words[j] for j in picked_words), cutoff=cutoff))
    for some, near in _any_or_near(evidence.contains[learn], evidence.near[learn], y, most):
        terms = tuple(Term.read(evidence.terms[j]) for j in some)
        words = tuple(evidence.words[j] for j, _ in near)
        cuts, surfaces = tuple(cutoff for _, cutoff in near), _surfaces(terms, evidence)
        found["any"].append(Rule("any", terms, words, cutoffs=cuts, surfaces=surfaces))
    if evidence.phrases:
        accuracies, cutoffs = best_cutoffs(evidence.topics[learn], y)
        j = int(np.argmax(accuracies))
        found["topic"].append(Rule("topic", words=evidence.phrases[j], cutoff=float(cutoffs[j])))
    return found


def with_sides(rule: Rule, windows: Sequence[Window], fires: Sequence[Sequence[bool]]) -> Rule:
    """The rule with the sides of those terms that the feature fires beside: on at most a quarter elsewhere near them.

    `windows` are firing train windows, and `fires` says of each one's tokens whether the feature fires on them.
    """
    beside: list[tuple[str, Side]] = []
    for term in rule.terms:
        counts: Counter[str] = Counter()
        for window, lit in zip(windows, fires, strict=True):
            if term.least == 1 and term.code in window.terms:
                counts += sides_of(window, term, lit)
        for side in get_args(Side):
            if counts[side] >= max(_OFTEN, 3 * (counts.total() - counts[side])):
                beside.append((term.code, side))
    return replace(rule, beside=tuple(beside))


def best_cutoffs(scores: Matrix, active: Mask) -> tuple[Matrix, Matrix]:
    """(balanced accuracy, cutoff) of each column of `[windows, columns]` at the cutoff that is best for it."""
    order = np.argsort(-scores, axis=0, kind="stable")
    ranked, hit = np.take_along_axis(scores, order, 0), active[order]
    hits, alarms = np.cumsum(hit, 0) / max(active.sum(), 1), np.cumsum(~hit, 0) / max((~active).sum(), 1)
    accuracy = (hits + 1 - alarms) / 2
    # A cutoff cannot part equals.
    accuracy[:-1][ranked[:-1] - ranked[1:] < 1e-6] = -1
    at = np.argmax(accuracy, 0)
    columns = np.arange(scores.shape[1])
    below = ranked[np.minimum(at + 1, len(ranked) - 1), columns]
    return accuracy[at, columns], np.round((ranked[at, columns] + below) / 2, 6)


def _any_of(contains: Mask, active: Mask, most: int) -> list[int]:
    """Columns, picked greedily by the balanced accuracy of "any of them"."""
    picked: list[int] = []
    covered, reached = np.zeros(len(active), bool), 0.5
    while len(picked) < most and contains.shape[1]:
        with_it = contains | covered[:, None]
        accuracy = (with_it[active].mean(0) + 1 - with_it[~active].mean(0)) / 2
        j = int(np.argmax(accuracy))
        if accuracy[j] <= reached + 1e-9:
            break
        picked.append(j)
        reached, covered = float(accuracy[j]), covered | contains[:, j]
    return picked


def _nearest_of(near: Matrix, active: Mask, most: int) -> list[tuple[list[int], float]]:
    """(columns, cutoff) of growing size, greedily by balanced accuracy at the best cutoff; of even ones the first."""
    found: list[tuple[list[int], float]] = []
    so_far, reached = np.full((len(active), 1), -1.0), 0.5
    while len(found) < most and near.shape[1]:
        with_it = np.maximum(near, so_far)
        accuracies, cutoffs = best_cutoffs(with_it, active)
        j = int(np.flatnonzero(accuracies >= accuracies.max() - _EVEN)[0])
        if accuracies[j] <= reached + 1e-9:
            break
        found.append(([*(found[-1][0] if found else []), j], float(cutoffs[j])))
        reached, so_far = float(accuracies[j]), with_it[:, [j]]
    return found


def _any_or_near(
    contains: Mask, near: Matrix, active: Mask, most: int
) -> list[tuple[list[int], list[tuple[int, float]]]]:
    """(terms, words with a cutoff each) of growing size, picked greedily from both by the accuracy of "any of them"."""
    found: list[tuple[list[int], list[tuple[int, float]]]] = []
    covered, reached = np.zeros(len(active), bool), 0.5
    some: list[int] = []
    words: list[tuple[int, float]] = []
    while len(found) < most and contains.shape[1] and near.shape[1]:
        with_it = contains | covered[:, None]
        by_term = (with_it[active].mean(0) + 1 - with_it[~active].mean(0)) / 2
        by_word, cutoffs = best_cutoffs(np.where(covered[:, None], 2.0, near), active)
        j = int(np.flatnonzero(by_word >= by_word.max() - _EVEN)[0])
        k = int(np.argmax(by_term))
        if max(by_term[k], by_word[j]) <= reached + 1e-9:
            break
        # A word's cutoff is one more thing to be chosen: it has to be worth it.
        if by_term[k] >= by_word[j] - _EVEN:
            some, covered, reached = [*some, k], with_it[:, k], float(by_term[k])
        else:
            words = [*words, (j, float(cutoffs[j]))]
            covered, reached = covered | (near[:, j] >= cutoffs[j]), float(by_word[j])
        found.append((some, words))
    return found


def _surfaces(terms: Sequence[Term], evidence: Evidence) -> tuple[tuple[str, str], ...]:
    names = {name for term in terms for kind, _, name in (key.partition(":") for key in term.keys) if kind == "word"}
    return tuple((name, evidence.surfaces[name]) for name in sorted(names) if name in evidence.surfaces)


def _best_columns(contains: Mask, active: Mask, train: Mask, most: int) -> list[int]:
    """Columns that firing train windows have oftener than others, the largest difference first."""
    if not contains.shape[1]:
        return []
    more = contains[train & active].mean(0) - contains[train & ~active].mean(0)
    return [int(j) for j in np.argsort(-more, kind="stable")[:most] if more[j] > 0]


def _phrases(window: Window) -> set[tuple[str, ...]]:
    """Words of more than three letters, and pairs of such side by side."""
    units = [unit.text.casefold() if is_word(unit.text) and len(unit.text) > 3 else None for unit in window.units]
    found: set[tuple[str, ...]] = {(text,) for text in units if text}
    return found | {(a, b) for a, b in pairwise(units) if a and b}
