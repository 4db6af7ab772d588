"""The intruder: what a trial shows, what is found over real HTTP, what a guess finds, and that failures are counted."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from catalog import Catalog
from queries.refresh.engine import plan, refresh
from queries.terminal.card import feature_line
from scoring.prompts.parse import ParseProblem, response_number
from tests.queries.made import WORD, make, refresh_made, scorer
from tests.scoring.chat_server import Endpoint, Reply, serving

SIZE = 4


def windows_of(body: dict[str, Any]) -> list[str]:
    return [line for line in body["messages"][-1]["content"].split("\n") if line.startswith("Example ")]


def by_common_word(number: int, body: dict[str, Any]) -> Reply:
    """Names the window that shares fewest marked words with the others; every seventh answer names none."""
    words = [{word for mark in re.findall("<<(.*?)>>", line) for word in mark.split()} for line in windows_of(body)]
    shared = [sum(len(mine & other) for other in words if other is not mine) for mine in words]
    said = f"They share words.\n[RESPONSE]: {shared.index(min(shared)) + 1}"
    return Reply("I cannot tell" if number % 7 == 6 else said)


@pytest.fixture(scope="module")
def asked_of() -> Iterator[Endpoint]:
    with serving() as endpoint:
        endpoint.answer = by_common_word
        yield endpoint


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory, asked_of: Endpoint) -> Iterator[Catalog]:
    """A made catalog whose features were tried by intruders. Not to be written to."""
    asks = {**scorer("intruder", "openai", 40, base_url=asked_of.url, batch=SIZE), "protocol": "intruder"}
    with make(tmp_path_factory.mktemp("tried") / "c", scorers=[scorer(), asks]).open() as catalog:
        planned = {result.step: result for result in plan(catalog, ("scores_intruder",))}
        assert planned["judgements_intruder"].state in ("stale", "after")
        refresh_made(catalog)
        assert [r.error for r in refresh(catalog, ("scores_intruder",)) if r.error] == []
        yield catalog


def test_a_trial_shows_firing_windows_and_one_that_is_silent_all_of_them_marked(
    tried: Catalog, asked_of: Endpoint
) -> None:
    assert asked_of.requests
    place = Counter()
    for body in asked_of.requests:
        lines = windows_of(body)
        assert len(lines) == SIZE
        assert all("<<" in line for line in lines)
        assert f"Which of these {SIZE} windows" in body["messages"][-1]["content"]
        place[body["messages"][-1]["content"]] += 1
    assert max(place.values()) == 1, "nothing is asked twice"
    rows = tried.rows(
        "SELECT feature, active, activation, threshold, explainer, marked FROM judgements WHERE protocol = 'intruder'"
    )
    of: dict[int, Counter[bool]] = defaultdict(Counter)
    for feature, active, activation, threshold, explainer, marked in rows:
        of[feature][active] += 1
        assert explainer == ""
        assert marked
        assert activation >= threshold if active else activation == 0
    assert len(rows) == SIZE * len(asked_of.requests)
    assert all(counts[True] == (SIZE - 1) * counts[False] for counts in of.values())


def test_found_and_failed_trials_are_counted_beside_chance(tried: Catalog, asked_of: Endpoint) -> None:
    scored = tried.arrow("SELECT * FROM scores WHERE protocol = 'intruder'").to_pylist()
    assert sum(row["n"] + row["failed"] for row in scored) == len(asked_of.requests)
    assert sum(row["failed"] for row in scored) == sum(n % 7 == 6 for n in range(len(asked_of.requests))) > 0
    for row in scored:
        judged = tried.rows(
            "SELECT active, predicted, problem FROM judgements "
            f"WHERE protocol = 'intruder' AND feature = {row['feature']}"
        )
        found = [not predicted for active, predicted, _ in judged if not active and predicted is not None]
        assert (row["n"], row["chance"]) == (len(found), 1 / SIZE)
        assert row["accuracy"] == pytest.approx(sum(found) / len(found))
        assert row["accuracy_low"] < row["accuracy"] < row["accuracy_high"] or row["accuracy"] in (0, 1)
        assert 0 <= row["accuracy_low"] < row["accuracy_high"] <= 1 + 1e-12
        assert all((predicted is None) == (problem is not None) for _, predicted, problem in judged)
        # Of each trial one window at most is said not to belong.
        assert sum(predicted is False for _, predicted, _ in judged) == len(found)


def test_a_feature_of_two_words_is_found_more_often_than_by_guessing(tried: Catalog) -> None:
    (low, chance), *more = tried.rows(
        f"SELECT accuracy_low, chance FROM scores WHERE protocol = 'intruder' AND feature = {WORD}"
    )
    assert more == []
    assert low > chance


def test_a_second_refresh_asks_nothing(tried: Catalog, asked_of: Endpoint) -> None:
    before = len(asked_of.requests)
    assert {result.state for result in refresh(tried, ("scores_intruder",))} == {"current"}
    assert len(asked_of.requests) == before


def test_a_card_says_how_often_the_intruder_was_found() -> None:
    row = {"scorer": "odd", "accuracy": 0.5, "accuracy_low": 0.3, "accuracy_high": 0.7, "chance": 0.25}
    said = feature_line({**row, "n": 12, "failed": 1, "auroc": None}).plain
    assert said == "without a label, by odd: intruder found 0.50 (0.30-0.70, chance 0.25, trials 12, failed 1)"


@pytest.mark.parametrize(
    ("answer", "number"),
    [("[RESPONSE]: 2", 2), ("Hm.\n**[RESPONSE]:** 3.", 3), ("[RESPONSE]: 1\n[response]: 4\n", 4)],
)
def test_the_last_response_line_is_the_answer(answer: str, number: int) -> None:
    assert response_number(answer, 4) == number


@pytest.mark.parametrize("answer", ["", "2", "[RESPONSE]: 5", "[RESPONSE]: 0", "[RESPONSE]: 2 or 3", "[RESPONSE]: two"])
def test_an_answer_without_one_number_is_refused(answer: str) -> None:
    with pytest.raises(ParseProblem, match="RESPONSE"):
        response_number(answer, 4)
