"""What a model thought and rejected is never a label and never a judgement."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoring.prompts.parse import ParseProblem, explanation, zero_one_list

DRAFT = "Hm.\n[EXPLANATION]: wrong\n[0, 0, 0]\n"
BLOCKS = [
    "<think>{}</think>",
    "<THINK>{}</Think>",
    "<thinking>{}</thinking>",
    "<reasoning>{}</reasoning>",
    "<thought>{}</thought>",
    "<seed:think>{}</seed:think>",
    "<antThinking>{}</antThinking>",
    '<think type="long">{}</think >',
    "◁think▷{}◁/think▷",
    "[THINK]{}[/THINK]",
    "<|begin_of_thought|>{}<|end_of_thought|>",
    "<|START_THINKING|>{}<|END_THINKING|>",
    "{}</think>",
    "<think>{}</think>one more: <think>{}</think>",
    "<reasoning>{}<think>{}</think></reasoning>",
    "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>",
    "<|channel|>analysis<|message|>{}<|end|><|channel|>commentary to=x<|message|>{}<|call|><|channel|>final<|message|>",
    "analysis[EXPLANATION]: wrong {}assistantfinal",
]


@pytest.mark.parametrize("block", BLOCKS)
def test_only_what_stands_behind_the_thoughts_is_read(block: str) -> None:
    thoughts = block.replace("{}", DRAFT)
    assert explanation(thoughts + "\n[EXPLANATION]: right") == "right"
    assert zero_one_list(thoughts + "\n[1, 0, 1]", 3) == [True, False, True]
    for answer in (thoughts, thoughts + " I cannot tell"):
        with pytest.raises(ParseProblem, match="no line that begins with"):
            explanation(answer)
        with pytest.raises(ParseProblem, match="no list"):
            zero_one_list(answer, 3)


@pytest.mark.parametrize(
    "answer",
    [
        "<think>" + DRAFT,
        DRAFT + "<think>" + DRAFT,
        "<think>a</think>" + DRAFT + "<think>" + DRAFT,
        "<reasoning>" + DRAFT + "<think>x</think>" + DRAFT,
        "<Thinking >\n" + DRAFT,
        "◁think▷" + DRAFT,
        "[THINK]" + DRAFT,
        "<|channel|>analysis<|message|>" + DRAFT,
        "<|channel|>final<|message|>x<|end|><|channel|>analysis<|message|>" + DRAFT,
        "analysisWe see " + DRAFT,
    ],
)
def test_thoughts_that_do_not_end_are_a_problem(answer: str) -> None:
    for read in (explanation, lambda text: zero_one_list(text, 3)):
        with pytest.raises(ParseProblem, match="does not end"):
            read(answer)


@pytest.mark.parametrize(
    "text", ["words about thinking > reasoning", "an analysis of </b> tags", "a < b, think > c", "[think] in brackets?"]
)
def test_words_about_thinking_are_words(text: str) -> None:
    if "[think]" not in text:
        assert explanation(f"Analysis: x\n[EXPLANATION]: {text}") == text
    assert explanation(f"analysis of it:\n[EXPLANATION]: {text.replace('[think]', '')}")


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "\n[EXPLANATION]: a", "[1]", " ", "<reasoning>", "</reasoning>"]))
)
def test_nothing_before_the_last_end_is_ever_read(parts: list[str]) -> None:
    """A second reading, by hand: behind the last end, and nothing at all if a name's last tag opens it."""
    answer = "".join(parts)
    last = {part.strip("</>"): part for part in parts if part.startswith("<")}
    ends = [i for i, part in enumerate(parts) if part.startswith("</")]
    behind = "".join(parts[ends[-1] + 1 if ends else 0 :])
    if any(not tag.startswith("</") for tag in last.values()) or "[1]" not in behind:
        with pytest.raises(ParseProblem):
            zero_one_list(answer, 1)
    else:
        assert zero_one_list(answer, 1) == [True]


def test_a_hostile_answer_is_read_in_linear_time() -> None:
    for part in ("<think ", "< ", "<|channel|>", "◁", "[1", "<" + "a" * 30, "-"):
        with pytest.raises(ParseProblem):
            zero_one_list(part * 20_000, 1)
    with pytest.raises(ParseProblem, match="thousands of digits"):
        zero_one_list("[0x" + "f" * 9000 + "]", 1)
