"""Asks any OpenAI-compatible endpoint for chat completions, and pays for each once.

An answer is stored as soon as it arrives, before it is looked at; one that cannot be used is kept as it came. Whatever
goes wrong is an `LLMError` with a reason; the API key appears in none of them. Nothing is sent to an endpoint that a
catalog names and nobody allowed. The `openai` package is imported at the first call that needs it.
"""

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from catalog.answers import Answers, canonical_request, request_key
from catalog.errors import InputError, SaeqlError
from catalog.trust.endpoints import Permission, endpoint, permission
from scoring.client.budget import Budget, BudgetSpent
from scoring.client.response import ANSWERED, Completion, completion, error_in, read_json, whole

if TYPE_CHECKING:
    import openai

Message = Mapping[str, str]

_PLACEHOLDER = "no-key"
_TURN_TOKENS = 8
"""What an endpoint may add to each message of a conversation."""
_LONGEST_ANSWER = 131_072
"""Tokens, where a request sets no limit of its own."""
_DETAIL = 300
"""Characters of an endpoint's own message that an error quotes."""


class LLMError(SaeqlError):
    """A request without a usable answer; `reason` says why. Tokens and cost were paid for nothing.

    `body` is what came, of an endpoint that says it has answered; `paid` says whether a model was asked for it.
    """

    def __init__(
        self,
        reason: str,
        prompt_tokens: int = 0,
        completion_tokens: int = 0,
        cost: float = 0.0,
        body: bytes | None = None,
        paid: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.body = body
        self.paid = paid
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = completion_tokens
        self.cost = cost


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

    def __post_init__(self) -> None:
        if self.jobs < 1 or self.max_retries < 0 or self.timeout <= 0:
            said = f"jobs={self.jobs}, max_retries={self.max_retries}, timeout={self.timeout}"
            raise InputError(f"{said}: need at least 1, at least 0, above 0")


class ChatClient:
    """Asks one model.

    `base_url` defaults to OPENAI_BASE_URL, else OpenAI's; an endpoint of one's own needs no key. Without `api_key`, the
    endpoint counts as named by a catalog, and gets prompts and OPENAI_API_KEY as
    `catalog.trust.endpoints.permission` says.
    429, 5xx, timeouts and lost connections are tried again as `sending` says, with exponential back-off, or after as
    long as the endpoint asks for, up to two minutes.
    `budget` limits what is paid, over all clients that share it.
    Answers are keyed by model name, parameters and messages, not by endpoint.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        answers: Answers,
        sending: Sending | None = None,
        budget: Budget | None = None,
    ) -> None:
        sending = sending or Sending()
        self.model = model
        self.jobs = sending.jobs
        self.spent = Spent()
        self._answers = answers
        self._budget = budget or Budget()
        self._base_url, self._api_key = base_url, api_key or None
        self._secrets = [key for key in (api_key, os.environ.get("OPENAI_API_KEY")) if key]
        self._retries, self._timeout, self._prices = sending.max_retries, sending.timeout, sending.prices
        self._lock = threading.Lock()
        self._openai: openai.OpenAI | None = None

    def __repr__(self) -> str:
        return f"ChatClient({self.model!r}, base_url={self._base_url!r}, jobs={self.jobs})"

    def permission(self) -> Permission:
        """Where this client sends, and whether a key goes there. Raises EndpointRefused if it may not send."""
        if self._api_key is not None and self._base_url is not None:
            return Permission(endpoint(self._base_url), key=True)
        return permission(self._base_url)

    def complete(self, messages: Sequence[Message], **params: Any) -> Answer:
        """The answer to one conversation, from the store if it was asked before.

        `params` go into the request as they are (temperature, max_tokens, seed, ...). Raises LLMError if the endpoint
        fails for good, or if the answer is refused, empty or cut off; BudgetSpent if the budget does not allow it;
        EndpointRefused, before anything is sent, for an endpoint that nobody allowed.
        """
        request = canonical_request(self.model, params, messages)
        known = self._answers.get(request)
        if known is not None:
            with self._lock:
                self.spent.stored += 1
            return Answer(whole(known.text), known.prompt_tokens, known.completion_tokens, stored=True, cost=known.cost)
        self.permission()
        most = self._most(messages, params)
        self._budget.take(most)
        try:
            answer, cost = self._ask(messages, params)
        except LLMError as error:
            self._budget.settle(most - error.cost)
            self._count(error.prompt_tokens, error.completion_tokens, error.cost, failed=True, paid=error.paid)
            if error.body is not None:
                self._answers.keep_unusable(request, error.body, str(error))
            raise
        except BaseException:
            self._budget.settle(most)
            raise
        prompt, answered = answer.prompt_tokens, answer.completion_tokens
        self._budget.settle(most - cost)
        self._count(prompt, answered, cost, failed=False, paid=True)
        kept = self._answers.put(request, answer.text, prompt_tokens=prompt, completion_tokens=answered, cost=cost)
        return Answer(whole(kept.text), kept.prompt_tokens, kept.completion_tokens, stored=False, cost=kept.cost)

    def complete_many(
        self, conversations: Sequence[Sequence[Message]], **params: Any
    ) -> Iterator[tuple[int, Answer | SaeqlError]]:
        """(index, answer or error) of each conversation, in the order of arrival; one failure stops no other.

        Equal conversations are asked once. If the caller stops early, requests under way finish and are stored,
        the others are dropped. Raises CatalogError if an answer cannot be stored: what cannot be kept is not paid for.
        Raises EndpointRefused as `complete` does.
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
        limits = [params[name] for name in ("max_tokens", "max_completion_tokens") if params.get(name)]
        answered = max(map(int, limits), default=_LONGEST_ANSWER)
        return (sent * self._prices[0] + answered * self._prices[1]) / 1e6

    def _ask(self, messages: Sequence[Message], params: Mapping[str, Any]) -> tuple[Completion, float]:
        """The answer and the cost of one paid request."""
        import httpx2
        import openai

        body = {**params, "model": self.model, "messages": [dict(message) for message in messages]}
        try:
            response = self._connection().post("/chat/completions", body=body, cast_to=httpx2.Response)
        except openai.APIStatusError as error:
            # `from None`, here and below: the original's text and request may hold the key.
            raise LLMError(f"{self.model} did not answer: {self._redacted(self._told(error))}") from None
        except (openai.OpenAIError, httpx2.HTTPError, ValueError, TypeError, RecursionError) as error:
            reason = self._redacted(f"{type(error).__name__}: {error}")
            raise LLMError(f"{self.model} did not answer: {reason}") from None
        said = read_json(response.content)
        if said is None:
            begins = self._redacted(repr(response.content[:_DETAIL].decode("utf-8", "replace")))
            raise LLMError(f"{self.model} did not answer: what came is no JSON: {begins}", body=response.content)
        answer = completion(said)
        cost = (answer.prompt_tokens * self._prices[0] + answer.completion_tokens * self._prices[1]) / 1e6
        if answer.problem:
            problem = f"{self.model}: {self._redacted(answer.problem)}"
            tokens = answer.prompt_tokens, answer.completion_tokens
            raise LLMError(problem, *tokens, cost, response.content, answer.asked)
        return answer, cost

    def _told(self, error: "openai.APIStatusError") -> str:
        """What an endpoint said in place of an answer."""
        response = error.response
        answered = response.extensions.get(ANSWERED, response.status_code)
        if 300 <= answered < 400:
            return f"Error code: {answered} - it sends on to another address, and nothing goes there: correct base_url"
        found = error_in(read_json(response.content), answered)
        reason = (found.reason if found else "") or whole(response.text.strip())
        if answered in (401, 403) and self._base_url and self._secrets and not self.permission().key:
            name = self.permission().endpoint.name
            reason += f" (OPENAI_API_KEY was not sent; to send it: saeql refresh --allow-endpoint {name})"
        code = f"Error code: {answered}" if answered >= 300 else "an error in place of an answer"
        return f"{type(error).__name__}: {code} - {reason}"

    def _connection(self) -> "openai.OpenAI":
        """Made at the first paid request, so that stored answers need neither a key nor a network."""
        import openai

        from scoring.client.transport import Exchange

        with self._lock:
            if self._openai is None:
                may = self.permission()
                own = self._base_url or os.environ.get("OPENAI_BASE_URL")
                key = self._api_key or (os.environ.get("OPENAI_API_KEY") if may.key else None) or None
                if key is None and not own:
                    raise LLMError(
                        f"no API key to ask {self.model}: set OPENAI_API_KEY, or name another endpoint (base_url)"
                    )
                self._openai = openai.OpenAI(
                    api_key=key or _PLACEHOLDER,
                    base_url=may.endpoint.url,
                    timeout=self._timeout,
                    max_retries=self._retries,
                    # A proxy has no business with what stays on this machine.
                    http_client=Exchange(self._timeout, proxies=not may.endpoint.loopback),
                )
                if not may.key:
                    self._openai.organization = self._openai.project = None
            return self._openai

    def _count(self, prompt: int, completion: int, cost: float, *, failed: bool, paid: bool) -> None:
        with self._lock:
            self.spent.failed += failed
            self.spent.paid += paid
            self.spent.prompt_tokens += prompt
            self.spent.completion_tokens += completion
            self.spent.cost += cost

    def _redacted(self, text: str) -> str:
        """Some endpoints quote the key that they refuse."""
        for key in self._secrets:
            text = text.replace(key, "***")
        text = whole(text)
        return text if len(text) <= _DETAIL else text[:_DETAIL] + "..."
