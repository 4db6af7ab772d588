"""The lexical explainer on real docstrings, with features made by rules, and its predictor."""

import math
import random
import re
from collections.abc import Callable, Sequence
from itertools import islice

import pytest

from catalog.errors import InputError
from ingest.text.docstrings import file_docstrings, package_files
from ingest.text.splits import document_hash, split_of
from scoring.explainers import lexical
from scoring.scorers import lexical_detection
from scoring.windows import Example, Label

PIECES = re.compile(r" ?[A-Za-z]{1,7}| ?\d{1,3}| ?[^\w\s]+|\s|_+|.")
Rule = Callable[[Sequence[str], int], bool]

RULES: dict[str, Rule] = {
    "one exact token": lambda t, i: t[i] == " The",
    "a word in all its cases": lambda t, i: t[i].strip().lower() in ("array", "arrays"),
    "a pair": lambda t, i: i > 0 and t[i] == " the" and t[i - 1] == " of",
    "a line break after a full stop": lambda t, i: i > 0 and t[i] == "\n" and t[i - 1] == ".",
    "a prompt": lambda t, i: t[i].strip() == ">>>",
    "a comma": lambda t, i: t[i] == ",",
    "any number": lambda t, i: t[i].strip().isdigit(),
    "a small set": lambda t, i: t[i].strip() in ("int", "float", "bool", "str"),
    "what follows a word": lambda t, i: i > 0 and t[i - 1].strip() == "Returns",
}


@pytest.fixture(scope="module")
def windows() -> dict[str, list[tuple[str, ...]]]:
    found: dict[str, list[tuple[str, ...]]] = {"train": [], "val": [], "test": []}
    for path in islice(package_files("numpy"), 300):
        for text in file_docstrings(path.read_text(encoding="utf-8")):
            tokens = PIECES.findall(text)
            found[split_of(document_hash(text))] += [tuple(tokens[i : i + 32]) for i in range(0, len(tokens), 32)]
    found["test"] += found.pop("val")
    for side in found.values():
        random.Random(0).shuffle(side)
    return found


def examples(
    windows: dict[str, list[tuple[str, ...]]], split: str, rule: Rule, n: int
) -> tuple[list[Example], list[Example]]:
    sides: dict[bool, list[Example]] = {True: [], False: []}
    for at, tokens in enumerate(windows[split]):
        fires = tuple(float(rule(tokens, i)) for i in range(len(tokens)))
        sides[any(fires)].append(Example("numpy", 32 * at, tokens, fires, split, any(fires), None))
    return sides[True][:n], sides[False][:n]


def f1(label: Label, active: list[Example], inactive: list[Example]) -> float:
    hits = sum(j.predicted is True for j in lexical_detection.predict(label, [e.tokens for e in active]))
    alarms = sum(j.predicted is True for j in lexical_detection.predict(label, [e.tokens for e in inactive]))
    return 2 * hits / (hits + alarms + len(active))


@pytest.mark.parametrize("name", RULES)
def test_a_feature_of_few_tokens_is_found_and_predicted_on_unseen_text(
    windows: dict[str, list[tuple[str, ...]]], name: str
) -> None:
    label = lexical.explain(*examples(windows, "train", RULES[name], 40))
    active, inactive = examples(windows, "test", RULES[name], 100)
    assert min(len(active), len(inactive)) >= 20
    assert f1(label, active, inactive) > 0.9, label.text


def windows_of(spec: list[tuple[str, bool]], split: str = "train") -> tuple[list[Example], list[Example]]:
    """A window for each text of blank-separated tokens; the token " fire" activates."""
    made = []
    for at, (text, on) in enumerate(spec):
        tokens = tuple(" " + word for word in text.split())
        made.append(
            Example("c", at, tokens, tuple(2.0 * (on and t.strip() in ("fire", "blaze")) for t in tokens), split, on)
        )
    return [e for e in made if e.active], [e for e in made if not e.active]


def test_the_statistics_are_those_derived_by_hand() -> None:
    spec = [("the fire burns", True)] * 6 + [("a blaze", True)] * 3 + [("the cat", False)] * 8 + [("fire exit", False)]
    label = lexical.explain(*windows_of(spec))
    assert label.text == 'the tokens "fire" and "blaze"' or label.text == 'the phrases "the fire" and "a blaze"'
    # The pairs never occur in the other windows, so they are the better choice.
    first, second = label.details["terms"]
    assert (first["parts"], first["n_active"], first["n_inactive"]) == ([" the", " fire"], 6, 0)
    assert first["probability"] == pytest.approx((6.5 / 10) / (6.5 / 10 + 0.5 / 10))
    assert label.details["base"] == pytest.approx(0.5 / (0.5 + 9.5))
    assert label.details["train_f1"] == 1.0
    assert second["n_active"] == 3


def test_the_z_score_is_that_of_the_formula() -> None:
    # Present in 6 of 9 and 1 of 9 windows; the pooled rate is 7.5/19, so alpha = 75/19 of 10 windows.
    alpha = 75 / 19
    a, b = 6 + alpha, 1 + alpha
    expected = (math.log(a / (19 - a)) - math.log(b / (19 - b))) / math.sqrt(1 / a + 1 / b)
    assert lexical.log_odds_z(6, 9, 1, 9, 10.0) == pytest.approx(expected)
    assert lexical.log_odds_z(3, 9, 3, 9, 10.0) == 0
    assert lexical.log_odds_z(9, 9, 0, 9, 10.0) == pytest.approx(-lexical.log_odds_z(0, 9, 9, 9, 10.0))


def test_a_term_that_covers_only_covered_windows_is_not_added() -> None:
    spec = [("fire and smoke", True)] * 10 + [("rain and wind", False)] * 10
    label = lexical.explain(*windows_of(spec))
    assert len(label.details["terms"]) == 1


def test_the_number_of_terms_is_limited() -> None:
    spec = [(f"fire word{i % 5}", True) for i in range(25)] + [("fire alone", False)] * 25
    label = lexical.explain(*windows_of(spec), lexical.LexicalSettings(max_terms=3))
    assert len(label.details["terms"]) == 3


def test_line_breaks_and_quotes_are_visible_in_the_text() -> None:
    on = [Example("c", i, ("a", "\n", f"w{i}"), (0.0, 1.0, 0.0), "train", True) for i in range(9)]
    off = [Example("c", i, ("a", '"', f"w{i}"), (0.0, 0.0, 0.0), "train", False) for i in range(9)]
    assert lexical.explain(on, off).text == 'the phrase "a\\n"'


def test_windows_of_other_splits_are_refused() -> None:
    active, inactive = windows_of([("fire", True), ("rain", False)])
    test, _ = windows_of([("fire", True)], "test")
    with pytest.raises(InputError, match="split 'test'"):
        lexical.explain(active + test, inactive)


def test_a_feature_without_evidence_gets_a_problem_instead_of_a_label() -> None:
    active, inactive = windows_of([("fire", True)] * 5 + [("fire", False)] * 5)
    for label in (lexical.explain(active, inactive), lexical.explain(active, []), lexical.explain([], inactive)):
        assert label.text is None
        assert "no evidence" in (label.problem or "")
        (judgement,) = lexical_detection.predict(label, [("fire",)])
        assert judgement.predicted is None
        assert "no evidence" in (judgement.problem or "")


def test_probabilities_combine_by_noisy_or_and_fall_back_to_the_base() -> None:
    terms = [
        {"kind": "token", "parts": [" a"], "probability": 0.6},
        {"kind": "word", "parts": ["b"], "probability": 0.5},
    ]
    label = Label("by hand", {"terms": terms, "base": 0.1})
    got = lexical_detection.predict(label, [(" a", " B"), (" a",), ("b",), (" ab", "A")])
    assert [j.probability for j in got] == pytest.approx([0.8, 0.6, 0.5, 0.1])
    assert [j.predicted for j in got] == [True, True, True, False]


def test_the_order_of_the_windows_does_not_matter(windows: dict[str, list[tuple[str, ...]]]) -> None:
    active, inactive = examples(windows, "train", RULES["a small set"], 40)
    assert lexical.explain(active, inactive) == lexical.explain(active[::-1], inactive[::-1])


def test_a_string_in_place_of_tokens_is_refused() -> None:
    with pytest.raises(InputError, match="sequence of tokens"):
        lexical_detection.predict(Label("x", {"terms": [], "base": 0.1}), ["a string"])
