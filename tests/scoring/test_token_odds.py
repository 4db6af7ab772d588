"""Log-probabilities as endpoints send them: which token is an answer's number, and what else could have stood there."""

import math
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.answers import Answers
from scoring.client.response import completion
from scoring.client.token_odds import odds_json, odds_of, share_of, token_odds
from scoring.prompts.parse import begun_list, list_place


def token(text: str, p: float = 0.9, **tops: float) -> dict[str, Any]:
    """A token, and others by name; `o` and `l` stand for " 0" and "1"."""
    names = {"o": " 0", "l": "1", "one": " 1", "no": "False"}
    said = [{"token": names.get(name, name), "logprob": math.log(q)} for name, q in tops.items()]
    return {"token": text, "logprob": math.log(p), "top_logprobs": [{"token": text, "logprob": math.log(p)}, *said]}


def choice(*tokens: dict[str, Any]) -> dict[str, Any]:
    return {"logprobs": {"content": list(tokens)}}


def test_spellings_of_a_number_count_together() -> None:
    said = choice(
        token("[", 1.0), token("1", 0.6, o=0.2, one=0.1, no=0.05), token(", ", 1.0), token("0", 0.9), token("]")
    )
    (first, odds), (second, other) = token_odds(said, "[1, 0]")
    assert (first, second) == (2, 5)
    assert odds == pytest.approx({"1": 0.7, "0": 0.25})
    assert share_of(odds, "1", ("0", "1")) == pytest.approx(0.7 / 0.95)
    assert other == pytest.approx({"0": 0.9})
    assert share_of(other, "1", ("0", "1")) == 0.0
    assert share_of({"7": 0.3}, "1", ("0", "1")) is None


def test_thoughts_before_the_answer_and_an_end_of_turn_after_it_are_left_out() -> None:
    said = choice(
        token("Maybe "), token("0"), token("\n"), token("[", 1.0), token("1", 0.8), token("]"), token("<|end|>")
    )
    assert token_odds(said, "[1]") == ((2, {"1": pytest.approx(0.8)}),)


def test_a_number_among_other_characters_counts_and_one_in_a_longer_token_does_not() -> None:
    said = choice(token("[1", 0.7), token(",0,", 0.6), token(" 1", 0.5), token("]"))
    assert [at for at, _ in token_odds(said, "[1,0, 1]")] == [2, 7]


@pytest.mark.parametrize(
    "said",
    [
        None,
        {},
        {"logprobs": None},
        {"logprobs": {"content": None}},
        {"logprobs": {"tokens": ["[", "1"], "token_logprobs": [0, 0]}},
        choice(token("["), token("0"), token("]")),
        {"logprobs": {"content": ["[", "1", "]"]}},
        {"logprobs": {"content": [{"token": "[1]", "logprob": None}]}},
        {"logprobs": {"content": [{"token": "["}, {"token": "1", "logprob": "x", "top_logprobs": 7}, {"token": "]"}]}},
    ],
)
def test_what_is_no_log_probability_of_this_answer_gives_none(said: Any) -> None:
    assert token_odds(said, "[1]") == ()


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.sampled_from(["[", "1", "0", "]", "logprobs"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["token", "logprob", "top_logprobs", "content"]), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(json_values)
def test_nothing_that_an_endpoint_sends_makes_an_error(value: Any) -> None:
    message = {"message": {"content": "[1, 0]"}, "logprobs": {"content": value}}
    assert completion({"choices": [message]}).text == "[1, 0]"
    for _, odds in completion({"choices": [{**message, "logprobs": value}]}).odds:
        assert all(p >= 0 for p in odds.values())


def test_odds_are_stored_with_the_first_answer_and_older_files_have_none(tmp_path: Path) -> None:
    odds = ((2, {"1": 0.123456789, "0": 1e-9}), (5, {"0": 1.0}))
    used = {"prompt_tokens": 1, "completion_tokens": 1}
    with Answers(tmp_path / "answers.sqlite") as answers:
        assert odds_of(answers.put("a", "[1, 0]", **used, odds=odds_json(odds)).odds) == (
            (2, {"1": 0.123457, "0": 1e-9}), (5, {"0": 1.0})
        )  # fmt: skip
        answers.put("b", "[1]", **used)
        # The answer that came first has no odds: those of another one are not its own.
        assert answers.put("b", "[0]", **used, odds=odds_json(odds)).odds == ""
    with sqlite3.connect(tmp_path / "answers.sqlite") as other:
        other.execute("DROP TABLE odds")
    with Answers(tmp_path / "answers.sqlite", read_only=True) as old:
        found = old.get("a")
        assert found is not None
        assert (found.text, found.odds) == ("[1, 0]", "")
    assert odds_of("") == odds_of("{}") == odds_of('[[1, "x"]]') == ()


@pytest.mark.parametrize(
    ("answer", "values"),
    [
        ("[1, 0, 1", [1, 0]),
        ("[1, 0, 1,", [1, 0, 1]),
        ('{"values": [1,\n 0, ', [1, 0]),
        ("[1", []),
        ("[", []),
        ("[1, 0, 2, ", []),
        ("[1, 0]", []),
        ("a list: [0, 1, and", []),
        ("<think>[1, 1,</think> [0, 0, 1", [0, 0]),
        ("<think>[1, 1,", []),
    ],
)
def test_of_a_list_that_breaks_off_values_with_something_behind_them_count(answer: str, values: list[int]) -> None:
    assert begun_list(answer) == [bool(value) for value in values]


def test_the_place_of_a_list_is_that_of_the_one_which_is_read() -> None:
    answer = "<think>[0, 0]</think>It is [1, 0], I think: [1, 0]."
    place = list_place(answer)
    assert answer[place.start : place.stop] == "[1, 0]"
    assert place.start == answer.rindex("[1, 0]")
    assert not list_place("none")
    assert not list_place("<think>[1]")
