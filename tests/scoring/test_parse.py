"""Answers read strictly: what counts, and what is refused with a reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import SaeqlError
from scoring.prompts.parse import ParseProblem, explanation, keeps_word_limits, zero_one_list


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("Thoughts.\n[EXPLANATION]: nouns of matrices", "nouns of matrices"),
        ("[EXPLANATION]: first\nno, rather\n[EXPLANATION]: second\n", "second"),
        ('[EXPLANATION]: "quoted whole"', "quoted whole"),
        ('[EXPLANATION]: "of" before "a"', '"of" before "a"'),
        ("**[EXPLANATION]:** bold claim", "bold claim"),
        ("  [explanation] : lower case ", "lower case"),
        ("[EXPLANATION]: “curly”", "curly"),
        ("<think>[EXPLANATION]: no</think>\n[EXPLANATION]: yes\r\n", "yes"),
    ],
)
def test_the_last_explanation_line_is_the_label(answer: str, text: str) -> None:
    assert explanation(answer) == text


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "no marker",
        "it is [EXPLANATION]: inside a line",
        "[EXPLANATION]:",
        '[EXPLANATION]: ""',
        "[EXPLANATION]: x\n[EXPLANATION]: ...",
    ],
)
def test_an_answer_without_an_explanation_is_refused(answer: str) -> None:
    with pytest.raises(ParseProblem, match=r"\[EXPLANATION\]:"):
        explanation(answer)


def test_word_limits_include_both_ends() -> None:
    assert keeps_word_limits("a b c", 3, 3)
    assert not keeps_word_limits("a b", 3, None)
    assert not keeps_word_limits("a b c d", None, 3)
    assert keeps_word_limits("a", None, None)


@pytest.mark.parametrize(
    ("answer", "values"),
    [
        ("[1, 0, 1]", [1, 0, 1]),
        ("[True, False, True]", [1, 0, 1]),
        ("[true, false, true]", [1, 0, 1]),
        ("[\n  1,\n  0,\n  1,\n]", [1, 0, 1]),
        ("```python\n[1, 0, 1]\n```", [1, 0, 1]),
        ("The feature [of text] is in [some]: [1, 0, 1]", [1, 0, 1]),
        ("First I thought [0, 0, 0], but [1, 0, 1].", [1, 0, 1]),
        ("result = [1,0,1] # [sic]", [1, 0, 1]),
    ],
)
def test_a_list_is_found_in_whatever_surrounds_it(answer: str, values: list[int]) -> None:
    assert zero_one_list(answer, 3) == [bool(v) for v in values]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "no list"),
        ("1, 0, 1", "no list"),
        ("[a, b]", "no list"),
        ("[1, 0", "no list"),
        ("[2, 0, 1]", "holds 2"),
        ("[0.9, 0, 1]", r"holds 0\.9"),
        ("[1.0, 0, 1]", r"holds 1\.0"),
        ('["1", 0, 1]', "holds '1'"),
        ("[-1, 0, 1]", "holds -1"),
        ("[None, 0, 1]", "holds None"),
        ("[1, 0]", "2 values, not 3"),
        ("[1, 0, 1, 1]", "4 values, not 3"),
        ("[]", "0 values"),
        ("[[1, 0, 1]]", "nested"),
        ("[[0, 0, 0], [1, 0, 1]]", "nested"),
        ("[1, 0, 1] and then [7]", "holds 7"),
        ("[__import__('os').getcwd(), 0, 1]", "no list"),
        ("[" + "-" * 5000 + "1]", "neither|no list"),
    ],
)
def test_anything_else_is_refused_with_the_reason(answer: str, reason: str) -> None:
    with pytest.raises(ParseProblem, match=reason) as caught:
        zero_one_list(answer, 3)
    assert isinstance(caught.value, SaeqlError)
    assert len(str(caught.value)) < 600


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.text(alphabet=st.characters(exclude_characters="[]")))
def test_every_list_is_read_back_from_any_prose(values: list[bool], prose: str) -> None:
    for written in (str(values), str([int(v) for v in values]), str(values).lower()):
        assert zero_one_list(f"{prose}{written}{prose}", len(values)) == values


@given(st.text(alphabet=st.sampled_from("[]01,. -TrueFalsnil\n'\"e(){}"), max_size=60), st.integers(0, 5))
def test_any_answer_gives_n_booleans_or_a_reason(answer: str, n: int) -> None:
    try:
        values = zero_one_list(answer, n)
    except ParseProblem:
        return
    else:
        assert len(values) == n
        assert all(type(value) is bool for value in values)


@given(st.text())
def test_any_answer_gives_an_explanation_or_a_reason(answer: str) -> None:
    try:
        text = explanation("[EXPLANATION]: " + answer)
    except ParseProblem:
        return
    else:
        assert text == text.strip()
        assert text
