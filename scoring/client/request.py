"""Describes what a step would ask an endpoint, and tells like requests from each other."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from catalog.answers import canonical_request
from catalog.digest import digest
from catalog.study.request_body import sent_with
from scoring.client.local_name import local_name


@dataclass(frozen=True)
class Request:
    """One request as it would be sent."""

    text: str
    """Canonical JSON: the key of a stored answer."""
    like: str
    """Model and instructions: requests that share it have answers of like length."""
    characters: int
    """Of all its messages."""
    prices: tuple[float, float]
    """Of a million (prompt, completion) tokens."""
    asks: tuple[str, str | None] | None
    """(model, base_url) that it would go to; no address stands for the environment's. None: a model of this process."""


@dataclass(frozen=True)
class Asked:
    """What one input row of a kernel shows and asks."""

    shown: str
    """Digest of all that the output rows depend on: a row is stale if and only if it changed."""
    requests: tuple[Request, ...] = ()
    expected: tuple[dict[str, Any], ...] = ()
    """Rows such as the kernel may give, for planning what follows from them; none where nobody can know."""


def sampler(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters that go into each request as they are."""
    return sent_with(settings["temperature"], settings["max_tokens"], settings.get("request") or {})


def request(model: str, settings: Mapping[str, Any], messages: Sequence[Mapping[str, str]]) -> Request:
    """A conversation as it would be sent."""
    local = settings.get("provider") == "transformers"
    name = local_name(model) if local else model
    return Request(
        canonical_request(name, sampler(settings), messages),
        digest([name, messages[0]["content"]]),
        sum(len(message["content"]) for message in messages),
        (0.0, 0.0) if local else (settings["price_prompt"], settings["price_completion"]),
        None if local else (model, settings["base_url"]),
    )


def likeness(text: str) -> tuple[str, int]:
    """(`Request.like`, `Request.characters`) of a stored request."""
    said = json.loads(text)
    messages = said["messages"]
    return digest([said["model"], messages[0]["content"]]), sum(len(message["content"]) for message in messages)
