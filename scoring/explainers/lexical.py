"""Explains a feature without an LLM (provider "lexical"): a label is a short list of terms.

A term is an exact token, a word in any case, two tokens in a row, or a class of tokens such as numbers. Terms
are ranked by how much more often activating windows contain them than others, and picked greedily by what they
add to the F1 of "contains any of them". The predictor knows the label's terms and their smoothed precision, never
an activation.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from catalog.errors import InputError
from scoring.window_terms import KINDS, MODEL, WORD, Kind, Term, token_classes, window_terms
from scoring.windows import Example, Label, train_examples

_PRECISIONS = (0.95, 0.9, 0.8, 0.7, 0.5)
_ALWAYS = 2 / 3
"""F1 at balanced classes of a predictor that always says yes."""


@dataclass(frozen=True, slots=True)
class LexicalSettings:
    """How terms are chosen; the defaults are meant for some tens of windows per side."""

    max_terms: int = 8
    """The most terms in a label."""
    prior: float = 10.0
    """Weight of the prior in windows (alpha_0 of Monroe et al.): larger trusts rare terms less."""
    min_z: float = 1.0
    """Least z-score of a term that stands at the peak, where the activation itself is evidence for it."""
    min_context_z: float = 2.5
    """Least z-score of a term from elsewhere in the window: many are tried, so chance finds some."""

    def __post_init__(self) -> None:
        if self.max_terms < 1:
            raise InputError(f"max_terms is {self.max_terms}; a label needs at least 1")
        if not self.prior > 0:
            raise InputError(f"prior is {self.prior}; it must be above 0")


@dataclass(frozen=True, slots=True)
class _Ranked:
    """A candidate with its counts; `active` and `inactive` are bit masks of the windows that contain it."""

    term: Term
    active: int
    inactive: int
    z: float
    probability: float

    @property
    def order(self) -> tuple[float, int, int, tuple[str, ...]]:
        """Best first: by z; among equals the longer text (" mat" also begins "material"), then the exact token."""
        kind, parts = self.term
        return -self.z, -len("".join(parts).strip()), KINDS.index(kind), parts


def explain(active: Sequence[Example], inactive: Sequence[Example], settings: LexicalSettings | None = None) -> Label:
    """A label such as `the tokens "matrix" and "matrices"`, from train windows only.

    `details["terms"]` holds each term's kind, parts, n_active, n_inactive, z and probability;
    `details["base"]` the probability that a window without any of them activates, at balanced classes;
    `details["train_f1"]` the F1 of "any term is present" on the train windows, at balanced classes.
    A feature without usable evidence gets a label whose text is None, and the problem.
    Raises InputError if an example is not from the train split or stands on the wrong side.
    """
    chosen = settings or LexicalSettings()
    active, inactive = train_examples(active, inactive)
    if not active or not inactive:
        return _none(f"needs windows of both sides, has {len(active)} activating and {len(inactive)} others")
    ranked = _rank(active, inactive, chosen)
    picked, f1 = _pick(ranked, len(active), len(inactive), chosen.max_terms)
    if f1 <= _ALWAYS:
        return _none(
            f"no terms tell the {len(active)} activating windows from the {len(inactive)} others: "
            f"the best reach F1 {f1:.2f} on them, and always saying yes {_ALWAYS:.2f}"
        )
    missed = _rate(_uncovered((r.active for r in picked), len(active)), len(active))
    spared = _rate(_uncovered((r.inactive for r in picked), len(inactive)), len(inactive))
    terms = [
        {
            "kind": r.term.kind,
            "parts": list(r.term.parts),
            "n_active": r.active.bit_count(),
            "n_inactive": r.inactive.bit_count(),
            "z": round(r.z, 4),
            "probability": r.probability,
        }
        for r in picked
    ]
    details = {
        "terms": terms,
        "base": missed / (missed + spared),
        "train_f1": f1,
        "n_active": len(active),
        "n_inactive": len(inactive),
        "settings": asdict(chosen),
    }
    return Label(text=_text([r.term for r in picked]), details=details, model=MODEL)


def peak_terms(example: Example) -> set[Term]:
    """The terms at a window's peak: its token, both neighbours, the bigram ending there, its word, its classes."""
    tokens, peak = example.tokens, example.peak
    terms = token_classes(tokens[peak : peak + 1])
    terms |= {Term("token", (token,)) for token in tokens[max(peak - 1, 0) : peak + 2]}
    if peak:
        terms.add(Term("bigram", (tokens[peak - 1], tokens[peak])))
    begin = len("".join(tokens[:peak]))
    end = begin + len(tokens[peak])
    terms.update(
        Term("word", (found[0].casefold(),))
        for found in WORD.finditer(example.text)
        if found.start() < end and found.end() > begin
    )
    return terms


def log_odds_z(n_active: int, total_active: int, n_inactive: int, total_inactive: int, prior: float) -> float:
    """z-score of the log-odds ratio of presence with an informative Dirichlet prior (here a Beta: present or not).

    Monroe, Colaresi & Quinn 2008, "Fightin' Words", eq. 16 (log-odds ratio), 20 (variance) and 22 (z-score). The
    prior has the weight of `prior` windows and the term's pooled rate, kept off 0 and 1 by half a window.
    """
    rate = (n_active + n_inactive + 0.5) / (total_active + total_inactive + 1)
    a, b = n_active + prior * rate, n_inactive + prior * rate
    odds = math.log(a / (total_active + prior - a)) - math.log(b / (total_inactive + prior - b))
    return odds / math.sqrt(1 / a + 1 / b)


def _rank(active: Sequence[Example], inactive: Sequence[Example], settings: LexicalSettings) -> list[_Ranked]:
    """Candidates that pass their z threshold and are right at least as often as not, best first."""
    at_peak = set().union(*(peak_terms(example) for example in active))
    masks: tuple[Counter[Term], Counter[Term]] = Counter(), Counter()
    for side, examples in zip(masks, (active, inactive), strict=True):
        for i, example in enumerate(examples):
            for term in window_terms(example.tokens):
                side[term] |= 1 << i
    ranked = []
    for term, mask in masks[0].items():
        other = masks[1][term]
        n_active, n_inactive = mask.bit_count(), other.bit_count()
        z = log_odds_z(n_active, len(active), n_inactive, len(inactive), settings.prior)
        hits, alarms = _rate(n_active, len(active)), _rate(n_inactive, len(inactive))
        if z >= (settings.min_z if term in at_peak else settings.min_context_z) and hits >= alarms:
            ranked.append(_Ranked(term, mask, other, z, hits / (hits + alarms)))
    return sorted(ranked, key=lambda r: r.order)


def _pick(ranked: Sequence[_Ranked], n_active: int, n_inactive: int, limit: int) -> tuple[list[_Ranked], float]:
    """The terms with the highest F1, picked greedily among those of some least precision, and the F1.

    Greed alone starts with the most frequent term that is barely right, and cannot leave it; so it is tried at
    several precisions, strictest first.
    """
    best: tuple[list[_Ranked], float] = [], 0.0
    for precision in _PRECISIONS:
        found = _greedy([r for r in ranked if r.probability >= precision], n_active, n_inactive, limit)
        if found[1] > best[1] + 1e-12:
            best = found
    return best


def _greedy(ranked: Sequence[_Ranked], n_active: int, n_inactive: int, limit: int) -> tuple[list[_Ranked], float]:
    """Repeatedly the term that adds most to F1, until none adds anything.

    At balanced classes F1 = 2 r / (r + f + 1), with r and f the shares of activating and other windows covered.
    """
    picked: list[_Ranked] = []
    covered, alarms, f1 = 0, 0, 0.0
    while len(picked) < limit:
        best: _Ranked | None = None
        for candidate in ranked:
            r = (covered | candidate.active).bit_count() / n_active
            f = (alarms | candidate.inactive).bit_count() / n_inactive
            if (reached := 2 * r / (r + f + 1)) > f1 + 1e-12:
                best, f1 = candidate, reached
        if best is None:
            break
        picked.append(best)
        covered, alarms = covered | best.active, alarms | best.inactive
    return picked, f1


def _rate(n: int, total: int) -> float:
    """A share, kept off 0 and 1 by half a window (Jeffreys' prior)."""
    return (n + 0.5) / (total + 1)


def _uncovered(masks: Iterable[int], total: int) -> int:
    covered = 0
    for mask in masks:
        covered |= mask
    return total - covered.bit_count()


def _none(reason: str) -> Label:
    return Label(text=None, problem=f"no evidence for a lexical label: {reason}", model=MODEL)


def _text(terms: Sequence[Term]) -> str:
    """`the tokens "a" and "b"; the word "c" in any case; the phrase "of a"`; JSON quoting shows newlines."""
    shown: dict[Kind, list[str]] = {}
    for kind, parts in terms:
        text = "".join(parts)
        said = text if kind == "class" else json.dumps(text.strip(" ") or text, ensure_ascii=False)
        if said not in shown.setdefault(kind, []):
            shown[kind].append(said)
    names = {"token": "the token", "word": "the word", "bigram": "the phrase"}
    return "; ".join(
        _listed(said)
        if kind == "class"
        else f"{names[kind]}{'s' * (len(said) > 1)} {_listed(said)}{' in any case' * (kind == 'word')}"
        for kind, said in shown.items()
    )


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
