"""Predicts without an LLM: a window fires if it holds a term of the label."""

import math
from collections.abc import Sequence

from catalog.errors import InputError
from scoring.window_terms import Term, window_terms
from scoring.windows import Judgement, Label


def predict(label: Label, examples: Sequence[Sequence[str]]) -> list[Judgement]:
    """One judgement per example, given as its tokens: noisy-or of the precision of the terms it contains.

    The probability is 1 - prod(1 - P(active | term)) over the terms present, or the label's base probability if
    there are none, at balanced classes; predicted is probability >= 0.5. A label without terms gives problems.
    Raises InputError for an example that is a string: terms are looked for among tokens.
    """
    if label.text is None or "terms" not in label.details:
        reason = label.problem or "it was not made by the lexical explainer"
        return [Judgement(None, problem=f"the label has no terms to look for: {reason}") for _ in examples]
    weights = {Term(t["kind"], tuple(t["parts"])): float(t["probability"]) for t in label.details["terms"]}
    base = float(label.details["base"])
    judgements = []
    for tokens in examples:
        if isinstance(tokens, str):
            raise InputError(
                f"the lexical predictor takes an example as a sequence of tokens, not a string: {tokens!r}"
            )
        present = weights.keys() & window_terms(tokens)
        # Sorted, because a product of floats depends on its order and a set's order on the process.
        absent = math.prod(1 - weights[term] for term in sorted(present))
        probability = 1 - absent if present else base
        judgements.append(Judgement(probability >= 0.5, probability))
    return judgements
