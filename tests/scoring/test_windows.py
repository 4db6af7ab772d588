"""Windows: what is refused, and that a rendered highlight can be read back whatever the text holds."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import InputError
from scoring.windows import Example, highlight, train_examples

HOSTILE = st.lists(
    st.tuples(st.text(alphabet="<>\\ a\n", min_size=1, max_size=6), st.booleans()), min_size=1, max_size=8
)


def window(tokens: list[str], activations: list[float], split: str = "train") -> Example:
    return Example("c", 7, tuple(tokens), tuple(activations), split, any(activations), None)


def read_back(rendered: str) -> tuple[str, list[bool]]:
    """Text and mark of each character, read from left to right: the inverse of `highlight`."""
    text, inside, at = "", False, 0
    marks: list[bool] = []
    while at < len(rendered):
        match = re.compile(r"(\\*)(<<|>>|[<>])").match(rendered, at)
        if match is None:
            piece, at = rendered[at], at + 1
        elif len(match[1]) % 2:
            piece, at = match[1][: len(match[1]) // 2] + match[2][0], match.end(1) + 1
        elif len(match[2]) == 2:
            piece, at = match[1][: len(match[1]) // 2], match.end()
            text, marks = text + piece, marks + [inside] * len(piece)
            inside = match[2] == "<<"
            continue
        else:
            piece, at = match[1][: len(match[1]) // 2] + match[2], match.end()
        text, marks = text + piece, marks + [inside] * len(piece)
    return text, marks


def test_consecutive_activating_tokens_share_one_pair_of_delimiters() -> None:
    example = window(["he", " was", " over", " the", " moon", "!"], [0, 0, 2, 1, 3, 0])
    assert example.highlighted() == "he was<< over the moon>>!"
    marked = replace(example, threshold=1.5)
    assert marked.highlighted() == "he was<< over>> the<< moon>>!"
    assert (marked.strengths(), replace(marked, scale=2.5).strengths()) == ([], [(" over", 8), (" moon", 10)])
    assert not replace(example, threshold=4.0, active=False).fires[4]
    assert (example.text, example.top, example.peak) == ("he was over the moon!", 3, 4)


def test_a_window_that_does_not_activate_has_no_delimiters() -> None:
    assert window(["a", " < b"], [0, 0]).highlighted() == "a < b"


@pytest.mark.parametrize(
    ("tokens", "marked", "rendered"),
    [
        (["a", " <<", " b"], [0, 0, 0], r"a \<\< b"),
        (["<", "<", "b"], [0, 0, 1], r"\<\<<<b>>"),
        (["x<", "b>"], [0, 1], r"x\<<<b\>>>"),
        (["<b>", " i < n"], [0, 0], "<b> i < n"),
        (["\\", "b"], [0, 1], r"\\<<b>>"),
        ([">>> f()"], [1], r"<<\>\>\> f()>>"),
        (["\\n", " \\alpha"], [0, 0], r"\n \alpha"),
    ],
)
def test_brackets_of_the_text_are_escaped(tokens: list[str], marked: list[int], rendered: str) -> None:
    assert highlight(tokens, [bool(m) for m in marked]) == rendered


@given(HOSTILE)
def test_no_text_can_forge_a_delimiter(pieces: list[tuple[str, bool]]) -> None:
    rendered = highlight([text for text, _ in pieces], [mark for _, mark in pieces])
    expected = "".join(text for text, _ in pieces), [mark for text, mark in pieces for _ in text]
    assert read_back(rendered) == expected


@pytest.mark.parametrize(
    ("tokens", "activations", "active", "reason"),
    [
        (["a"], [], False, "0 activations"),
        ([], [], False, "1 to 32"),
        (["a"] * 33, [0.0] * 33, False, "33 tokens"),
        (["a"], [1.0], False, "active=False"),
        (["a"], [0.0], True, "active=True"),
        (["a"], [float("nan")], True, "non-finite"),
        (["a"], [-1.0], True, "negative"),
    ],
)
def test_a_window_that_contradicts_itself_is_refused(
    tokens: list[str], activations: list[float], active: bool, reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        Example("c", 7, tuple(tokens), tuple(activations), "train", active, None)


def test_explainers_are_given_train_windows_on_their_own_side_only() -> None:
    on, off = window(["a"], [1.0]), window(["b"], [0.0])
    assert train_examples([on], [off]) == ([on], [off])
    with pytest.raises(InputError, match="split 'test'"):
        train_examples([on], [window(["b"], [0.0], "test")])
    with pytest.raises(InputError, match="among the non-activating"):
        train_examples([on], [on])
