"""Asks an LLM, given a label alone, in which windows the feature fires (detection: Paulo et al. 2024, section 4)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from catalog.errors import InputError, SaeqlError
from scoring.client.budget import BudgetSpent
from scoring.client.language_client import Answer, Client, Form, LLMError
from scoring.client.token_odds import share_of
from scoring.prompts import parse, template
from scoring.prompts.correction import corrected
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
    label: Label, examples: Sequence[str | Sequence[str]], settings: PredictSettings, client: Client
) -> list[Judgement]:
    """One judgement per example, given as text or tokens, in the order given."""
    return next(judgements for _, judgements in predict_many([(label, examples)], settings, client))


def predict_many(
    tasks: Sequence[tuple[Label, Sequence[str | Sequence[str]]]], settings: PredictSettings, client: Client
) -> Iterator[tuple[int, list[Judgement]]]:
    """(index, judgements) of each (label, examples), as each is complete.

    Examples are asked about in an order that follows from a hash of label and text: neither their side nor their
    place in the list shows. An answer that fails or is malformed costs its own batch alone. If it can be read in part,
    because it was cut off, the others are asked about once more, and if it cannot, all of them; each example that has
    no value then gets predicted None and the problem. A label without text gives problems; one that the client's
    budget did not reach is left out. A probability is that of 1 among 0 and 1 at its place in the answer (Paulo et al.
    2024), None where the endpoint gives none.
    """
    results: dict[int, list[Judgement]] = {}
    waiting: dict[int, int] = {}
    batches: list[_Batch] = []
    for i, (label, examples) in enumerate(tasks):
        if label.text is None or not examples:
            problem = f"there is no label to predict from: {label.problem or 'it has no text'}"
            yield i, [Judgement(None, problem=problem) for _ in examples]
            continue
        asked = predict_messages(label.text, examples, settings)
        results[i] = [Judgement(None, problem="not asked")] * len(examples)
        waiting[i] = len(asked)
        batches += [_Batch(i, messages, places) for messages, places in asked]
    while batches:
        again: list[_Batch] = []
        forms = [Form(values=len(batch.places)) for batch in batches]
        for at, answer in client.complete_many([b.messages for b in batches], forms, **settings.parameters):
            batch = batches[at]
            if isinstance(answer, BudgetSpent):
                results.pop(batch.task, None)
            if batch.task not in results:
                continue
            found, more = _judgements(answer, batch, tasks[batch.task], settings)
            for j, judgement in zip(batch.places, found, strict=True):
                results[batch.task][j] = _together(results[batch.task][j], judgement) if batch.again else judgement
            again += more
            waiting[batch.task] += len(more) - 1
            if not waiting[batch.task]:
                yield batch.task, results.pop(batch.task)
        batches = [batch for batch in again if batch.task in results]


@dataclass(frozen=True)
class _Batch:
    """One request."""

    task: int
    messages: list[dict[str, str]]
    places: list[int]
    """Indexes of its examples among those of the task."""
    again: bool = False
    """Whether these examples were asked about before."""


def _judgements(
    answer: Answer | SaeqlError,
    batch: _Batch,
    task: tuple[Label, Sequence[str | Sequence[str]]],
    settings: PredictSettings,
) -> tuple[list[Judgement], list[_Batch]]:
    """(the judgements of one batch, what is to be asked once more); tokens and cost are divided among them."""
    n = len(batch.places)
    predictions: list[bool | None] = [None] * n
    probabilities: list[float | None] = [None] * n
    problem: str | None = None
    more: list[_Batch] = []
    if isinstance(answer, Answer):
        try:
            predictions = list(parse.zero_one_list(answer.text, n))
            probabilities = _probabilities(answer, predictions)
        except parse.ParseProblem as error:
            problem = str(error)
            known = parse.begun_list(answer.text)[:n]
            predictions = [*known, *predictions[len(known) :]]
            if not known and not batch.again and error.ended:
                messages = corrected(batch.messages, answer.text, error.reason, n)
                more = [_Batch(batch.task, messages, batch.places, again=True)]
    else:
        problem = str(answer)
        known = parse.begun_list(answer.begun)[:n] if isinstance(answer, LLMError) else []
        predictions = [*known, *predictions[len(known) :]]
    left = [place for place, value in zip(batch.places, predictions, strict=True) if value is None]
    if 0 < len(left) < n and not batch.again:
        label, examples = task
        asked = predict_messages(str(label.text), [examples[j] for j in left], replace(settings, batch=len(left)))
        more = [_Batch(batch.task, messages, [left[j] for j in order], again=True) for messages, order in asked]
    prompt, completion, cost = paid(answer)
    return [
        Judgement(
            value, p, problem if value is None else None, _share(prompt, i, n), _share(completion, i, n), cost / n
        )
        for i, (value, p) in enumerate(zip(predictions, probabilities, strict=True))
    ], more


def _probabilities(answer: Answer, predictions: Sequence[bool | None]) -> list[float | None]:
    """Of each value its probability of being 1; None for all if the log-probabilities are not of this list."""
    place = parse.list_place(answer.text)
    inside = [odds for end, odds in answer.odds if end - 1 in place]
    if len(inside) != len(predictions):
        return [None] * len(predictions)
    return [share_of(odds, "1", ("0", "1")) for odds in inside]


def _together(before: Judgement, after: Judgement) -> Judgement:
    """The second judgement of an example, with what both have cost."""
    problem = after.problem and f"asked twice: {after.problem}"
    tokens = before.prompt_tokens + after.prompt_tokens, before.completion_tokens + after.completion_tokens
    return Judgement(after.predicted, after.probability, problem, *tokens, before.cost + after.cost)


def _hash_order(claim: str, texts: Sequence[str]) -> list[int]:
    """The texts' indexes in an order that depends on claim and texts alone."""
    keys = [message_digest([claim, text]) for text in texts]
    return sorted(range(len(texts)), key=keys.__getitem__)


def _share(total: int, i: int, n: int) -> int:
    return total // n + (i < total % n)
