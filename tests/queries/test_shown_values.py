"""A card shows the value that each of its lists is ordered by, and whose score stands beside a label."""

from typing import Any

from queries.session import FeatureCard
from queries.terminal.card import print_card
from queries.terminal.console import SafeConsole


def page(*labels: dict[str, Any]) -> list[str]:
    row = {"firings": 3, "density": 0.5, "mean": 1.0, "maximum": 2.0}
    promoted, suppressed = [("a", 2.5), (" b", 1.25)], [("c", -3.0)]
    card = FeatureCard("sae", 3, row, None, [], list(labels), [], promoted, suppressed, [], [])
    console = SafeConsole(soft_wrap=True, width=200)
    with console.capture() as capture:
        print_card(card, console)
    return capture.get().splitlines()


def label(scorer: str | None, f1: float | None) -> dict[str, Any]:
    score = {"f1": f1, "f1_low": 0.1, "f1_high": 0.9, "f1_null": None, "n": 8, "failed": 0}
    return {"explainer": "lexical", "scorer": scorer, "label": "words", **score}


def test_tokens_that_are_ordered_by_logit_show_it() -> None:
    assert page()[-2:] == ['writes for: "a" 2.50, " b" 1.25', 'against:    "c" -3.00']


def test_scores_of_several_scorers_are_told_apart() -> None:
    lines = [line for line in page(label("detection", 0.75), label("x\x1b[2J", 0.5)) if line.startswith("lexical")]
    assert lines[0] == "lexical: words  F1 by detection 0.75 (0.10-0.90, n 8, failed 0)"
    assert lines[1].startswith("lexical: words  F1 by x")
    assert "\x1b" not in lines[1]
    (alone,) = [line for line in page(label("detection", 0.75)) if line.startswith("lexical")]
    assert alone == "lexical: words  F1 0.75 (0.10-0.90, n 8, failed 0)"
