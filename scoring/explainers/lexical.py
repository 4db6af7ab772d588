"""Explains a feature without an LLM (provider "lexical"): a label is a short rule about words.

Rules are learned from train windows and must earn their place on windows that they were not learned from: those of the
split val, and parts of train that are left out in turn. They decide how many parts a rule keeps, and which kind of rule
the label states. The scorer evaluates the same rule.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from catalog.errors import InputError
from scoring.explainers.rule_search import Evidence, Mask, gather, grown, with_sides
from scoring.label_rules import NOWHERE, Kind, Rule, Scores
from scoring.proportions import balanced_accuracy
from scoring.window_terms import read_window
from scoring.windows import Example, Label, train_examples

MODEL = "lexical"
FEW = 3
"""Parts of a rule that need no more than to help; each further one must add a good deal."""
_FURTHER = 0.02
_EVEN = 0.01
"""Held-out balanced accuracies that differ by less: the kind that is simpler to check is taken, terms before others."""
_FOLDS = 4


@dataclass(frozen=True, slots=True)
class LexicalSettings:
    """How a rule is chosen."""

    max_terms: int = 8
    """The most parts of a rule; those after the third have to add 0.02 of held-out balanced accuracy each."""
    least: float = 0.55
    """Held-out balanced accuracy below which no rule is stated."""

    def __post_init__(self) -> None:
        if self.max_terms < 1:
            raise InputError(f"max_terms is {self.max_terms}; a label needs at least 1")


@dataclass(frozen=True)
class _Judged:
    """A rule learned from all of train, and how it and its like fare on windows that they were not learned from."""

    rule: Rule
    train: float
    held_out: tuple[float, float, float]
    """Balanced accuracy with its 95% interval, over val and over train left out in turn."""
    val: tuple[float, float, float] | None


def explain(
    active: Sequence[Example],
    inactive: Sequence[Example],
    settings: LexicalSettings | None = None,
    held_out: tuple[Sequence[Example], Sequence[Example]] = ((), ()),
) -> Label:
    """A label such as `words like "glad", "proud"`, from train windows and `held_out` ones of the split val.

    `details["rule"]` is the rule that lexical_detection evaluates; `balanced_accuracy` holds that on train, that held
    out (val, and parts of train left out in turn) with its 95% interval, and that on val; `windows` counts the firing
    and other windows of each; `best` has the best rule of each kind. If no rule holds on windows that it was not
    learned from, the label's text is None and the problem says so.
    Raises InputError if an example is of another split or stands on the wrong side.
    """
    chosen = settings or LexicalSettings()
    active, inactive = train_examples(active, inactive)
    if not active or not inactive:
        return _none(f"it needs windows of both sides, and has {len(active)} firing and {len(inactive)} others")
    val = [*held_out[0], *held_out[1]]
    if any(example.split != "val" for example in val):
        raise InputError("a lexical label is checked on windows of the split val alone")
    examples = [*active, *inactive, *val]
    train = np.array([example.split == "train" for example in examples])
    fires = np.array([example.active for example in examples])
    windows = [read_window(example.tokens) for example in examples]
    evidence = gather(windows, [example.fires for example in examples], fires, train)
    best = _best_of_each(evidence, train, _folds(examples), chosen.max_terms)
    counts = {
        split: [int((fires & side).sum()), int((~fires & side).sum())]
        for split, side in (("train", train), ("val", ~train))
    }
    details = {
        "windows": counts,
        "best": {judged.rule.kind: {"text": judged.rule.text, **_figures(judged)} for judged in best},
        "settings": asdict(chosen),
    }
    if not best:
        return _none("no term or word stands in more firing windows than others", details)
    top = max(judged.held_out[0] for judged in best)
    first = next(judged for judged in best if judged.held_out[0] >= top - _EVEN)
    accuracy, low, high = first.held_out
    if low <= 0.5 or accuracy < chosen.least:
        return _none(
            f"best: {first.rule.text}, balanced accuracy {accuracy:.2f} ({low:.2f}-{high:.2f}) held out", details
        )
    firing = np.flatnonzero(train & fires)
    rule = with_sides(first.rule, [windows[i] for i in firing], [examples[i].fires for i in firing])
    details |= {"rule": rule.to_json(), "balanced_accuracy": _figures(first)}
    details["spread"] = _spread(rule, evidence, train)
    return Label(text=rule.text, details=details, model=MODEL)


def _best_of_each(evidence: Evidence, train: Mask, folds: np.ndarray, most: int) -> list[_Judged]:
    """Of each kind the rule of the size that held-out windows ask for, in the order terms, like, any, topic."""
    y = evidence.active
    left_out: dict[tuple[Kind, int], Mask] = {}
    judged_rows = ~train
    for fold in range(_FOLDS):
        learn, rest = train & (folds != fold), train & (folds == fold)
        if not rest.any() or not y[learn].any() or y[learn].all():
            continue
        judged_rows = judged_rows | rest
        for kind, rules in grown(evidence, learn, most).items():
            for size in range(1, most + 1):
                row = left_out.setdefault((kind, size), np.zeros(len(y), bool))
                if rules:
                    row[rest] = holds(rules[min(size, len(rules)) - 1], evidence)[rest]
    found = []
    for kind, rules in grown(evidence, train, most).items():
        curve = []
        for size, rule in enumerate(rules, start=1):
            row = left_out.get((kind, size), np.zeros(len(y), bool)).copy()
            row[~train] = holds(rule, evidence)[~train]
            curve.append(balanced_accuracy(row[judged_rows], y[judged_rows]))
        if not curve or curve[0] is None:
            continue
        size = _size([point[0] for point in curve if point])
        rule, point = rules[size - 1], curve[size - 1]
        said = holds(rule, evidence)
        own = balanced_accuracy(said[train], y[train])
        if point and own:
            found.append(_Judged(rule, own[0], point, balanced_accuracy(said[~train], y[~train])))
    return found


def _size(curve: Sequence[float]) -> int:
    """How many parts to keep: each has to help on held-out windows, and each after the third to help a good deal."""
    size = 1
    for n in range(2, len(curve) + 1):
        needed = (n - size) * (0.005 if n <= FEW else _FURTHER)
        if curve[n - 1] >= curve[size - 1] + needed:
            size = n
    return size


def holds(rule: Rule, evidence: Evidence) -> Mask:
    """`Rule.holds` of all windows, by what `evidence` has scored already."""
    reached: Mask = _scores(rule, evidence) >= rule.cutoff
    return reached


def _scores(rule: Rule, evidence: Evidence) -> Scores:
    """`Rule.scores` likewise."""
    if rule.kind == "topic":
        return np.asarray(evidence.topics[:, evidence.phrases.index(rule.words)])
    present = evidence.contains[:, [evidence.terms.index(term.code) for term in rule.terms]].any(1).astype(np.float64)
    near = evidence.near[:, [evidence.words.index(word) for word in rule.words]]
    if rule.kind == "terms":
        return np.asarray(present)
    if rule.kind == "like":
        return np.asarray(near.max(1))
    past = near - np.array(rule.cutoffs) + rule.cutoff
    return np.asarray(np.maximum(present, past.max(1, initial=NOWHERE)))


def _spread(rule: Rule, evidence: Evidence, train: Mask) -> float:
    """What a score has to differ by to matter: the standard deviation on train; 1 for terms, which score 0 or 1."""
    if rule.kind == "terms":
        return 1.0
    return round(max(float(_scores(rule, evidence)[train].std()), 0.01), 6)


def _folds(examples: Sequence[Example]) -> np.ndarray:
    """The part of train in which each window is left out: that of its passage, for neighbours are much alike."""
    return np.array([int(example.passage[:8] or "0", 16) % _FOLDS for example in examples])


def _figures(judged: _Judged) -> dict[str, object]:
    return {
        "train": round(judged.train, 4),
        "held_out": [round(value, 4) for value in judged.held_out],
        "val": None if judged.val is None else [round(value, 4) for value in judged.val],
    }


def _none(reason: str, details: dict[str, object] | None = None) -> Label:
    return Label(text=None, details=details or {}, problem=f"no short rule found: {reason}", model=MODEL)
