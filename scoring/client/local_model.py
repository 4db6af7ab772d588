"""Writes answers with a causal language model of this process: greedy, in batches that `prefix_reader` reads."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from catalog.study.text import Model
from ingest.model.language_model import load_model
from scoring.client.chat_tokens import chat_tokens
from scoring.client.language_client import Form, Message, Odds
from scoring.client.prefix_reader import PrefixReader, Row, State

_PER_NUMBER = 4
"""Tokens of a list for each of its numbers, at most."""


@dataclass(frozen=True)
class Written:
    """An answer, or the problem that there is none; `text` is then what had been written."""

    text: str
    odds: Odds
    prompt_tokens: int
    completion_tokens: int
    problem: str | None = None


@dataclass(frozen=True)
class _Slots:
    """A list of numbers as tokens: those that stand in every such list, and the places where a number stands."""

    fixed: tuple[tuple[int, ...], ...]
    """Tokens before each number, and those after the last."""
    numbers: tuple[tuple[int, ...], ...]
    """At each place, the token of each choice."""


class LocalModel:
    """A loaded model. Raises InputError as `load_model` does."""

    def __init__(self, source: str) -> None:
        self._model = load_model(Model(name="local", source=source))
        self._network, self._tokenizer = self._model.network, self._model.tokenizer
        config = self._network.config.get_text_config()
        self._most = int(getattr(config, "max_position_embeddings", 0) or 1 << 30)
        self._stops = _stops(self._network, self._tokenizer)
        self._reader = PrefixReader(self._model)

    def write(
        self, conversations: Sequence[Sequence[Message]], forms: Sequence[Form], limit: int
    ) -> Iterator[tuple[int, Written]]:
        """(index, answer) of each conversation, a batch at a time; `limit` is the most tokens of a free answer."""
        slots = {form: self._slots(form) if form.values else None for form in set(forms)}
        used: dict[int, int] = {}
        rows: dict[int, Row] = {}
        for i, (messages, form) in enumerate(zip(conversations, forms, strict=True)):
            prompt = chat_tokens(self._tokenizer, messages, self._model.bos)
            more = limit if slots[form] is None else _PER_NUMBER * form.values
            row = Row([*prompt, *self._opening(form, slots[form])], form, more)
            if len(row.ids) + (1 if slots[form] is None else more) > self._most:
                problem = f"the prompt has {len(prompt)} tokens, and the model reads at most {self._most}"
                yield i, Written("", (), 0, 0, problem)
                continue
            rows[i], used[i] = row, len(prompt)
        for batch, state in self._reader.read(rows):
            form, lengths = rows[batch[0]].form, [used[i] for i in batch]
            found = slots[form]
            written = self._list(state, found, form, lengths) if found else self._text(state, form, lengths, limit)
            yield from zip(batch, written, strict=True)

    def _opening(self, form: Form, slots: _Slots | None) -> Sequence[int]:
        """Tokens with which every answer of a form begins."""
        if slots is not None:
            return slots.fixed[0]
        return self._encoded(form.line) if form.line else ()

    def _encoded(self, text: str) -> list[int]:
        found: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def _slots(self, form: Form) -> _Slots | None:
        """None if the tokenizer does not write such lists with one token a number; the answer is free then."""
        lists = [self._encoded(f"[{', '.join([choice] * form.values)}]") for choice in form.choices]
        if len({len(ids) for ids in lists}) != 1:
            return None
        fixed: list[tuple[int, ...]] = []
        numbers: list[tuple[int, ...]] = []
        between: list[int] = []
        for tokens in zip(*lists, strict=True):
            if len(set(tokens)) == 1:
                between.append(tokens[0])
                continue
            fixed.append(tuple(between))
            numbers.append(tokens)
            between = []
        if (
            len(numbers) != form.values
            or len(lists[0]) > _PER_NUMBER * form.values + 2
            or any(len(set(tokens)) != len(tokens) for tokens in numbers)
        ):
            return None
        return _Slots((*fixed, tuple(between)), tuple(numbers))

    def _list(self, state: State, slots: _Slots, form: Form, used: list[int]) -> list[Written]:
        """Lists of numbers: at each place the likeliest choice, and the probability of each among all tokens."""
        texts, odds = ["["] * len(used), [list[tuple[int, dict[str, float]]]() for _ in used]
        for place, tokens in enumerate(slots.numbers):
            chances = state.logits.softmax(1)[:, list(tokens)]
            best = chances.argmax(1).tolist()
            for row, choice in enumerate(best):
                texts[row] += (", " if place else "") + form.choices[choice]
                odds[row].append((len(texts[row]), dict(zip(form.choices, chances[row].tolist(), strict=True))))
            if place + 1 < form.values:
                following = [[tokens[choice], *slots.fixed[place + 1]] for choice in best]
                state = self._reader.step(state, torch.tensor(following))
        tokens_each = sum(map(len, slots.fixed)) + form.values
        return [
            Written(text + "]", tuple(found), n, tokens_each) for text, found, n in zip(texts, odds, used, strict=True)
        ]

    def _text(self, state: State, form: Form, used: list[int], limit: int) -> list[Written]:
        """Free text, or one line, up to where the model ends it."""
        ids = [list[int]() for _ in used]
        done: dict[int, Written] = {}
        rows = list(range(len(used)))
        while rows:
            best = state.logits.argmax(1).tolist()
            stay: list[int] = []
            for at, (row, token) in enumerate(zip(rows, best, strict=True)):
                ids[row].append(token)
                ended = token in self._stops
                full = len(ids[row]) >= limit or used[row] + len(ids[row]) + 1 >= self._most
                text = ""
                if form.line or ended or full:
                    text = str(self._tokenizer.decode(ids[row][: -1 if ended else None], skip_special_tokens=True))
                if form.line:
                    ended = ended or "\n" in text.lstrip()
                    text = form.line + (text.lstrip().partition("\n")[0] if text.strip() else "")
                if not ended and not full:
                    stay.append(at)
                    continue
                problem = None if ended else f"the answer was cut off after {len(ids[row])} tokens"
                problem = problem or (None if text.strip() else "the answer is empty")
                done[row] = Written(text, (), used[row], len(ids[row]), problem)
            if stay:
                state = self._reader.chosen(state, stay) if len(stay) < len(rows) else state
                state = self._reader.step(state, torch.tensor([[best[at]] for at in stay]))
            rows = [rows[at] for at in stay]
        return [done[row] for row in range(len(used))]


def _stops(network: Any, tokenizer: Any) -> set[int]:
    """Tokens that end an answer."""
    said = [getattr(getattr(network, "generation_config", None), "eos_token_id", None), tokenizer.eos_token_id]
    found = {token for ids in said for token in (ids if isinstance(ids, list | tuple) else [ids])}
    return {int(token) for token in found if token is not None}
