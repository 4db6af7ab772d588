"""Chat completions from any OpenAI-compatible endpoint, each paid for once.

An answer is stored as soon as it arrives, before it is looked at. Whatever goes wrong is an `LLMError` with a
reason; the API key appears in none of them. The `openai` package is imported at the first call that needs it.
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from catalog.answers import Answers, canonical_request, request_key
from catalog.errors import InputError, SaeqlError

if TYPE_CHECKING:
    import openai

Message = Mapping[str, str]

_PLACEHOLDER = "no-key"
_TURN_TOKENS = 8
"""What an endpoint may add to each message of a conversation."""
_LONGEST_ANSWER = 4096
"""Tokens, where a request sets no limit of its own."""
_DETAIL = 300
"""Characters of an endpoint's own message that an error quotes."""


class LLMError(SaeqlError):
    """A request without a usable answer; `reason` says why. Tokens and cost were paid for nothing."""

    def __init__(self, reason: str, prompt_tokens: int = 0, completion_tokens: int = 0, cost: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = completion_tokens
        self.cost = cost


class BudgetSpent(SaeqlError):
    """A request that was not sent, because a limit on calls or money was reached."""


class Budget:
    """A limit on paid calls and money over several clients and threads; None is no limit.

    Before a request its largest possible cost is set aside, so that requests under way never pass the limit; a
    request that does not fit waits for those under way, which mostly cost less.
    """

    def __init__(self, calls: int | None = None, cost: float | None = None) -> None:
        self._calls, self._cost = calls, cost
        self._under_way = 0
        self._changed = threading.Condition()
        self.spent = False
        """Whether a request was refused."""

    def take(self, most: float) -> None:
        """Set aside one call of at most this cost. Raises BudgetSpent if there is not that much left."""
        with self._changed:
            while not self.spent and self._cost is not None and self._cost < most and self._under_way:
                self._changed.wait()
            short = self._cost is not None and self._cost < most
            if self.spent or short or (self._calls is not None and self._calls < 1):
                self.spent = True
                self._changed.notify_all()
                raise BudgetSpent("the limit on calls or cost of this refresh is reached")
            self._calls = None if self._calls is None else self._calls - 1
            self._cost = None if self._cost is None else self._cost - most
            self._under_way += 1

    def settle(self, unused: float) -> None:
        """A request has ended, and cost this much less than was set aside for it."""
        with self._changed:
            self._cost = None if self._cost is None else self._cost + unused
            self._under_way -= 1
            self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer; `stored` if it was read from the store, then tokens and cost are those once paid."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    stored: bool
    cost: float = 0.0


@dataclass(slots=True)
class Spent:
    """What a client has paid for since it was made: requests that reached the endpoint's model, tokens, money."""

    paid: int = 0
    stored: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


class ChatClient:
    """Asks one model, `jobs` requests at a time.

    `base_url` and `api_key` default to OPENAI_BASE_URL and OPENAI_API_KEY; an endpoint of one's own needs no key.
    429, 5xx, timeouts and lost connections are tried again `max_retries` times with exponential back-off.
    `timeout` is in seconds, per try. `prices` is the cost of a million (prompt, completion) tokens; `budget` limits
    what is paid, over all clients that share it.
    Answers are keyed by model name, parameters and messages, not by endpoint.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        answers: Answers,
        max_retries: int = 5,
        timeout: float = 120.0,
        jobs: int = 8,
        prices: tuple[float, float] = (0.0, 0.0),
        budget: Budget | None = None,
    ) -> None:
        if jobs < 1 or max_retries < 0 or timeout <= 0:
            raise InputError(
                f"jobs={jobs}, max_retries={max_retries}, timeout={timeout}: need at least 1, at least 0, above 0"
            )
        self.model = model
        self.jobs = jobs
        self.spent = Spent()
        self._answers = answers
        self._budget = budget or Budget()
        self._base_url = base_url or os.environ.get("OPENAI_BASE_URL") or None
        self._key = api_key or os.environ.get("OPENAI_API_KEY") or None
        self._retries, self._timeout, self._prices = max_retries, timeout, prices
        self._lock = threading.Lock()
        self._openai: openai.OpenAI | None = None

    def __repr__(self) -> str:
        return f"ChatClient({self.model!r}, base_url={self._base_url!r}, jobs={self.jobs})"

    def complete(self, messages: Sequence[Message], **params: Any) -> Answer:
        """The answer to one conversation, from the store if it was asked before.

        `params` go into the request as they are (temperature, max_tokens, seed, ...). Raises LLMError if the endpoint
        fails for good, or if the answer is refused, empty or cut off; BudgetSpent if the budget does not allow it.
        """
        request = canonical_request(self.model, params, messages)
        known = self._answers.get(request)
        if known is not None:
            with self._lock:
                self.spent.stored += 1
            return Answer(known.text, known.prompt_tokens, known.completion_tokens, stored=True, cost=known.cost)
        most = self._most(messages, params)
        self._budget.take(most)
        try:
            text, prompt, completion, cost = self._ask(messages, params)
        except LLMError as error:
            self._budget.settle(most - error.cost)
            self._count(error.prompt_tokens, error.completion_tokens, error.cost, failed=True)
            raise
        self._budget.settle(most - cost)
        self._count(prompt, completion, cost, failed=False)
        kept = self._answers.put(request, text, prompt_tokens=prompt, completion_tokens=completion, cost=cost)
        return Answer(kept.text, kept.prompt_tokens, kept.completion_tokens, stored=False, cost=kept.cost)

    def complete_many(
        self, conversations: Sequence[Sequence[Message]], **params: Any
    ) -> Iterator[tuple[int, Answer | SaeqlError]]:
        """(index, answer or error) of each conversation, in the order of arrival; one failure stops no other.

        Equal conversations are asked once. If the caller stops early, requests under way finish and are stored,
        the others are dropped. Raises CatalogError if an answer cannot be stored: what cannot be kept is not paid for.
        """
        same: dict[str, list[int]] = {}
        for i, messages in enumerate(conversations):
            same.setdefault(request_key(canonical_request(self.model, params, messages)), []).append(i)
        pool = ThreadPoolExecutor(max_workers=self.jobs, thread_name_prefix="saeql-llm")
        try:
            futures: dict[Future[Answer], list[int]] = {
                pool.submit(self.complete, conversations[indexes[0]], **params): indexes for indexes in same.values()
            }
            for future in as_completed(futures):
                result: Answer | SaeqlError
                try:
                    result = future.result()
                except (LLMError, BudgetSpent) as error:
                    result = error
                for i in futures[future]:
                    yield i, result
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _most(self, messages: Sequence[Message], params: Mapping[str, Any]) -> float:
        """The largest cost of a request: a token has a byte at least, and an answer ends at max_tokens."""
        sent = sum(len(message["content"].encode()) for message in messages) + _TURN_TOKENS * len(messages)
        answered = int(params.get("max_tokens") or params.get("max_completion_tokens") or _LONGEST_ANSWER)
        return (sent * self._prices[0] + answered * self._prices[1]) / 1e6

    def _ask(self, messages: Sequence[Message], params: Mapping[str, Any]) -> tuple[str, int, int, float]:
        """Text, prompt tokens, completion tokens and cost of one paid request."""
        import openai

        create: Callable[..., Any] = self._connection().chat.completions.create
        try:
            response = create(model=self.model, messages=[dict(message) for message in messages], **params)
        except (openai.OpenAIError, ValueError, TypeError) as error:
            reason = self._redacted(f"{type(error).__name__}: {error}")
            # `from None`: the original's text and request may hold the key.
            raise LLMError(f"{self.model} did not answer: {reason}") from None
        usage = getattr(response, "usage", None)
        prompt = getattr(usage, "prompt_tokens", None) or 0
        completion = getattr(usage, "completion_tokens", None) or 0
        cost = (prompt * self._prices[0] + completion * self._prices[1]) / 1e6
        text, problem = _content(response)
        if problem:
            raise LLMError(f"{self.model}: {self._redacted(problem)}", prompt, completion, cost)
        return text, prompt, completion, cost

    def _connection(self) -> "openai.OpenAI":
        """Made at the first paid request, so that stored answers need neither a key nor a network."""
        import openai

        with self._lock:
            if self._openai is None:
                key = self._key or (_PLACEHOLDER if self._base_url else None)
                if key is None:
                    raise LLMError(
                        f"no API key to ask {self.model}: set OPENAI_API_KEY, or name another endpoint (base_url)"
                    )
                self._openai = openai.OpenAI(
                    api_key=key, base_url=self._base_url, timeout=self._timeout, max_retries=self._retries
                )
            return self._openai

    def _count(self, prompt: int, completion: int, cost: float, *, failed: bool) -> None:
        with self._lock:
            self.spent.failed += failed
            self.spent.paid += not failed or prompt + completion > 0
            self.spent.prompt_tokens += prompt
            self.spent.completion_tokens += completion
            self.spent.cost += cost

    def _redacted(self, text: str) -> str:
        """Some endpoints quote the key that they refuse."""
        if self._key:
            text = text.replace(self._key, "***")
        return text if len(text) <= _DETAIL else text[:_DETAIL] + "..."


def _content(response: object) -> tuple[str, str | None]:
    """An answer's text, and the problem that makes it unusable."""
    choices = getattr(response, "choices", None)
    if not choices:
        return "", "the endpoint's answer has no choices: is it OpenAI-compatible?"
    message, finish = choices[0].message, choices[0].finish_reason
    refusal = getattr(message, "refusal", None)
    if refusal or finish == "content_filter":
        return "", f"the model refused: {refusal or 'content filter'}"
    text = getattr(message, "content", None) or ""
    if finish == "length":
        return "", f"the answer was cut off at the token limit after {len(text)} characters: raise it"
    if not text.strip():
        return "", f"the answer is empty (finish reason {finish!r})"
    return text, None
