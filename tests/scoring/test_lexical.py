"""The lexical explainer on real docstrings, with features made by rules, and its predictor."""

import random
import re
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
import pytest

from catalog.errors import InputError
from ingest.text.docstrings import file_docstrings, package_files
from ingest.text.splits import document_hash, split_of
from scoring.explainers import lexical
from scoring.explainers.rule_search import best_cutoffs
from scoring.label_rules import Rule, nearest
from scoring.proportions import balanced_accuracy
from scoring.scorers import lexical_detection
from scoring.window_terms import Term, read_window, stem, terms_near
from scoring.windows import Example, Label

PIECES = re.compile(r" ?[A-Za-z]{1,7}| ?\d{1,3}| ?[^\w\s]+|\s|_+|.")
Fires = Callable[[Sequence[str], int], bool]
Sides = tuple[list[Example], list[Example]]

MADE: dict[str, tuple[Fires, str]] = {
    "a word in all its forms": (lambda t, i: t[i].strip().lower() in ("array", "arrays"), r'"arrays?"'),
    "a pair": (lambda t, i: i > 0 and t[i] == " the" and t[i - 1] == " of", '"of the"'),
    "a prompt": (lambda t, i: t[i].strip() == ">>>", '">"|">>"'),
    "any number": (lambda t, i: t[i].strip().isdigit(), "numbers"),
    "a class": (lambda t, i: t[i].strip() in ("(", "["), "opening brackets"),
    "a small set": (lambda t, i: t[i].strip() in ("int", "float", "bool", "str"), '"int".*"float"|"float".*"int"'),
}


@pytest.fixture(scope="module")
def windows() -> dict[str, list[tuple[str, ...]]]:
    found: dict[str, list[tuple[str, ...]]] = {"train": [], "val": [], "test": []}
    for path in islice(package_files("numpy"), 300):
        for text in file_docstrings(path.read_text(encoding="utf-8")):
            tokens = PIECES.findall(text)
            found[split_of(document_hash(text))] += [tuple(tokens[i : i + 16]) for i in range(0, len(tokens), 16)]
    for side in found.values():
        random.Random(0).shuffle(side)
    return found


def examples(windows: dict[str, list[tuple[str, ...]]], split: str, rule: Fires, n: int) -> Sides:
    sides: dict[bool, list[Example]] = {True: [], False: []}
    for at, tokens in enumerate(windows[split]):
        fires = tuple(float(rule(tokens, i)) for i in range(len(tokens)))
        made = Example("numpy", 16 * at, tokens, fires, split, any(fires), None, passage=f"{at:08x}")
        sides[any(fires)].append(made)
    return sides[True][:n], sides[False][:n]


def accuracy(label: Label, active: list[Example], inactive: list[Example]) -> float:
    said = [bool(j.predicted) for j in lexical_detection.predict(label, [e.tokens for e in [*active, *inactive]])]
    found = balanced_accuracy(np.array(said), np.array([e.active for e in [*active, *inactive]]))
    assert found is not None
    return found[0]


@pytest.mark.parametrize("name", MADE)
def test_a_feature_of_few_words_is_named_and_predicted_on_unseen_text(
    windows: dict[str, list[tuple[str, ...]]], name: str
) -> None:
    rule, text = MADE[name]
    label = lexical.explain(*examples(windows, "train", rule, 60), None, examples(windows, "val", rule, 60))
    active, inactive = examples(windows, "test", rule, 100)
    assert min(len(active), len(inactive)) >= 10
    assert re.search(text, str(label.text)), label.text
    assert accuracy(label, active, inactive) > 0.9, label.text


def test_chance_is_no_rule_and_says_which_was_the_best(windows: dict[str, list[tuple[str, ...]]]) -> None:
    """A feature that fires by the hash of a window's text: any rule that fits its train windows is an accident."""

    def by_hash(tokens: Sequence[str], i: int) -> bool:
        return i == 3 and int(document_hash("".join(tokens))[:4], 16) % 3 == 0

    train, val = examples(windows, "train", by_hash, 60), examples(windows, "val", by_hash, 60)
    label = lexical.explain(*train, None, val)
    assert label.text is None
    assert re.match(
        r"no short rule found: best: .*, balanced accuracy 0\.\d\d \(0\.\d\d-0\.\d\d\) held out", str(label.problem)
    )
    best = label.details["best"].values()
    assert max(found["train"] for found in best) > 0.6, "it could be fitted"
    assert max(found["held_out"][0] for found in best) < 0.62
    (judgement,) = lexical_detection.predict(label, [("fire",)])
    assert judgement.predicted is None
    assert "no short rule found" in str(judgement.problem)


def windows_of(spec: list[tuple[str, bool]], split: str = "train") -> Sides:
    """A window for each text of blank-separated tokens; the tokens "fire" and "blaze" activate where it is on."""
    made = []
    for at, (text, on) in enumerate(spec):
        tokens = tuple(" " + word for word in text.split())
        activations = tuple(2.0 * (on and t.strip() in ("fire", "blaze")) for t in tokens)
        made.append(Example("c", at, tokens, activations, split, on, passage=f"{at:08x}"))
    return [e for e in made if e.active], [e for e in made if not e.active]


def test_the_details_say_how_the_rule_was_chosen() -> None:
    spec = [(f"the fire w{i}", True) for i in range(12)] + [(f"the cat w{i}", False) for i in range(12)]
    val = windows_of([("a fire", True)] * 4 + [("a cat", False)] * 5 + [("fire exit", False)], "val")
    label = lexical.explain(*windows_of(spec), None, val)
    assert label.text == '"fire"'
    assert label.details["windows"] == {"train": [12, 12], "val": [4, 6]}
    assert label.details["rule"] == {"kind": "terms", "terms": [[["word:fire"], 1]], "surfaces": {"fire": "fire"}}
    figures = label.details["balanced_accuracy"]
    # Right on each window of train, whatever part was left out, and on all of val but the exit.
    assert figures["train"] == 1
    assert figures["val"][0] == pytest.approx((1 + 5 / 6) / 2, abs=1e-4)
    assert figures["held_out"][0] == pytest.approx((1 + 17 / 18) / 2, abs=1e-4)
    assert Rule.from_json(label.details["rule"]).to_json() == label.details["rule"]


def placed(spec: list[tuple[str, str]], split: str = "train") -> Sides:
    """A window for each (text of blank-separated tokens, the token that the feature fires on)."""
    made = []
    for at, (text, on) in enumerate(spec):
        tokens = tuple(" " + word for word in text.split())
        activations = tuple(2.0 * (word == on) for word in text.split())
        made.append(Example("c", at, tokens, activations, split, bool(on), passage=f"{at:08x}"))
    return [e for e in made if e.active], [e for e in made if not e.active]


@pytest.mark.parametrize(
    ("firing", "other", "text"),
    [
        ("we {0} ( {1} {2}", "we {0} {1} {2} much", "the token after opening brackets"),
        ("it {0} {1} percent {2}", "it {0} {1} {2} there", 'the token before "percent"'),
        ("so {0} . {1} {2}", "so {0} {1} . {2}", "first words of a sentence"),
    ],
)
def test_a_label_says_on_which_side_of_its_term_the_feature_fires(firing: str, other: str, text: str) -> None:
    trees = ["Oak", "Elm", "Ash", "Fir", "Yew", "Box", "Fig", "Pine", "Palm", "Plum", "Pear", "Rose", "Beech", "Birch"]
    around = ["went", "ran", "sang", "came", "saw", "ate", "left"]
    spec = [(firing.format(around[i % 7], tree, around[i % 5]), tree) for i, tree in enumerate(trees)]
    spec += [(other.format(around[i % 7], tree, around[i % 5]), "") for i, tree in enumerate(trees)]
    label = lexical.explain(*placed(spec), None, placed(spec, "val"))
    assert label.text == text
    assert Rule.from_json(label.details["rule"]).text == text


def test_a_term_that_the_feature_fires_on_as_well_has_no_side() -> None:
    spec = [(f"the fire {word} on", "fire" if i % 3 else word) for i, word in enumerate("abcdefghijkl")]
    spec += [(f"the cat {word} on", "") for word in "abcdefghijkl"]
    label = lexical.explain(*placed(spec))
    assert label.text == '"fire"'


def test_terms_with_a_side_come_last_and_a_side_that_is_none_is_refused() -> None:
    bracket, fire = Term(("mark:(",)), Term(("word:fire",))
    rule = Rule("terms", (bracket, fire), beside=((bracket.code, "after"),))
    assert rule.text == '"fire" or the token after "("'
    assert Rule.from_json(rule.to_json()) == rule
    with pytest.raises(ValueError, match="no side of a term"):
        Rule.from_json(rule.to_json() | {"beside": [[0, "around"]]})


def test_a_part_that_helps_nowhere_but_in_train_is_not_kept() -> None:
    spec = [(f"fire w{i}", True) for i in range(16)] + [("blaze alpha", True)] * 2
    spec += [(f"cat w{i}", False) for i in range(18)]
    val = windows_of([("fire here", True)] * 10 + [("cat alpha", False)] * 10, "val")
    label = lexical.explain(*windows_of(spec), None, val)
    assert label.text == '"fire"' or "alpha" not in str(label.text)


def test_the_rule_holds_where_the_label_says_so() -> None:
    rule = Rule(
        "terms", (Term(("word:tumor",)), Term(("class:numbers",), 2), Term(("word:dr", "class:capitalised words")))
    )
    said = [" the tumors", " 3 or 4", " 3 only", " Dr Who", " dr who", " tumour"]
    assert rule.holds([read_window(tuple(re.findall(r" \S+", text))) for text in said]).tolist() == [1, 1, 0, 1, 0, 0]
    assert rule.text == '"tumor", at least 2 numbers or capitalised words after "dr"'


def test_words_like_some_are_near_in_meaning_and_the_probability_is_half_at_the_cutoff() -> None:
    label = Label("by hand", {"rule": {"kind": "like", "words": ["happy", "proud"], "cutoff": 0.3}, "spread": 0.1})
    said = [(" she", " was", " glad"), (" a", " table"), (" HAPPY",), (" 12", " ;")]
    judged = lexical_detection.predict(label, said)
    assert [j.predicted for j in judged] == [True, False, True, False]
    assert all(j.predicted == ((j.probability or 0) >= 0.5) for j in judged)
    assert judged[2].probability == pytest.approx(1 / (1 + np.exp(-(1 - 0.3) / 0.1)), abs=1e-5)
    assert Rule("like", words=("happy", "proud"), cutoff=0.3).text == 'words like "happy", "proud"'


def test_a_topic_is_what_the_words_of_a_window_have_in_common() -> None:
    label = Label(
        "by hand", {"rule": {"kind": "topic", "words": ["cancer", "treatment"], "cutoff": 0.4}, "spread": 0.1}
    )
    texts = (" chemotherapy for tumors in the lung", " the little dog ran to the park", " surgery of a carcinoma")
    judged = lexical_detection.predict(label, [tuple(re.findall(r" \S+", text)) for text in texts])
    assert [j.predicted for j in judged] == [True, False, True]


@pytest.mark.parametrize(
    "forms", ["tumor tumors Tumors", "increase increases increased increasing", "stop stops stopped stopping",
              "study studies studied", "dose doses", "wall walls", "class classes", "king kings"]
)  # fmt: skip
def test_forms_of_a_word_have_one_stem(forms: str) -> None:
    assert len({stem(form) for form in forms.split()}) == 1


def test_other_words_keep_their_own_stems() -> None:
    words = "sing thing bring red need this virus less glass gas king wing"
    assert [stem(word) for word in words.split()] == words.split()


def test_terms_stand_by_the_tokens_that_fire() -> None:
    window = read_window((" far", " away", " Dr", ".", " Who", " met", " 42", " aliens"))
    near = terms_near(window, [False] * 4 + [True] + [False] * 3)
    assert Term(("mark:.", "class:capitalised words")).code in near
    assert Term(("class:numbers",)).code in near
    assert Term(("word:alien",)).code not in near
    assert Term(("word:far",)).code not in near
    assert near <= window.terms
    assert {Term.read(code).code for code in window.terms} == window.terms


def test_the_best_cutoff_is_that_of_trying_all() -> None:
    chance = np.random.default_rng(0)
    scores, active = np.round(chance.random((40, 6)), 1), chance.random(40) < 0.4
    accuracies, cutoffs = best_cutoffs(scores, active)
    for j in range(6):
        tried = {}
        for cutoff in np.unique(scores[:, j]):
            said = scores[:, j] >= cutoff
            tried[cutoff] = (said[active].mean() + 1 - said[~active].mean()) / 2
        assert accuracies[j] == pytest.approx(max(tried.values()))
        said = scores[:, j] >= cutoffs[j]
        assert (said[active].mean() + 1 - said[~active].mean()) / 2 == pytest.approx(accuracies[j])


def test_windows_of_other_splits_are_refused() -> None:
    active, inactive = windows_of([("fire", True), ("rain", False)])
    test, _ = windows_of([("fire", True)], "test")
    with pytest.raises(InputError, match="split 'test'"):
        lexical.explain(active + test, inactive)
    with pytest.raises(InputError, match="split val alone"):
        lexical.explain(active, inactive, None, (test, []))


def test_a_feature_without_windows_of_both_sides_gets_a_problem_instead_of_a_label() -> None:
    active, inactive = windows_of([("fire", True)] * 5 + [("fire", False)] * 5)
    for label in (lexical.explain(active, []), lexical.explain([], inactive), lexical.explain(active, inactive)):
        assert label.text is None
        assert "no short rule found" in (label.problem or "")


@pytest.mark.parametrize(
    "details", [{}, {"terms": [], "base": 0.1}, {"rule": {"kind": "other"}, "spread": 1}, {"rule": 3}]
)
def test_a_label_without_a_rule_is_a_problem_of_each_window(details: dict[str, object]) -> None:
    (judged,) = lexical_detection.predict(Label("by hand", details), [("a",)])
    assert judged.predicted is None
    assert "has no rule to look for" in str(judged.problem)


def test_the_order_of_the_windows_does_not_matter(windows: dict[str, list[tuple[str, ...]]]) -> None:
    active, inactive = examples(windows, "train", MADE["a small set"][0], 40)
    assert lexical.explain(active, inactive) == lexical.explain(active[::-1], inactive[::-1])


def test_a_string_in_place_of_tokens_is_refused() -> None:
    with pytest.raises(InputError, match="sequence of tokens"):
        lexical_detection.predict(Label("x", {}), ["a string"])


def test_a_rule_of_terms_and_words_holds_where_either_does() -> None:
    rule = Rule("any", (Term(("mark:;",)),), ("glad", "river"), cutoffs=(0.3, 0.45))
    said = [(" x", ";"), (" happy",), (" lake",), (" stream", " flows"), (" table",)]
    windows = [read_window(tokens) for tokens in said]
    near = nearest(windows, ("glad", "river"))
    assert rule.holds(windows).tolist() == [True, *((near[1:] >= [0.3, 0.45]).any(1)).tolist()]
    assert rule.holds(windows).tolist()[:2] == [True, True]
    assert not rule.holds(windows)[4]
    assert rule.text == '";" or words like "glad" or "river"'
    assert Rule.from_json(rule.to_json()) == rule
