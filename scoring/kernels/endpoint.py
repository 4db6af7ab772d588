"""The endpoint that an explainer or a scorer names: its client, its sampler, what it would be asked."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from catalog.answers import Answers, canonical_request
from scoring.client import ChatClient
from scoring.kernels.contract import Request, Run


@contextmanager
def counted_client(model: str, settings: Mapping[str, Any], run: Run) -> Iterator[tuple[ChatClient, "Counter"]]:
    """A client over the catalog's stored answers, and a counter that adds what it paid to the run."""
    prices = (settings["price_prompt"], settings["price_completion"])
    with Answers(run.catalog.root / "answers.sqlite") as answers:
        client = ChatClient(
            model,
            settings["base_url"],
            answers=answers,
            jobs=run.jobs or settings["jobs"],
            prices=prices,
            budget=run.budget,
        )
        counter = Counter(client, run)
        try:
            yield client, counter
        finally:
            counter.update()


class Counter:
    """Adds what one client has paid to a run that may have several."""

    def __init__(self, client: ChatClient, run: Run) -> None:
        self._client, self._run = client, run
        self._before = (run.calls, run.tokens, run.cost)

    def update(self) -> None:
        """Bring the run up to what was paid so far."""
        spent = self._client.spent
        calls, tokens, cost = self._before
        self._run.calls = calls + spent.paid
        self._run.tokens = tokens + spent.prompt_tokens + spent.completion_tokens
        self._run.cost = cost + spent.cost


def sampler(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters that go into each request as they are."""
    return {"temperature": settings["temperature"], "max_tokens": settings["max_tokens"]}


def request(model: str, settings: Mapping[str, Any], messages: Sequence[Mapping[str, str]]) -> Request:
    """A conversation as it would be sent."""
    return Request(
        canonical_request(model, sampler(settings), messages),
        digest([model, messages[0]["content"]]),
        sum(len(message["content"]) for message in messages),
        (settings["price_prompt"], settings["price_completion"]),
    )


def likeness(text: str) -> tuple[str, int]:
    """(`Request.like`, `Request.characters`) of a stored request."""
    said = json.loads(text)
    messages = said["messages"]
    return digest([said["model"], messages[0]["content"]]), sum(len(message["content"]) for message in messages)


def digest(said: Any) -> str:
    """BLAKE2b-128 of anything that JSON holds."""
    return hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=16).hexdigest()
