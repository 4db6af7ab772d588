"""Checks `request = { ... }` of an explainer or a scorer: the keys that each request has besides model and messages."""

import json
import math
from collections.abc import Mapping
from typing import Any

_OWN = {
    "model": "it is the section's own key `model`",
    "messages": "saeql writes the messages; a prompt of your own is the key `template`",
    "n": "saeql reads one answer to a request",
    "stream": "saeql reads an answer whole",
    "stream_options": "saeql reads an answer whole",
}
_LEFT_OUT = ("temperature", "max_tokens")
_LIMITS = ("max_tokens", "max_completion_tokens")
_SECRETS = ("api_key", "apikey", "api-key", "authorization", "extra_headers", "headers")
_LONGEST = 16_384


def check_request(extra: Mapping[str, Any]) -> None:
    """Raise ValueError for a key or value that cannot be sent, or that saeql itself sets."""
    for key, value in extra.items():
        if key in _OWN:
            raise ValueError(f"cannot set {key!r}: {_OWN[key]}")
        if key.lower() in _SECRETS:
            raise ValueError(f"cannot set {key!r}: the key is OPENAI_API_KEY, so that no study holds a secret")
        if key in _LEFT_OUT and value is False:
            continue
        if key in _LIMITS and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{key} should be a number of tokens, at least 1{_or_false(key)}, not {value!r}")
        _check_value(key, value)
    if len(json.dumps(extra)) > _LONGEST:
        raise ValueError(f"is longer than {_LONGEST} characters")


def sent_with(temperature: float, max_tokens: int, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of each request: those of the section, and those of its `request`, which come first.

    `max_completion_tokens` takes the place of max_tokens, as no endpoint takes both; false leaves a key out.
    """
    own: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens}
    if "max_completion_tokens" in extra:
        del own["max_tokens"]
    merged = {**own, **extra}
    return {key: value for key, value in merged.items() if not (key in _LEFT_OUT and value is False)}


def _or_false(key: str) -> str:
    return ", or false to leave it out" if key in _LEFT_OUT else ""


def _check_value(where: str, value: Any) -> None:
    """Raise ValueError for what JSON does not hold: TOML has dates, nan and inf."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_value(f"{where}.{key}", inner)
    elif isinstance(value, list):
        for inner in value:
            _check_value(where, inner)
    elif not isinstance(value, str | int | float | bool) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"{where} should be a text, a finite number, true or false, not {value!r}")
