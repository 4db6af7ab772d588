"""Fuzzing: which tokens are marked, what the lexical judge and an endpoint say of them, and that nothing is lost."""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from catalog import Catalog
from queries.refresh.engine import refresh
from scoring.label_rules import Rule
from scoring.scorers.fuzzing import UNMARKED, fits
from scoring.scorers.marks import marked
from scoring.window_terms import Term
from tests.queries.made import WORD, explainer, make, refresh_made, scorer
from tests.scoring.chat_server import Endpoint, Reply, serving

EXAMPLES = 12


def fuzzing(name: str, provider: str = "lexical", negatives: str = "silent", **settings: Any) -> dict[str, Any]:
    return {**scorer(name, provider, EXAMPLES, negatives=negatives, **settings), "protocol": "fuzzing"}


def marked_words(text: str) -> list[str]:
    return [word for mark in re.findall("<<(.*?)>>", text) for word in mark.split()]


def by_words(number: int, body: dict[str, Any]) -> Reply:
    """Labels by the words marked most often; of windows says 1 if all marked words stand in quotes in the description.

    Every ninth list is short.
    """
    text = body["messages"][-1]["content"]
    lines = [line for line in text.split("\n") if line.startswith("Example ")]
    if "Description: " not in text:
        counts = Counter(word for line in lines for word in marked_words(line.partition("   (strengths")[0]))
        often = sorted(word for word, n in counts.items() if n > 1)
        return Reply(f"[EXPLANATION]: the words {', '.join(json.dumps(word) for word in often)}")
    words = set(re.findall(r'"([^"]+)"', text.split("\n")[0]))
    said = [int(set(marked_words(line)) <= words) for line in lines]
    return Reply(str(said[1:] if number % 9 == 8 else said))


@pytest.fixture(scope="module")
def asked_of() -> Iterator[Endpoint]:
    with serving() as endpoint:
        endpoint.answer = by_words
        yield endpoint


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory, asked_of: Endpoint) -> Iterator[Catalog]:
    """A made catalog judged by fuzzing: both kinds of negatives, by rules and by an endpoint. Not to be written to."""
    scorers = [
        fuzzing("silent"),
        fuzzing("firing", negatives="firing"),
        fuzzing("asked", "openai", base_url=asked_of.url),
        fuzzing("asked-firing", "openai", "firing", base_url=asked_of.url),
    ]
    explainers = [explainer(), explainer("llm", "openai", base_url=asked_of.url, examples=20)]
    with make(tmp_path_factory.mktemp("fuzzed") / "c", explainers=explainers, scorers=scorers).open() as catalog:
        refresh_made(catalog)
        yield catalog


Place = tuple[int, int]


@pytest.fixture(scope="module")
def activations(fuzzed: Catalog) -> dict[Place, float]:
    rows = fuzzed.rows("SELECT feature, position, activation FROM activations")
    return {(feature, position): value for feature, position, value in rows}


@pytest.fixture(scope="module")
def rows(fuzzed: Catalog) -> list[dict[str, Any]]:
    return fuzzed.arrow(
        "SELECT DISTINCT j.feature, j.scorer, j.example, j.active, j.activation, j.threshold, j.marked, c.length "
        "FROM judgements AS j JOIN contexts AS c ON c.feature = j.feature AND c.start = j.example AND c.split = 'test'"
    ).to_pylist()


def window(row: dict[str, Any], activations: dict[Place, float]) -> list[float]:
    return [activations.get((row["feature"], row["example"] + i), 0.0) for i in range(row["length"])]


def test_right_marks_are_all_tokens_that_reach_the_threshold(
    rows: list[dict[str, Any]], activations: dict[Place, float]
) -> None:
    right = [row for row in rows if row["active"]]
    assert {row["scorer"] for row in right} == {"silent", "firing", "asked", "asked-firing"}
    for row in right:
        reached = [i for i, a in enumerate(window(row, activations)) if a > 0 and a >= row["threshold"]]
        assert row["marked"] == reached != []


def test_other_marks_are_on_silent_tokens_as_many_as_right_ones_on_average(
    rows: list[dict[str, Any]], activations: dict[Place, float]
) -> None:
    of: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        of[row["feature"], row["scorer"]].append(row)
    for (_, name), group in of.items():
        mean = np.mean([len(row["marked"]) for row in group if row["active"]])
        for row in (row for row in group if not row["active"]):
            values = window(row, activations)
            assert (max(values) > 0) == name.endswith("firing")
            assert len(row["marked"]) == min(math.ceil(mean), values.count(0.0))
            assert all(values[i] == 0 for i in row["marked"])
        # A firing window is judged once, with marks of one kind.
        assert len({row["example"] for row in group}) == len(group)
    wrong = [len({tuple(row["marked"]) for row in group if not row["active"]}) for group in of.values()]
    assert min(wrong) > 1, "drawn afresh for each window"


def test_both_kinds_of_scorer_mark_the_same_tokens_whatever_the_label(rows: list[dict[str, Any]]) -> None:
    marks: dict[tuple[int, int], set[tuple[int, ...]]] = defaultdict(set)
    for row in rows:
        if row["scorer"] in ("silent", "asked"):
            marks[row["feature"], row["example"]].add(tuple(row["marked"]))
    assert {len(found) for found in marks.values()} == {1}


def test_an_endpoint_sees_the_marks_and_a_short_answer_costs_its_own_batch(fuzzed: Catalog, asked_of: Endpoint) -> None:
    count = "SELECT count(*), count(predicted), count(problem) FROM judgements WHERE scorer LIKE 'asked%'"
    total, answered, failed = fuzzed.rows(count)[0]
    assert failed > 0
    assert total == answered + failed
    own = f"{count} AND feature = label_feature"
    assert fuzzed.rows("SELECT sum(n), sum(failed) FROM scores WHERE scorer LIKE 'asked%'") == [fuzzed.rows(own)[0][1:]]
    for body in asked_of.requests:
        text = body["messages"][-1]["content"]
        if "Description: " not in text:
            continue
        lines = [line for line in text.split("\n") if line.startswith("Example ")]
        assert 1 <= len(lines) <= 5
        assert all("<<" in line and ">>" in line for line in lines)
    sent = {json.dumps(body, sort_keys=True) for body in asked_of.requests}
    assert len(sent) == len(asked_of.requests), "nothing is asked twice"


def test_a_right_label_is_told_from_others(fuzzed: Catalog) -> None:
    (label,) = fuzzed.rows(f"SELECT label FROM labels WHERE feature = {WORD} AND explainer = 'llm'")[0]
    assert label == 'the words "linear", "matrix"'
    scored = fuzzed.rows(
        "SELECT scorer, f1, f1_low, f1_null FROM scores "
        f"WHERE feature = {WORD} AND explainer = 'llm' AND scorer LIKE 'asked%'"
    )
    assert {name for name, *_ in scored} == {"asked", "asked-firing"}
    for _, f1, low, null in scored:
        assert f1 >= 0.95
        assert low > null


def test_scores_are_of_the_marks_and_recall_is_of_right_ones(fuzzed: Catalog) -> None:
    for feature, wrote, name, f1, recall in fuzzed.rows("SELECT feature, explainer, scorer, f1, recall FROM scores"):
        judged = fuzzed.rows(
            "SELECT active, predicted FROM judgements WHERE feature = label_feature AND predicted IS NOT NULL "
            f"AND feature = {feature} AND explainer = '{wrote}' AND scorer = '{name}'"
        )
        hits = np.mean([said for right, said in judged if right])
        alarms = np.mean([said for right, said in judged if not right])
        assert recall == pytest.approx(hits)
        assert f1 == pytest.approx(2 * hits / (hits + alarms + 1))


def test_a_second_refresh_judges_nothing_again(fuzzed: Catalog) -> None:
    assert {result.state for result in refresh(fuzzed, ("scores",))} == {"current"}


TOKENS = ["The", " tum", "or", " grew", " and", " the", " doctor", " was", " glad", "."]


@pytest.mark.parametrize(
    ("rule", "right"),
    [
        (Rule("terms", (Term(("word:tumor",)),)), {1, 2}),
        (Rule("terms", (Term(("word:tumor",)),), beside=(("word:tumor", "after"),)), {3}),
        (Rule("terms", (Term(("word:tumor",)),), beside=(("word:tumor", "before"),)), {0}),
        (Rule("terms", (Term(("word:doctor",)), Term(("word:tumor",))), beside=(("word:tumor", "after"),)), {3, 6}),
        (Rule("terms", (Term(("word:doctor", "word:was")),)), {6, 7}),
        (Rule("terms", (Term(("class:capitalised words",), 2),)), set()),
        (Rule("terms", (Term(("mark:.",)),), beside=(("mark:.", "after"),)), set()),
        (Rule("like", words=("happy",), cutoff=0.4), {8}),
        (Rule("any", (Term(("word:tumor",)),), ("happy",), 0.5, (0.4,)), {1, 2, 8}),
    ],
)
def test_a_rule_fits_the_tokens_that_it_speaks_of(rule: Rule, right: set[int]) -> None:
    assert {i for i in range(len(TOKENS)) if fits(rule, TOKENS, (i,))} == right
    assert fits(rule, TOKENS, tuple(sorted(right)))
    assert not fits(rule, TOKENS, tuple(sorted({*right, 4})))


def test_a_topic_fits_every_unit_of_a_window_that_is_about_it() -> None:
    rule = Rule("topic", words=("tumor", "doctor"), cutoff=0.5)
    assert fits(rule, TOKENS, tuple(range(10)))
    assert not fits(rule, [" a", " green", " apple"], (2,))


def test_a_window_that_fires_on_every_token_has_no_wrong_marks() -> None:
    whole = {"marks": "wrong", "activations": [1.0, 2.0], "corpus": "c", "start": 3}
    right = {"marks": "right", "activations": [0.0, 2.0], "corpus": "c", "start": 9}
    assert marked([whole, right], 1.5, ["s", 1]) == [(), (1,)]
    assert "no token can be marked" in UNMARKED
