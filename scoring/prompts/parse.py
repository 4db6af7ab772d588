"""Reads what an LLM answered, strictly: an explanation, a list of zeros and ones, a number, or the reason why not.

Nothing is guessed. An answer that breaks the format is a `ParseProblem`, never a label and never a judgement. What a
model thought on the way, between tags such as <think> and </think>, is not read.
"""

import ast
import json
import re

from catalog.errors import SaeqlError
from scoring.client.thoughts import behind

MARKER = "[EXPLANATION]:"
"""Begins the line that holds an explanation."""
_EXPLANATION = re.compile(r"^[ \t>*_#`]*\[EXPLANATION\][ \t*_`]*:(.*)$", re.IGNORECASE | re.MULTILINE)
_RESPONSE = re.compile(r"^[ \t>*_#`]*\[RESPONSE\][ \t*_`]*:(.*)$", re.IGNORECASE | re.MULTILINE)
_FENCED = re.compile(r"\[([^\[\]]*)\]")
_BEGUN = re.compile(r"\[\s*((?:[01]\s*,\s*)+)[01]?\s*\Z")
_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "«": "»"}  # noqa: RUF001
_EXCERPT = 200
_LONGEST = 10_000
"""Characters of a bracket that is looked into; a batch's list needs a few per example."""


class ParseProblem(SaeqlError):
    """An answer that does not have the asked form; `reason` says what is wrong, `excerpt` shows its end.

    `ended` is False for one that holds nothing but thoughts, without their end.
    """

    def __init__(self, reason: str, answer: str, *, ended: bool = True) -> None:
        self.reason = reason
        self.ended = ended
        self.excerpt = answer if len(answer) <= _EXCERPT else "..." + answer[-_EXCERPT:]
        super().__init__(f"{reason}; the answer ends with {self.excerpt!r}" if answer.strip() else reason)


def explanation(answer: str) -> str:
    """The text of the answer's last `[EXPLANATION]:` line, without the quotes or emphasis around it.

    The marker must begin its line. Raises ParseProblem if there is none, or no word after the last one, or if the
    model's thoughts do not end.
    """
    found = _EXPLANATION.findall(_said(answer))
    if not found:
        raise ParseProblem("the answer has no line that begins with [EXPLANATION]:", answer)
    text = _unwrapped(found[-1])
    if not re.search(r"\w", text):
        raise ParseProblem("the last [EXPLANATION]: line is empty", answer)
    return text


def keeps_word_limits(text: str, least: int | None, most: int | None) -> bool:
    """Whether the number of blank-separated words lies within both limits; None is no limit."""
    words = len(text.split())
    return (least is None or words >= least) and (most is None or words <= most)


def zero_one_list(answer: str, n: int) -> list[bool]:
    """The `n` truth values of the last well-formed list of literals in the answer.

    Prose, code fences, line breaks and other brackets may stand around it. An item is 0, 1, True or False (JSON's
    spelling too): 2, 0.9, 1.0 and "1" are refused, as are a nested list and one of another length, whatever
    stood before it. Raises ParseProblem with the reason, also if the model's thoughts do not end.
    """
    answer = _said(answer)
    found = _last_list(answer)
    if found is None:
        raise ParseProblem(f"the answer has no list; {n} values of 0 or 1 were asked for", answer)
    items, match = found
    if answer[match.end() :].lstrip().startswith("]"):
        raise ParseProblem("the list is nested", answer)
    # The type decides, because 1.0 == 1 == True.
    wrong = [item for item in items if type(item) not in (int, bool) or item not in (0, 1)]
    if wrong:
        raise ParseProblem(f"the list holds {_shown(wrong[0])}, which is neither 0 nor 1", answer)
    if len(items) != n:
        raise ParseProblem(f"the list has {len(items)} values, not {n}", answer)
    return [bool(item) for item in items]


def list_place(answer: str) -> range:
    """Where in an answer the list stands that `zero_one_list` reads; empty if there is none."""
    text, opened = behind(answer)
    found = _last_list(text) if opened is None else None
    at = answer.rfind(found[1][0]) if found else -1
    return range(at, at + len(found[1][0])) if found and at >= 0 else range(0)


def begun_list(answer: str) -> list[bool]:
    """The first values of a list that an answer was cut off in; empty where none can be told.

    A value counts if something was written after it: nobody knows how the last one would have gone on.
    """
    text, opened = behind(answer)
    begun = _BEGUN.search(text) if opened is None else None
    return [value == "1" for value in re.findall("[01]", begun[1])] if begun else []


def _last_list(text: str) -> tuple[list[object], re.Match[str]] | None:
    """The items of the last well-formed list of literals, and where it stands."""
    found = None
    for match in _FENCED.finditer(text):
        items = _literals(match[0])
        if items is not None:
            found = items, match
    return found


def _said(answer: str) -> str:
    """The answer without the model's thoughts."""
    text, opened = behind(answer)
    if opened is not None:
        raise ParseProblem(f"the answer's block of thoughts {opened!r} does not end", answer, ended=False)
    return text


def _shown(item: object) -> str:
    try:
        said = repr(item)
    except ValueError:
        return "a number of thousands of digits"
    return said if len(said) <= _EXCERPT else said[:_EXCERPT] + "..."


def _literals(bracket: str) -> list[object] | None:
    """The list that a bracket spells in JSON or Python literals, or None."""
    if len(bracket) > _LONGEST:
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(bracket)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, list):
            return value
    return None


def _unwrapped(text: str) -> str:
    """Without surrounding blanks, Markdown emphasis, and pairs of quotes around the whole."""
    text = text.strip().strip("*").strip()
    while (
        len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1] and text[-1] not in text[1:-1]
    ):
        text = text[1:-1].strip()
    return text


def response_number(answer: str, n: int) -> int:
    """The number from 1 to `n` of the answer's last `[RESPONSE]:` line.

    The marker must begin its line, and nothing but the number may follow it. Raises ParseProblem with the reason.
    """
    found = _RESPONSE.findall(_said(answer))
    if not found:
        raise ParseProblem("the answer has no line that begins with [RESPONSE]:", answer)
    text = found[-1].strip(" \t*_`.")
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= n:
        raise ParseProblem(f"the last [RESPONSE]: line has no number from 1 to {n}", answer)
    return int(text)
