"""Asks any OpenAI-compatible endpoint for chat completions, and pays for each once.

An answer is stored as soon as it arrives, before it is looked at; one that cannot be used is kept as it came. Whatever
goes wrong is an `LLMError` with a reason; the API key appears in none of them. Nothing is sent to an endpoint that a
catalog names and nobody allowed. The `openai` package is imported at the first call that needs it.
"""

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any

from catalog.answers import Answers, StoredAnswer, canonical_request, request_key
from catalog.errors import SaeqlError
from catalog.trust.endpoints import Permission, endpoint, permission
from scoring.client.budget import Budget, BudgetSpent
from scoring.client.language_client import FREE, Answer, Form, LLMError, Message, Sending, Spent
from scoring.client.optional_parameters import OptionalParameters
from scoring.client.response import ANSWERED, SAID, Completion, completion, error_in, whole
from scoring.client.token_odds import odds_json, odds_of

if TYPE_CHECKING:
    import httpx2
    import openai

_PLACEHOLDER = "no-key"
_TURN_TOKENS = 8
"""What an endpoint may add to each message of a conversation."""
_LONGEST_ANSWER = 131_072
"""Tokens, where a request sets no limit of its own."""
_DETAIL = 300
"""Characters of an endpoint's own message that an error quotes."""


class ChatClient:
    """Asks one model.

    `base_url` defaults to OPENAI_BASE_URL, else OpenAI's; an endpoint of one's own needs no key. Without `api_key`, the
    endpoint counts as named by a catalog, and gets prompts and OPENAI_API_KEY as
    `catalog.trust.endpoints.permission` says.
    429, 5xx, timeouts and lost connections are tried again as `sending` says, with exponential back-off, or after as
    long as the endpoint asks for, up to two minutes, in which no thread sends.
    `budget` limits what is paid, over all clients that share it.
    Answers are keyed by model name, parameters and messages, not by endpoint or form.
    `notes` says, once each, which parameters the endpoint refused.
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
        self._sending, self._prices = sending, sending.prices
        self._optional = OptionalParameters(model, structured=sending.structured, logprobs=sending.logprobs)
        self.notes = self._optional.notes
        self._lock = threading.Lock()
        self._openai: openai.OpenAI | None = None

    def __repr__(self) -> str:
        return f"ChatClient({self.model!r}, base_url={self._base_url!r}, jobs={self.jobs})"

    def permission(self) -> Permission:
        """Where this client sends, and whether a key goes there. Raises EndpointRefused if it may not send."""
        if self._api_key is not None and self._base_url is not None:
            return Permission(endpoint(self._base_url), key=True)
        return permission(self._base_url)

    def complete(self, messages: Sequence[Message], form: Form = FREE, **params: Any) -> Answer:
        """The answer to one conversation, from the store if it was asked before, in whatever form.

        `params` go into the request as they are (temperature, max_tokens, seed, ...). Raises LLMError if the endpoint
        fails for good, or if the answer is refused, empty or cut off; BudgetSpent if the budget does not allow it;
        EndpointRefused, before anything is sent, for an endpoint that nobody allowed.
        """
        request = canonical_request(self.model, params, messages)
        known = self._answers.get(request)
        if known is not None:
            with self._lock:
                self.spent.stored += 1
            return _answer(known, stored=True)
        self.permission()
        most = self._most(messages, params)
        self._budget.take(most)
        try:
            answer, cost = self._ask(messages, form, params)
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
        used: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": answered, "cost": cost}
        return _answer(self._answers.put(request, answer.text, **used, odds=odds_json(answer.odds)), stored=False)

    def complete_many(
        self, conversations: Sequence[Sequence[Message]], forms: Sequence[Form] | None = None, **params: Any
    ) -> Iterator[tuple[int, Answer | SaeqlError]]:
        """(index, answer or error) of each conversation, in the order of arrival; one failure stops no other.

        `forms` are those of the answers, one a conversation. Equal conversations are asked once. If the caller stops
        early, requests under way finish and are stored, the others are dropped. Raises CatalogError if an answer cannot
        be stored: what cannot be kept is not paid for. Raises EndpointRefused as `complete` does.
        """
        same: dict[str, list[int]] = {}
        for i, messages in enumerate(conversations):
            same.setdefault(request_key(canonical_request(self.model, params, messages)), []).append(i)
        pool = ThreadPoolExecutor(max_workers=self.jobs, thread_name_prefix="saeql-llm")
        try:
            futures: dict[Future[Answer], list[int]] = {
                pool.submit(self.complete, conversations[i[0]], forms[i[0]] if forms else FREE, **params): i
                for i in same.values()
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

    def _ask(self, messages: Sequence[Message], form: Form, params: Mapping[str, Any]) -> tuple[Completion, float]:
        """The answer and the cost of one paid request."""
        body = {**params, "model": self.model, "messages": [dict(message) for message in messages]}
        response = self._sent(body, self._optional.of(form, params), set())
        said = response.extensions.get(SAID)
        if said is None:
            begins = self._redacted(repr(response.content[:_DETAIL].decode("utf-8", "replace")))
            raise LLMError(f"{self.model} did not answer: what came is no JSON: {begins}", body=response.content)
        answer = completion(said)
        cost = (answer.prompt_tokens * self._prices[0] + answer.completion_tokens * self._prices[1]) / 1e6
        if answer.problem:
            problem = f"{self.model}: {self._redacted(answer.problem)}"
            paid_for = answer.prompt_tokens, answer.completion_tokens, cost
            raise LLMError(problem, paid_for, response.content, answer.asked, answer.text)
        return answer, cost

    def _sent(self, body: dict[str, Any], optional: dict[str, dict[str, Any]], left_out: set[str]) -> "httpx2.Response":
        """The response to a request with its optional parameters, or with those of them that are not refused."""
        import httpx2
        import openai

        whole_body = {key: value for part in (body, *optional.values()) for key, value in part.items()}
        try:
            response = self._connection().post("/chat/completions", body=whole_body, cast_to=httpx2.Response)
        except openai.APIStatusError as error:
            told = self._told(error)
            answered = error.response.extensions.get(ANSWERED, error.response.status_code)
            if refused := self._optional.refused(optional, answered, told):
                fewer = {name: part for name, part in optional.items() if name not in refused}
                return self._sent(body, fewer, left_out | refused)
            self._optional.failed(left_out)
            # `from None`, here and below: the original's text and request may hold the key.
            raise LLMError(f"{self.model} did not answer: {self._redacted(told)}") from None
        except (openai.OpenAIError, httpx2.HTTPError, ValueError, TypeError, RecursionError) as error:
            reason = self._redacted(f"{type(error).__name__}: {error}")
            raise LLMError(f"{self.model} did not answer: {reason}") from None
        self._optional.answered(optional, left_out)
        return response

    def _told(self, error: "openai.APIStatusError") -> str:
        """What an endpoint said in place of an answer."""
        response = error.response
        answered = response.extensions.get(ANSWERED, response.status_code)
        if 300 <= answered < 400:
            return f"Error code: {answered} - it sends on to another address, and nothing goes there: correct base_url"
        found = error_in(response.extensions.get(SAID), answered)
        reason = (found.reason if found else "") or whole(response.text.strip())
        if answered in (401, 403) and self._base_url and self._secrets and not self.permission().key:
            name = self.permission().endpoint.name
            reason += f" (OPENAI_API_KEY was not sent; to send it: saeql refresh --allow-endpoint {name})"
        code = f"Error code: {answered}" if answered >= 300 else "an error in place of an answer"
        return f"{type(error).__name__}: {code} - {reason}"

    def _connection(self) -> "openai.OpenAI":
        """Made at the first paid request, so that stored answers need neither a key nor a network."""
        import openai

        from scoring.client.rates import Pace
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
                sending = self._sending
                pace = Pace(sending.requests_per_minute, sending.tokens_per_minute)
                # A proxy has no business with what stays on this machine.
                exchange = Exchange(sending.timeout, pace, sending.jobs, proxies=not may.endpoint.loopback)
                self._openai = openai.OpenAI(
                    api_key=key or _PLACEHOLDER,
                    base_url=may.endpoint.url,
                    timeout=sending.timeout,
                    max_retries=sending.max_retries,
                    http_client=exchange,
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


def _answer(kept: StoredAnswer, *, stored: bool) -> Answer:
    tokens = kept.prompt_tokens, kept.completion_tokens
    return Answer(whole(kept.text), *tokens, stored=stored, cost=kept.cost, odds=odds_of(kept.odds))
