"""Reads what an endpoint sent, of any shape: the answer's text or why there is none, errors, usage.

Nothing here raises for what an endpoint may send, and no key is followed that is not of the expected kind.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from scoring.client.language_client import Odds
from scoring.client.token_odds import token_odds

ANSWERED = "saeql.answered"
"""Extension of a response: the status that came, where it is replaced by that of an error object."""
SAID = "saeql.said"
"""Extension of a response: the JSON value in its body, None for what is no JSON."""
_MOST_TOKENS = 100_000_000
"""Of one request: more is no count of tokens."""
_DETAIL = 300
_PASSING = re.compile(
    r"rate.?limit|too.?many.?requests|overload|capacity|temporar|time.?out|timed.out|unavailable|try.again|"
    r"server.error|internal.error|bad.gateway|upstream|throttl|busy",
    re.IGNORECASE,
)
_LASTING = re.compile(r"insufficient.?quota|billing|credit|balance|payment", re.IGNORECASE)
_RETRIED = (408, 409, 425, 429)


@dataclass(frozen=True)
class Failure:
    """An endpoint's own error."""

    reason: str
    status: int
    """What HTTP says for it."""
    again: bool | None
    """Whether another try may help; None: as for every response of this status."""


@dataclass(frozen=True)
class Completion:
    """What a response holds: a text, or the problem that makes it unusable."""

    text: str = ""
    problem: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    asked: bool = True
    """Whether a model was asked, so that the request was paid for."""
    odds: Odds = ()
    """Of the numbers in the text."""


def read_json(body: bytes) -> Any:
    """The value in a body, None for what is no JSON; bytes that are no UTF-8 become the replacement character."""
    try:
        if body.startswith((b"\xff\xfe", b"\xfe\xff")):
            return json.loads(body.decode("utf-16", "replace"))
        return json.loads(body.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return None


def error_in(said: Any, status: int = 200) -> Failure | None:
    """The error that a response holds; with a status of success, None if there is an answer in it."""
    said = said[0] if isinstance(said, list) and said else said
    found = _error_object(said)
    if status >= 300:
        reason = _reason(found if found is not None else said)
        lasting = status == 429 and _LASTING.search(_described(found)) is not None
        return Failure(reason, status, False if lasting else None)
    if found is None:
        return None
    code = _code(found)
    words = _described(found)
    if _LASTING.search(words):
        transient = False
    elif code is not None:
        transient = code in _RETRIED or 500 <= code < 600
    else:
        transient = _PASSING.search(words) is not None
    if code is None or not 400 <= code < 600 or (code < 500 and code not in (408, 409, 429)) is transient:
        code = 503 if transient else 400
    return Failure(_reason(found), code, transient)


def completion(said: Any) -> Completion:
    """The answer in the body of a response."""
    tokens = used_tokens(said)
    text, problem = _answer(said)
    asked = isinstance(said, dict) and isinstance(said.get("choices"), list) and bool(said["choices"])
    odds = token_odds(said["choices"][0], text) if asked and problem is None else ()
    return Completion(text, problem, *tokens, asked or any(tokens), odds)


def used_tokens(said: Any) -> tuple[int, int]:
    """(prompt, completion) tokens that a body speaks of; 0 where it does not."""
    used = said.get("usage") if isinstance(said, dict) else None
    used = used if isinstance(used, dict) else {}
    return tokens_in(used.get("prompt_tokens")), tokens_in(used.get("completion_tokens"))


def tokens_in(value: Any) -> int:
    """A count of tokens, 0 for what is none: a text of digits counts, what is negative or beyond reason does not."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    usable = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS
    return value if usable else 0


def whole(text: str) -> str:
    """The text with halves of surrogate pairs joined, and U+FFFD for those that stand alone."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _answer(said: Any) -> tuple[str, str | None]:
    choices = said.get("choices") if isinstance(said, dict) else None
    if not isinstance(choices, list) or not choices:
        kind = "" if choices is None or choices == [] else f", but {_kind(choices)} of that name"
        return "", f"the endpoint's answer has no choices{kind}: is it OpenAI-compatible?"
    choice = choices[0] if isinstance(choices[0], dict) else {}
    message = choice.get("message")
    if not isinstance(message, dict):
        return "", f"the endpoint's answer has {_kind(message)} in place of a message"
    finish = choice.get("finish_reason")
    text, refusal, wrong = _content(message.get("content"))
    refusal = message.get("refusal") or refusal
    if refusal or finish == "content_filter":
        return "", f"the model refused: {_said(refusal) if refusal else 'content filter'}"
    if wrong:
        return "", wrong
    if finish == "length":
        return text, f"the answer was cut off at the token limit after {len(text)} characters: raise it"
    if not text.strip():
        return "", _why_empty(message, finish)
    return text, None


def _why_empty(message: dict[str, Any], finish: Any) -> str:
    if message.get("tool_calls") or message.get("function_call"):
        return "the model called a tool instead of answering"
    for name in ("reasoning_content", "reasoning", "thinking"):
        if message.get(name):
            return f"the answer is empty: the model has only thought ({name}); raise the token limit"
    return f"the answer is empty (finish reason {_said(finish)!r})"


def _content(content: Any) -> tuple[str, str, str]:
    """(text, refusal, what is wrong) of a message's content, a text or a list of parts."""
    if content is None or isinstance(content, str):
        return content or "", "", ""
    if not isinstance(content, list | dict):
        return "", "", f"the answer's content is {_kind(content)}, not text"
    texts: list[str] = []
    refusal = ""
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            texts.append(part)
            continue
        if not isinstance(part, dict):
            return "", "", f"the answer's content has {_kind(part)} among its parts"
        if isinstance(part.get("refusal"), str):
            refusal = refusal or part["refusal"]
        kind, text = part.get("type", "text"), part.get("text")
        if kind in ("text", "output_text") and isinstance(text, str):
            texts.append(text)
    return "".join(texts), refusal, ""


def _error_object(said: Any) -> Any:
    """The error in a response that has no answer, else None."""
    if not isinstance(said, dict):
        return None
    choices = said.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(first, dict):
        # An answer that broke off upstream has its error beside, or in place of, the message.
        return first.get("error") or None
    if said.get("error"):
        return said["error"]
    if said.get("errors"):
        return said["errors"][0] if isinstance(said["errors"], list) else said["errors"]
    told = said.get("object") == "error" or any(isinstance(said.get(name), str) for name in ("message", "detail"))
    return said if told and choices is None else None


def _code(error: Any) -> int | None:
    if not isinstance(error, dict):
        return None
    for name in ("code", "status", "status_code", "http_code"):
        value = error.get(name)
        if isinstance(value, str) and re.fullmatch("[1-5][0-9]{2}", value):
            return int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 100 <= value < 600:
            return value
    return None


def _described(error: Any) -> str:
    """The words by which an error says what it is."""
    if isinstance(error, dict):
        names = ("message", "detail", "type", "code", "status", "error")
        return " ".join(value for name in names if isinstance(value := error.get(name), str))[: 10 * _DETAIL]
    return error[: 10 * _DETAIL] if isinstance(error, str) else ""


def _reason(error: Any) -> str:
    """An error in the endpoint's own words, with its code."""
    if not isinstance(error, dict):
        return "" if error is None else _said(error)
    text = next((error[name] for name in ("message", "detail", "error") if isinstance(error.get(name), str)), None)
    code = next((error[name] for name in ("code", "type", "status") if isinstance(error.get(name), str | int)), None)
    return (text if text is not None else _said(error)) + (f" (code {_said(code)})" if code is not None else "")


def _said(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value)[: 10 * _DETAIL]
    except (ValueError, RecursionError):
        return _kind(value)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a boolean", type(None): "nothing"}
    return names.get(type(value), "a number")
