"""Holds what a client is asked for, what it gives, and what that has cost, whoever answers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from catalog.errors import InputError, SaeqlError

Message = Mapping[str, str]
Odds = tuple[tuple[int, Mapping[str, float]], ...]
"""(place in the answer's text, probability of each number that could have stood there) of each number of an answer."""


class LLMError(SaeqlError):
    """A request without a usable answer; `reason` says why. Tokens and cost were paid for nothing.

    `body` is what came, of an endpoint that says it has answered; `paid` says whether a model was asked for it. `begun`
    is the text of an answer that was cut off.
    """

    def __init__(
        self,
        reason: str,
        paid_for: tuple[int, int, float] = (0, 0, 0.0),
        body: bytes | None = None,
        paid: bool = False,
        begun: str = "",
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.body = body
        self.paid = paid
        self.begun = begun
        self.prompt_tokens, self.completion_tokens, self.cost = paid_for


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer; `stored` if it was read from the store, then tokens and cost are those once paid."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    stored: bool
    cost: float = 0.0
    odds: Odds = ()
    """Empty where nobody gave log-probabilities."""


@dataclass(frozen=True, slots=True)
class Form:
    """The form that an answer should have.

    An endpoint is asked for it as far as it takes such parameters, and may answer otherwise; a model of this process is
    held to it. A stored answer in another form is an answer all the same: the form is no part of its key.
    """

    values: int = 0
    """The answer is a list of so many numbers, with the probability of each; 0: it is free text."""
    choices: tuple[str, ...] = ("0", "1")
    """The numbers that may stand in the list."""
    line: str = ""
    """A model of this process answers one line that begins so; an endpoint's may think first."""


FREE = Form()


@dataclass(slots=True)
class Spent:
    """Requests that reached a model, tokens and money that a client has paid for since it was made."""

    paid: int = 0
    stored: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class Sending:
    """How requests are sent, and what they cost. Raises InputError for numbers that cannot be."""

    jobs: int = 8
    """Requests at a time."""
    max_retries: int = 5
    timeout: float = 120.0
    """Seconds, per try."""
    prices: tuple[float, float] = (0.0, 0.0)
    """Of a million (prompt, completion) tokens."""
    requests_per_minute: float | None = None
    """Tries, over all threads; None: no limit."""
    tokens_per_minute: float | None = None
    """Of prompts and answers, over all threads; None: no limit."""
    structured: bool = True
    """Whether an endpoint is asked for answers by a JSON schema, until it refuses."""
    logprobs: bool = True
    """Whether an endpoint is asked for log-probabilities, until it refuses."""

    def __post_init__(self) -> None:
        if self.jobs < 1 or self.max_retries < 0 or self.timeout <= 0:
            said = f"jobs={self.jobs}, max_retries={self.max_retries}, timeout={self.timeout}"
            raise InputError(f"{said}: need at least 1, at least 0, above 0")
        for name in ("requests_per_minute", "tokens_per_minute"):
            limit = getattr(self, name)
            if limit is not None and not 0 < limit < float("inf"):
                raise InputError(f"{name}={limit}: it has to be above 0; leave it out for no limit")


class Client(Protocol):
    """Asks one model, be it behind an endpoint or in this process."""

    model: str
    spent: Spent
    notes: list[str]
    """Remarks for the user, each to be told once."""

    def complete_many(
        self, conversations: Sequence[Sequence[Message]], forms: Sequence[Form] | None = None, **params: Any
    ) -> Iterator[tuple[int, Answer | SaeqlError]]:
        """(index, answer or error) of each conversation, in the order of arrival; one failure stops no other."""
        ...
