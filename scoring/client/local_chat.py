"""Asks a causal language model of this process, and stores its answers as those of an endpoint are stored.

A call costs no money; calls and tokens are counted. The model is loaded at the first question that has no stored
answer, so that stored ones need no torch.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from catalog.answers import Answers, canonical_request, request_key
from catalog.errors import InputError, SaeqlError
from scoring.client.budget import Budget, BudgetSpent
from scoring.client.language_client import FREE, Answer, Form, LLMError, Message, Spent
from scoring.client.local_name import local_name
from scoring.client.token_odds import odds_json, odds_of

if TYPE_CHECKING:
    from scoring.client.local_model import LocalModel, Written

_LIMIT = 1000
"""Tokens of an answer, where a request sets no limit."""


class LocalChat:
    """Asks one model, named as `source` of a study's [model]: "smollm2", a folder, a GGUF file, a hub id.

    Answers are greedy: the likeliest token at each place. A list of numbers is written by the model itself as far as
    the numbers go, and for it alone; so its probabilities are exact, and it never has another length.
    """

    def __init__(self, model: str, *, answers: Answers, budget: Budget | None = None) -> None:
        self.model = model
        self.spent = Spent()
        self.notes: list[str] = []
        self._answers, self._budget = answers, budget or Budget()

    def complete_many(
        self, conversations: Sequence[Sequence[Message]], forms: Sequence[Form] | None = None, **params: Any
    ) -> Iterator[tuple[int, Answer | SaeqlError]]:
        """(index, answer or error) of each conversation, as `Client` says: stored ones first.

        Raises InputError if the model cannot be loaded, or if a sampler's temperature is asked for.
        """
        if params.get("temperature"):
            raise InputError(f"temperature {params['temperature']}: a model of this process takes the likeliest token")
        name = local_name(self.model)
        requests = [canonical_request(name, params, messages) for messages in conversations]
        same: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            same.setdefault(request_key(request), []).append(i)
        left: list[list[int]] = []
        for places in same.values():
            known = self._answers.get(requests[places[0]])
            if known is None:
                left.append(places)
                continue
            self.spent.stored += 1
            used = known.prompt_tokens, known.completion_tokens
            yield from ((i, Answer(known.text, *used, True, known.cost, odds_of(known.odds))) for i in places)
        asked: list[list[int]] = []
        for places in left:
            try:
                self._budget.take(0.0)
            except BudgetSpent as error:
                yield from ((i, error) for i in places)
                continue
            self._budget.settle(0.0)
            asked.append(places)
        if not asked:
            return
        limit = int(params.get("max_completion_tokens") or params.get("max_tokens") or _LIMIT)
        firsts = [places[0] for places in asked]
        chosen = [forms[i] if forms else FREE for i in firsts]
        for at, written in loaded(self.model).write([conversations[i] for i in firsts], chosen, limit):
            result = self._kept(requests[firsts[at]], written)
            yield from ((i, result) for i in asked[at])

    def _kept(self, request: str, written: "Written") -> Answer | LLMError:
        """The answer, stored, or why there is none."""
        prompt, completion = written.prompt_tokens, written.completion_tokens
        self.spent.paid += prompt > 0
        self.spent.prompt_tokens += prompt
        self.spent.completion_tokens += completion
        if written.problem is not None:
            self.spent.failed += 1
            reason, used = f"{self.model}: {written.problem}", (prompt, completion, 0.0)
            return LLMError(reason, used, paid=prompt > 0, begun=written.text)
        used_tokens = {"prompt_tokens": prompt, "completion_tokens": completion}
        kept = self._answers.put(request, written.text, **used_tokens, odds=odds_json(written.odds))
        tokens = kept.prompt_tokens, kept.completion_tokens
        return Answer(kept.text, *tokens, stored=False, cost=kept.cost, odds=odds_of(kept.odds))


@lru_cache(maxsize=1)
def loaded(source: str) -> "LocalModel":
    """The model, which explainers and scorers of one refresh share. Raises InputError as `load_model` does."""
    from scoring.client.local_model import LocalModel

    return LocalModel(source)
