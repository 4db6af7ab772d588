"""Estimates what paid calls will come to, from the prompts as they would be sent and what like calls have cost."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catalog import Catalog
from catalog.answers import Answers
from catalog.errors import CatalogError

if TYPE_CHECKING:
    from scoring.client.request import Request

_CHARACTERS_PER_TOKEN = 4.0
_ANSWER_TOKENS = 100.0
"""Of an answer, where no call like it was ever made."""
_SAMPLE = 2000
"""The newest answers that are looked at."""


@dataclass(frozen=True)
class Estimate:
    """Calls that no stored answer replaces, and what they will use."""

    calls: int
    stored: int
    """Answers that are there already, and free."""
    prompt_tokens: int
    completion_tokens: int
    cost: float
    like: int
    """Answers to like calls that tokens were estimated from; 0: 4 characters a token, 100 tokens an answer."""
    asks: tuple[tuple[str, str | None], ...] = ()
    """(model, base_url) that the calls go to; no address stands for the environment's."""


def estimated(catalog: Catalog, requests: Iterable["Request"]) -> Estimate:
    """The paid part of these requests; equal ones are asked once."""
    distinct = {request.text: request for request in requests}
    path = catalog.root / "answers.sqlite"
    if not distinct:
        return Estimate(0, 0, 0, 0, 0.0, 0)
    if not path.exists():
        return _summed(list(distinct.values()), 0, {})
    with Answers(path, read_only=True) as answers:
        unpaid = [request for text, request in distinct.items() if answers.get(text) is None]
        history = answers.history(_SAMPLE) if unpaid else []
    from scoring.client.request import likeness

    rates: dict[str, list[tuple[int, int, int]]] = {}
    for text, prompt, completion in history:
        try:
            like, characters = likeness(text)
        except (ValueError, TypeError, LookupError):
            raise CatalogError(f"{path} holds a request of another form: it was not made by saeql") from None
        rates.setdefault(like, []).append((characters, prompt, completion))
    return _summed(unpaid, len(distinct) - len(unpaid), rates)


def _summed(unpaid: list["Request"], stored: int, rates: dict[str, list[tuple[int, int, int]]]) -> Estimate:
    prompt = completion = cost = 0.0
    seen: set[str] = set()
    for request in unpaid:
        like = rates.get(request.like, [])
        seen |= {request.like} if like else set()
        characters, prompts, answers = (sum(part) for part in zip(*like, strict=True)) if like else (0, 0, 0)
        per_token = characters / prompts if prompts else _CHARACTERS_PER_TOKEN
        asked = request.characters / per_token
        answered = answers / len(like) if like else _ANSWER_TOKENS
        prompt, completion = prompt + asked, completion + answered
        cost += (asked * request.prices[0] + answered * request.prices[1]) / 1e6
    known = sum(len(rates[like]) for like in seen)
    asks = tuple(dict.fromkeys(request.asks for request in unpaid if request.asks is not None))
    return Estimate(len(unpaid), stored, round(prompt), round(completion), cost, known, asks)
