"""Asks an LLM, given a label alone, in which windows the feature fires (detection: Paulo et al. 2024, section 4)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from catalog.errors import InputError, SaeqlError
from scoring.client.budget import BudgetSpent
from scoring.client.chat import Answer, ChatClient
from scoring.prompts import parse, template
from scoring.prompts.numbered import message_digest, numbered_lines, paid
from scoring.windows import Judgement, Label


@dataclass(frozen=True)
class PredictSettings:
    """How the Predictor is asked."""

    batch: int = 5
    """Windows per request; the last request of a label may hold fewer."""
    template: str = "predictor"
    text: str | None = None
    """The template's own text, instead of `template`."""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"temperature": 0, "max_tokens": 200})

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InputError(f"batch is {self.batch}; it must be at least 1")


def predict_messages(
    claim: str, examples: Sequence[str | Sequence[str]], settings: PredictSettings
) -> list[tuple[list[dict[str, str]], list[int]]]:
    """(the Predictor's conversation, the indexes of the examples in it) of each request about one label."""
    prompt = template.chosen(settings.template, settings.text)
    texts = [example if isinstance(example, str) else "".join(example) for example in examples]
    order = _hash_order(claim, texts)
    asked = []
    for at in range(0, len(order), settings.batch):
        batch = order[at : at + settings.batch]
        numbered = numbered_lines("Example", [texts[j] for j in batch])
        values = {"explanation": template.one_line(claim), "examples": numbered, "n": str(len(batch))}
        asked.append((prompt.messages(values), batch))
    return asked


def predict(
    label: Label, examples: Sequence[str | Sequence[str]], settings: PredictSettings, client: ChatClient
) -> list[Judgement]:
    """One judgement per example, given as text or tokens, in the order given."""
    return next(judgements for _, judgements in predict_many([(label, examples)], settings, client))


def predict_many(
    tasks: Sequence[tuple[Label, Sequence[str | Sequence[str]]]], settings: PredictSettings, client: ChatClient
) -> Iterator[tuple[int, list[Judgement]]]:
    """(index, judgements) of each (label, examples), as each is complete.

    Examples are asked about in an order that follows from a hash of label and text: neither their side nor their
    place in the list shows. An answer that fails or is malformed costs its own batch alone: each of its examples
    gets predicted None and the problem. A label without text gives problems; one that the client's budget did not
    reach is left out.
    """
    results: dict[int, list[Judgement]] = {}
    requests: list[list[dict[str, str]]] = []
    places: list[tuple[int, list[int]]] = []
    waiting: dict[int, int] = {}
    for i, (label, examples) in enumerate(tasks):
        if label.text is None or not examples:
            problem = f"there is no label to predict from: {label.problem or 'it has no text'}"
            yield i, [Judgement(None, problem=problem) for _ in examples]
            continue
        asked = predict_messages(label.text, examples, settings)
        results[i] = [Judgement(None, problem="not asked")] * len(examples)
        waiting[i] = len(asked)
        requests += [messages for messages, _ in asked]
        places += [(i, batch) for _, batch in asked]
    for at, answer in client.complete_many(requests, **settings.parameters):
        i, batch = places[at]
        if isinstance(answer, BudgetSpent):
            results.pop(i, None)
        if i not in results:
            continue
        for j, judgement in zip(batch, _judgements(answer, len(batch)), strict=True):
            results[i][j] = judgement
        waiting[i] -= 1
        if not waiting[i]:
            yield i, results.pop(i)


def _judgements(answer: Answer | SaeqlError, n: int) -> list[Judgement]:
    """The judgements of one batch; its tokens and cost are divided among them."""
    predictions: list[bool | None] = [None] * n
    problem = None
    if isinstance(answer, Answer):
        try:
            predictions = list(parse.zero_one_list(answer.text, n))
        except parse.ParseProblem as error:
            problem = str(error)
    else:
        problem = str(answer)
    prompt, completion, cost = paid(answer)
    return [
        Judgement(predicted, None, problem, _share(prompt, i, n), _share(completion, i, n), cost / n)
        for i, predicted in enumerate(predictions)
    ]


def _hash_order(claim: str, texts: Sequence[str]) -> list[int]:
    """The texts' indexes in an order that depends on claim and texts alone."""
    keys = [message_digest([claim, text]) for text in texts]
    return sorted(range(len(texts)), key=keys.__getitem__)


def _share(total: int, i: int, n: int) -> int:
    return total // n + (i < total % n)
