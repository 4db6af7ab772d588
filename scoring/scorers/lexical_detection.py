"""Predicts without an LLM: a window fires if the rule of a lexical label holds in it."""

import math
from collections.abc import Sequence

from catalog.errors import InputError
from scoring.label_rules import Rule
from scoring.window_terms import read_window
from scoring.windows import Judgement, Label


def predict(label: Label, examples: Sequence[Sequence[str]]) -> list[Judgement]:
    """One judgement per example, given as its tokens: whether the rule that the label states holds.

    The probability rises with the rule's score and is 0.5 at its cutoff: 1 / (1 + exp(-(score - cutoff) / spread)).
    A label without a rule gives problems. Raises InputError for an example that is a string: words are looked for
    among tokens.
    """
    for tokens in examples:
        if isinstance(tokens, str):
            raise InputError(
                f"the lexical predictor takes an example as a sequence of tokens, not a string: {tokens!r}"
            )
    found = rule_of(label)
    if isinstance(found, str):
        return [Judgement(None, problem=found) for _ in examples]
    rule, spread = found
    scores = rule.scores([read_window(tuple(tokens)) for tokens in examples])
    return [Judgement(s >= rule.cutoff, 1 / (1 + math.exp(-(s - rule.cutoff) / spread))) for s in scores.tolist()]


def rule_of(label: Label) -> tuple[Rule, float] | str:
    """(the rule that a lexical label states, the spread of its scores), or why it has none."""
    try:
        if label.text is None:
            raise KeyError(label.problem or "it has no text")
        return Rule.from_json(label.details["rule"]), float(label.details["spread"])
    except (KeyError, TypeError, ValueError, AttributeError):
        reason = label.problem or "it was not made by this version's lexical explainer"
        return f"the label has no rule to look for: {reason}"
