"""Reads the log-probabilities of an answer's numbers: how probable each number was that could have stood there.

Of each token that is one number, perhaps with blanks or signs before it (" 1"), the numbers among its most probable
tokens count, the spellings of one together. A scorer divides them: P(1) / (P(0) + P(1)), as Paulo et al. 2024 do for
detection. Nothing here raises for what an endpoint may send.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from scoring.client.language_client import Odds

_NUMBER = re.compile(r"[^\w]*([0-9]{1,3}|[Tt]rue|[Ff]alse)")
_WORDS = {"true": "1", "false": "0"}
_MOST = 10_000
"""Tokens that are looked at."""
_DIGITS = 6


def token_odds(choice: Any, text: str) -> Odds:
    """Of a choice in a response with its answer's text; empty if it has no log-probabilities, or those of another text.

    Places are those of each token's end in `text`.
    """
    said = choice.get("logprobs") if isinstance(choice, dict) else None
    tokens = said.get("content") if isinstance(said, dict) else None
    if not isinstance(tokens, list) or not tokens or len(tokens) > _MOST:
        return ()
    spelled: list[str] = []
    for token in tokens:
        name = token.get("token") if isinstance(token, dict) else None
        if not isinstance(name, str):
            return ()
        spelled.append(name)
    # Thoughts that stand apart may come before, and an end of turn after.
    first = "".join(spelled).rfind(text)
    if first < 0 or not text:
        return ()
    found: list[tuple[int, dict[str, float]]] = []
    at = -first
    for token, name in zip(tokens, spelled, strict=True):
        at += len(name)
        if 0 < at <= len(text) and _number(name) is not None and (odds := _odds(token)):
            found.append((at, odds))
    return tuple(found)


def odds_json(odds: Odds) -> str:
    """As it is stored."""
    rounded = [[at, {name: float(f"{p:.{_DIGITS}g}") for name, p in numbers.items()}] for at, numbers in odds]
    return json.dumps(rounded, separators=(",", ":")) if rounded else ""


def odds_of(stored: str) -> Odds:
    """What `odds_json` wrote."""
    try:
        return tuple((int(at), {str(n): float(p) for n, p in numbers.items()}) for at, numbers in json.loads(stored))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return ()


def share_of(odds: Mapping[str, float], number: str, others: Sequence[str]) -> float | None:
    """The probability of `number` among `others`, itself one of them; None if none of them has any."""
    total = sum(odds.get(other, 0.0) for other in others)
    return odds.get(number, 0.0) / total if total > 0 else None


def _odds(token: dict[str, Any]) -> dict[str, float]:
    """Number -> probability among a token's alternatives and the token itself."""
    tops = token.get("top_logprobs")
    spellings: dict[str, float] = {}
    for one in [token, *(tops if isinstance(tops, list) else [])]:
        name, value = (one.get("token"), one.get("logprob")) if isinstance(one, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(value, int | float) or isinstance(value, bool):
            continue
        with suppress(OverflowError):
            if math.isfinite(value):
                spellings[name] = math.exp(min(float(value), 0.0))
    found: dict[str, float] = {}
    for name, p in spellings.items():
        if (number := _number(name)) is not None:
            found[number] = found.get(number, 0.0) + p
    return found


def _number(token: str) -> str | None:
    match = _NUMBER.fullmatch(token)
    return None if match is None else _WORDS.get(match[1].lower(), match[1])
