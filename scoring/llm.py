"""The Interpreter and the Predictor: an LLM explains a feature, an LLM tells from the explanation where it fires.

The protocol of the references: the Interpreter sees highlighted train windows, the Predictor an explanation and
windows without activations, and answers a list of 0 and 1 (detection; Paulo et al. 2024, arXiv:2410.13928;
Muhamed et al. 2024, section 3.5 and appendix F). Every failure is a problem on its label or its judgements.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Literal

from catalog.errors import InputError, SaeqlError
from scoring import parse, templates
from scoring.client import Answer, ChatClient, LLMError
from scoring.examples import Example, Judgement, Label, train_examples

MOST_EXAMPLES = 40


@dataclass(frozen=True)
class ExplainSettings:
    """What the Interpreter is shown and asked for."""

    n_examples: int = 10
    """Activating windows shown, at most 40."""
    sampling: Literal["top", "stratified"] = "top"
    """The strongest windows, or the strata in turn, each from its strongest down."""
    n_inactive: int = 0
    """Non-activating windows shown as counterexamples, in the order given."""
    min_words: int | None = 8
    max_words: int | None = 15
    instructions: str = ""
    """Subject-specific instructions, put at the end of the system prompt."""
    template: str = "interpreter"
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"temperature": 0, "max_tokens": 1000})
    """Sent with each request as they are."""

    def __post_init__(self) -> None:
        if not 1 <= self.n_examples <= MOST_EXAMPLES:
            raise InputError(f"n_examples is {self.n_examples}; it lies between 1 and {MOST_EXAMPLES}")
        if self.sampling not in ("top", "stratified"):
            raise InputError(f"sampling is {self.sampling!r}; known: 'top', 'stratified'")
        if self.n_inactive < 0:
            raise InputError(f"n_inactive is {self.n_inactive}; it cannot be negative")
        if (self.min_words or 0) > (self.max_words or self.min_words or 0):
            raise InputError(f"min_words {self.min_words} is above max_words {self.max_words}")


@dataclass(frozen=True)
class PredictSettings:
    """How the Predictor is asked."""

    batch: int = 5
    """Windows per request; the last request of a label may hold fewer."""
    template: str = "predictor"
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"temperature": 0, "max_tokens": 200})

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InputError(f"batch is {self.batch}; it must be at least 1")


def explain(
    active: Sequence[Example], inactive: Sequence[Example], settings: ExplainSettings, client: ChatClient
) -> Label:
    """The Interpreter's label from train windows; a failed or malformed answer gives a label with a problem.

    Raises InputError if an example is not from the train split or stands on the wrong side.
    """
    return next(label for _, label in explain_many([(active, inactive)], settings, client))


def explain_many(
    features: Sequence[tuple[Sequence[Example], Sequence[Example]]], settings: ExplainSettings, client: ChatClient
) -> Iterator[tuple[int, Label]]:
    """(index, label) of each feature's (activating, non-activating) windows, in the order of arrival.

    `details["shown"]` lists the (corpus, start) of the windows that the Interpreter saw.
    """
    prompt = templates.load(settings.template)
    asked: dict[int, list[dict[str, str]]] = {}
    shown: dict[int, list[tuple[str, int]]] = {}
    for i, sides in enumerate(features):
        active, inactive = train_examples(*sides)
        if not active:
            yield i, Label(None, problem="there are no activating windows to explain", model=client.model)
            continue
        windows, others = shown_examples(active, settings), inactive[: settings.n_inactive]
        shown[i] = [(example.corpus, example.start) for example in (*windows, *others)]
        asked[i] = prompt.messages(
            {
                "constraints": _constraints(settings),
                "instructions": settings.instructions,
                "examples": "\n".join(
                    (
                        _numbered("Example", [example.highlighted() for example in windows]),
                        *([_numbered("Counterexample", [example.highlighted() for example in others])] * bool(others)),
                    )
                ),
            }
        )
    order = list(asked)
    for at, answer in client.complete_many([asked[i] for i in order], **settings.parameters):
        i = order[at]
        yield i, _label(answer, settings, client.model, _hash(asked[i]), shown[i])


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
    gets predicted None and the problem. A label without text gives problems.
    """
    prompt = templates.load(settings.template)
    results: dict[int, list[Judgement]] = {}
    requests: list[list[dict[str, str]]] = []
    places: list[tuple[int, list[int]]] = []
    waiting: dict[int, int] = {}
    for i, (label, examples) in enumerate(tasks):
        texts = [example if isinstance(example, str) else "".join(example) for example in examples]
        if label.text is None or not texts:
            problem = f"there is no label to predict from: {label.problem or 'it has no text'}"
            yield i, [Judgement(None, problem=problem) for _ in texts]
            continue
        claim = label.text
        order = _hash_order(claim, texts)
        batches = [order[at : at + settings.batch] for at in range(0, len(order), settings.batch)]
        results[i] = [Judgement(None, problem="not asked")] * len(texts)
        waiting[i] = len(batches)
        for batch in batches:
            numbered = _numbered("Example", [texts[j] for j in batch])
            values = {"explanation": templates.one_line(claim), "examples": numbered, "n": str(len(batch))}
            requests.append(prompt.messages(values))
            places.append((i, batch))
    for at, answer in client.complete_many(requests, **settings.parameters):
        i, batch = places[at]
        for j, judgement in zip(batch, _judgements(answer, len(batch)), strict=True):
            results[i][j] = judgement
        waiting[i] -= 1
        if not waiting[i]:
            yield i, results.pop(i)


def shown_examples(active: Sequence[Example], settings: ExplainSettings) -> list[Example]:
    """The windows that the Interpreter sees: ties in activation are broken by corpus and position."""
    ranked = sorted(active, key=lambda e: (-e.top, e.corpus, e.start))
    if settings.sampling == "stratified":
        strata: dict[int, list[Example]] = {}
        for example in ranked:
            if example.stratum is None:
                raise InputError(
                    f"stratified sampling, but the example at {example.corpus}:{example.start} has no stratum"
                )
            strata.setdefault(example.stratum, []).append(example)
        turns = zip_longest(*(strata[key] for key in sorted(strata, reverse=True)))
        ranked = [example for turn in turns for example in turn if example is not None]
    return ranked[: settings.n_examples]


def _label(
    answer: Answer | SaeqlError, settings: ExplainSettings, model: str, prompt_hash: str, shown: list[tuple[str, int]]
) -> Label:
    prompt_tokens, completion_tokens, cost = _paid(answer)
    details: dict[str, Any] = {"shown": shown}
    text, problem, kept = None, None, True
    if isinstance(answer, Answer):
        details["answer"] = answer.text
        try:
            text = parse.explanation(answer.text)
            kept = parse.keeps_word_limits(text, settings.min_words, settings.max_words)
            details["words"] = len(text.split())
        except parse.ParseProblem as error:
            problem = str(error)
    else:
        problem = str(answer)
    return Label(text, details, problem, kept, prompt_hash, model, prompt_tokens, completion_tokens, cost)


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
    prompt, completion, cost = _paid(answer)
    return [
        Judgement(predicted, None, problem, _share(prompt, i, n), _share(completion, i, n), cost / n)
        for i, predicted in enumerate(predictions)
    ]


def _hash_order(claim: str, texts: Sequence[str]) -> list[int]:
    """The texts' indexes in an order that depends on claim and texts alone."""
    keys = [_hash([claim, text]) for text in texts]
    return sorted(range(len(texts)), key=keys.__getitem__)


def _paid(answer: Answer | SaeqlError) -> tuple[int, int, float]:
    if isinstance(answer, Answer | LLMError):
        return answer.prompt_tokens, answer.completion_tokens, answer.cost
    return 0, 0, 0.0


def _share(total: int, i: int, n: int) -> int:
    return total // n + (i < total % n)


def _numbered(heading: str, texts: Sequence[str]) -> str:
    return "\n".join(f"{heading} {i}: {templates.one_line(text)}" for i, text in enumerate(texts, 1))


def _constraints(settings: ExplainSettings) -> str:
    least, most = settings.min_words, settings.max_words
    if least is None and most is None:
        return "- Keep the claim to one concise sentence."
    limits = f"{least} to {most}" if least and most else f"at least {least}" if least else f"at most {most}"
    return f"- The claim has {limits} words and names concrete objects and relations."


def _hash(value: object) -> str:
    return "blake2b:" + hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()
