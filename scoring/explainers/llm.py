"""Asks an LLM, the Interpreter, what a feature fires on.

The protocol of the references: the Interpreter sees highlighted train windows, the Predictor an explanation and
windows without activations, and answers a list of 0 and 1 (detection; Paulo et al. 2024, arXiv:2410.13928;
Muhamed et al. 2024, section 3.5 and appendix F). Every failure is a problem on its label or its judgements.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Literal

from catalog.errors import InputError, SaeqlError
from scoring.client.budget import BudgetSpent
from scoring.client.language_client import Answer, Client, Form
from scoring.prompts import parse, template
from scoring.prompts.numbered import message_digest, numbered_lines, paid
from scoring.windows import Example, Label, train_examples

MOST_EXAMPLES = 40
_UPPER = 3
"""Windows of the upper half of the strata for each one of the lower half: the weakest firings are mostly noise."""


@dataclass(frozen=True)
class ExplainSettings:
    """What the Interpreter is shown and asked for."""

    n_examples: int = 10
    """Activating windows shown, at most 40."""
    sampling: Literal["top", "stratified"] = "top"
    """The strongest windows; or the strata in turn, each from its strongest down, three of four from the upper half."""
    n_inactive: int = 0
    """Non-activating windows shown as counterexamples, in the order given."""
    min_words: int | None = 8
    max_words: int | None = 15
    instructions: str = ""
    """Subject-specific instructions, put at the end of the system prompt."""
    template: str = "interpreter"
    """A packaged template, or the path of one."""
    text: str | None = None
    """The template's own text, instead of `template`."""
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


def explain(active: Sequence[Example], inactive: Sequence[Example], settings: ExplainSettings, client: Client) -> Label:
    """The Interpreter's label from train windows; a failed or malformed answer gives a label with a problem.

    Raises InputError if an example is not from the train split or stands on the wrong side.
    """
    return next(label for _, label in explain_many([(active, inactive)], settings, client))


def explain_many(
    features: Sequence[tuple[Sequence[Example], Sequence[Example]]], settings: ExplainSettings, client: Client
) -> Iterator[tuple[int, Label]]:
    """(index, label) of each feature's (activating, non-activating) windows, in the order of arrival.

    A feature that the client's budget did not reach is left out.
    `details["shown"]` lists the (corpus, start) of the windows that the Interpreter saw.
    """
    asked: dict[int, list[dict[str, str]]] = {}
    shown: dict[int, list[tuple[str, int]]] = {}
    for i, sides in enumerate(features):
        if not sides[0]:
            yield i, Label(None, problem="there are no activating windows to explain", model=client.model)
            continue
        asked[i], shown[i] = explain_messages(*sides, settings)
    order = list(asked)
    forms = [Form(line=parse.MARKER)] * len(order)
    for at, answer in client.complete_many([asked[i] for i in order], forms, **settings.parameters):
        i = order[at]
        if isinstance(answer, BudgetSpent):
            continue
        yield i, _label(answer, settings, client.model, message_digest(asked[i]), shown[i])


def explain_messages(
    active: Sequence[Example], inactive: Sequence[Example], settings: ExplainSettings
) -> tuple[list[dict[str, str]], list[tuple[str, int]]]:
    """(the Interpreter's conversation, the (corpus, start) of the windows in it). Raises InputError as `explain`."""
    active, inactive = train_examples(active, inactive)
    windows, others = shown_examples(active, settings), inactive[: settings.n_inactive]
    examples = [numbered_lines("Example", [_shown(example) for example in windows])]
    if others:
        examples.append(numbered_lines("Counterexample", [example.highlighted() for example in others]))
    values = {
        "constraints": _constraints(settings),
        "instructions": settings.instructions,
        "examples": "\n".join(examples),
    }
    prompt = template.chosen(settings.template, settings.text)
    return prompt.messages(values), [(example.corpus, example.start) for example in (*windows, *others)]


def shown_examples(active: Sequence[Example], settings: ExplainSettings) -> list[Example]:
    """The windows that the Interpreter sees; of equal activations the one that was given first."""
    ranked = sorted(active, key=lambda e: -e.top)
    if settings.sampling == "stratified":
        strata: dict[int, list[Example]] = {}
        for example in ranked:
            if example.stratum is None:
                raise InputError(
                    f"stratified sampling, but the example at {example.corpus}:{example.start} has no stratum"
                )
            strata.setdefault(example.stratum, []).append(example)
        order = sorted(strata, reverse=True)
        middle = (len(order) + 1) // 2
        upper, lower = (_in_turn([strata[key] for key in half]) for half in (order[:middle], order[middle:]))
        ranked = []
        while upper or lower:
            ranked += upper[:_UPPER] + lower[:1]
            upper, lower = upper[_UPPER:], lower[1:]
    return ranked[: settings.n_examples]


def _in_turn(strata: list[list[Example]]) -> list[Example]:
    return [example for turn in zip_longest(*strata) for example in turn if example is not None]


def _shown(example: Example) -> str:
    """The text with its marks, and behind it how strong each marked token is."""
    said = ", ".join(f"{json.dumps(token, ensure_ascii=False)} {n}" for token, n in example.strengths())
    return example.highlighted() + (f"   (strengths: {said})" if said else "")


def _label(
    answer: Answer | SaeqlError, settings: ExplainSettings, model: str, prompt_hash: str, shown: list[tuple[str, int]]
) -> Label:
    prompt_tokens, completion_tokens, cost = paid(answer)
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


def _constraints(settings: ExplainSettings) -> str:
    least, most = settings.min_words, settings.max_words
    if least is None and most is None:
        return "- Keep the claim to one concise sentence."
    limits = f"{least} to {most}" if least and most else f"at least {least}" if least else f"at most {most}"
    return f"- The claim has {limits} words and names concrete objects and relations."
