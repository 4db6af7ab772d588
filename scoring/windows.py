"""Defines what the kernels work on: windows of tokens with their activations, labels, and judgements.

A label is a claim about a feature; a judgement is one prediction about one window given one label. Both say
what went wrong (`problem`) instead of being left out, and what they cost.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from catalog.errors import InputError

WINDOW = 32
"""The most tokens of an example."""

_BRACKETS = re.compile(r"(\\*)(<+|>+)|(\\+)\Z")


@dataclass(frozen=True, slots=True)
class Example:
    """A window of at most 32 tokens of one corpus, and what one feature does on it.

    `tokens` are rendered text pieces (" matrix"); `activations` has one non-negative number per token. The window is
    `active` if the largest is above zero and reaches `threshold`. `stratum` is the quantile of its peak that it was
    sampled from, or None. Raises InputError if the parts contradict each other.
    """

    corpus: str
    start: int
    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    split: str
    active: bool
    stratum: int | None = None
    threshold: float = 0.0
    """Activation from which on the feature counts as firing."""
    scale: float | None = None
    """Activation of strength 10, such as the 99th percentile of the feature; None: strengths are not said."""
    passage: str = ""
    """Hexadecimal digits that windows of one passage have in common."""

    def __post_init__(self) -> None:
        where = f"example at {self.corpus}:{self.start}"
        if not 1 <= len(self.tokens) <= WINDOW:
            raise InputError(f"{where} has {len(self.tokens)} tokens; a window has 1 to {WINDOW}")
        if len(self.activations) != len(self.tokens):
            raise InputError(f"{where} has {len(self.tokens)} tokens but {len(self.activations)} activations")
        if not all(math.isfinite(a) and a >= 0 for a in self.activations):
            raise InputError(f"{where} has a negative or non-finite activation: {self.activations}")
        if self.active != any(self.fires):
            raise InputError(f"{where} says active={self.active}, but its largest activation is {self.top}")

    @property
    def text(self) -> str:
        return "".join(self.tokens)

    @property
    def top(self) -> float:
        """The largest activation in the window; 0.0 if it does not activate."""
        return max(self.activations)

    @property
    def peak(self) -> int:
        """Index of the first token with the largest activation."""
        return self.activations.index(self.top)

    @property
    def fires(self) -> list[bool]:
        """Of each token, whether its activation is above zero and reaches the threshold."""
        return [a > 0 and a >= self.threshold for a in self.activations]

    def highlighted(self) -> str:
        """The text with `<<` and `>>` around each maximal run of tokens on which the feature fires."""
        return highlight(self.tokens, self.fires)

    def strengths(self) -> list[tuple[str, int]]:
        """(token, strength 1 to 10) of each token on which the feature fires; none without a scale."""
        if not self.scale:
            return []
        marked = [(token, a) for token, a, on in zip(self.tokens, self.activations, self.fires, strict=True) if on]
        return [(token, max(1, min(10, round(10 * a / self.scale)))) for token, a in marked]


@dataclass(frozen=True, slots=True)
class Label:
    """An explanation of a feature, or the reason why there is none (`text` is None, `problem` says why).

    `kept_constraints` is False for a label that broke its word limits and is kept all the same.
    `prompt_hash` identifies the exact messages sent. Tokens and `cost` are what the label cost when it was
    paid for, also if it now came from the stored answers.
    """

    text: str | None
    details: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None
    kept_constraints: bool = True
    prompt_hash: str | None = None
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether an example activates, as predicted from a label; `predicted` is None if a `problem` prevented it.

    A scorer that compares embeddings gives a `similarity` and predicts nothing. The tokens and cost of a request that
    judged several examples are divided among them; the sums are exact for tokens.
    """

    predicted: bool | None
    probability: float | None = None
    problem: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    similarity: float | None = None
    marked: tuple[int, ...] | None = None
    """fuzzing: places of the marked tokens."""


def highlight(tokens: Sequence[str], marked: Sequence[bool]) -> str:
    r"""The joined tokens with `<<` and `>>` around each maximal run of marked ones.

    Text cannot forge a delimiter: brackets of the text that double (`<<`) or touch a delimiter are written
    `\<` and `\>`, and a run of backslashes that ends before a bracket or a delimiter is doubled. Everything
    else, a lone `<` included, stays as it is, so ordinary text reads unchanged and the original can be
    recovered: `\` pairs before a bracket are backslashes, an odd one makes the bracket literal.

    >>> highlight([" a", " <<", " b"], [False, False, True])
    ' a \\<\\<<< b>>'
    """
    runs = [
        (on, "".join(token for _, token in run))
        for on, run in groupby(zip(marked, tokens, strict=True), key=lambda pair: pair[0])
    ]
    pieces = [_escaped(text, first=i == 0, last=i == len(runs) - 1, inside=on) for i, (on, text) in enumerate(runs)]
    return "".join(f"<<{piece}>>" if on else piece for (on, _), piece in zip(runs, pieces, strict=True))


def _escaped(text: str, *, first: bool, last: bool, inside: bool) -> str:
    """One run of text; a delimiter stands before it unless it is `first`, after it unless `last`."""
    before, after = inside or not first, inside or not last

    def safe(match: re.Match[str]) -> str:
        slashes, run, tail = match.groups()
        if tail:
            return tail * 2 if after else tail
        touches = (before and match.start(2) == 0) or (after and match.end() == len(text))
        return slashes * 2 + ("".join("\\" + bracket for bracket in run) if touches or len(run) > 1 else run)

    return _BRACKETS.sub(safe, text)


def train_examples(active: Iterable[Example], inactive: Iterable[Example]) -> tuple[list[Example], list[Example]]:
    """Both lists, checked: an explainer sees the train split alone, and each example on its own side.

    Raises InputError otherwise: a label scored on what its explainer has seen measures nothing.
    """
    sides = list(active), list(inactive)
    for side, expected in zip(sides, (True, False), strict=True):
        for example in side:
            if example.split != "train":
                raise InputError(
                    f"an explainer was given the example at {example.corpus}:{example.start} of split "
                    f"{example.split!r}; explainers see only 'train'"
                )
            if example.active != expected:
                raise InputError(
                    f"the example at {example.corpus}:{example.start} has active={example.active} "
                    f"but was given among the {'activating' if expected else 'non-activating'} ones"
                )
    return sides
