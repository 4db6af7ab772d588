"""Writes answers with a causal language model of this process: greedy, batched by length, no prefix computed twice.

Conversations of one kind begin alike: instructions, examples, a label. What several begin with is read once, and the
cache of that is copied for each, never changed. Batches are padded on the left behind it, under a mask and with
explicit positions; models whose cache or forward pass cannot have that get batches of one length.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from inspect import signature
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from catalog.study.text import Model
from ingest.model.language_model import load_model
from scoring.client.answer import Form, Message, Odds
from scoring.client.chat_tokens import chat_tokens

_LEAST = 8
"""Tokens that a prefix has to have for its cache to be kept."""
_PER_NUMBER = 4
"""Tokens of a list for each of its numbers, at most."""
_CPU_TOKENS, _GPU_TOKENS = 1 << 13, 1 << 16
"""Tokens in the cache of a batch, prefixes included."""


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


@dataclass(frozen=True)
class _Row:
    """A conversation as tokens, with those that begin its answer."""

    ids: list[int]
    form: Form
    more: int
    """Tokens that its answer may have."""


@dataclass
class _State:
    """A batch that has been read so far."""

    cache: DynamicCache
    mask: Tensor
    """`[batch, read]`: 1, and 0 for padding."""
    position: Tensor
    """`[batch]`: of the next token."""
    logits: Tensor
    """`[batch, vocabulary]`, float32: of the next token."""


class LocalModel:
    """A loaded model. Raises InputError as `load_model` does."""

    def __init__(self, source: str) -> None:
        self._model = load_model(Model(name="local", source=source))
        self._network, self._tokenizer = self._model.network, self._model.tokenizer
        config = self._network.config.get_text_config()
        self._most = int(getattr(config, "max_position_embeddings", 0) or 1 << 30)
        takes = signature(self._network.forward).parameters
        self._keeps_last = "logits_to_keep" in takes
        self._takes_positions = "position_ids" in takes
        self._stops = _stops(self._network, self._tokenizer)
        self._shares, self._pads = self._caches()
        self.read_tokens = 0
        """Tokens that forward passes have read, padding left out."""

    def write(
        self, conversations: Sequence[Sequence[Message]], forms: Sequence[Form], limit: int
    ) -> Iterator[tuple[int, Written]]:
        """(index, answer) of each conversation, a batch at a time; `limit` is the most tokens of a free answer."""
        slots = {form: self._slots(form) if form.values else None for form in set(forms)}
        used: dict[int, int] = {}
        rows: dict[int, _Row] = {}
        for i, (messages, form) in enumerate(zip(conversations, forms, strict=True)):
            prompt = chat_tokens(self._tokenizer, messages, self._model.bos)
            more = limit if slots[form] is None else _PER_NUMBER * form.values
            row = _Row([*prompt, *self._opening(form, slots[form])], form, more)
            if len(row.ids) + (1 if slots[form] is None else more) > self._most:
                problem = f"the prompt has {len(prompt)} tokens, and the model reads at most {self._most}"
                yield i, Written("", (), 0, 0, problem)
                continue
            rows[i], used[i] = row, len(prompt)
        if not rows:
            return
        for batch, state in self._below(rows, sorted(rows, key=lambda i: rows[i].ids), 0, None):
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

    def _below(
        self, rows: dict[int, _Row], keys: list[int], depth: int, cache: DynamicCache | None
    ) -> Iterator[tuple[list[int], _State]]:
        """(keys, state) of batches of one form, each row read to its end.

        `keys` are sorted by their rows, whose first `depth` tokens are alike and in the cache.
        """
        first, last = rows[keys[0]].ids, rows[keys[-1]].ids
        common = _alike(first, last, min(len(rows[key].ids) for key in keys) - 1)
        if self._shares and len(keys) > 1 and common - depth >= _LEAST:
            cache = self._step(self._begun(cache, 1, depth), torch.tensor([first[depth:common]])).cache
            depth = common
        alone: list[int] = []
        for _, group in groupby(keys, key=lambda key: rows[key].ids[depth : depth + _LEAST]):
            near = list(group)
            if self._shares and 1 < len(near) < len(keys) and min(len(rows[k].ids) for k in near) > depth + _LEAST:
                yield from self._below(rows, near, depth, cache)
            else:
                alone += near
        alone.sort(
            key=lambda key: (rows[key].form.values, rows[key].form.choices, rows[key].form.line, len(rows[key].ids))
        )
        while alone:
            batch = self._batch(rows, alone)
            alone = alone[len(batch) :]
            fresh = _padded([rows[key].ids[depth:] for key in batch])
            yield batch, self._step(self._begun(cache, len(batch), depth), *fresh)

    def _batch(self, rows: dict[int, _Row], keys: list[int]) -> list[int]:
        """The first of the keys, which are sorted by form and length, that fit into one batch."""
        most = _GPU_TOKENS if self._model.device.type == "cuda" else _CPU_TOKENS
        first, n = rows[keys[0]], 1
        while n < len(keys) and not self._model.layout.alone:
            row = rows[keys[n]]
            fits = (n + 1) * (len(row.ids) + row.more) <= most and row.form == first.form
            if not fits or (not self._pads and len(row.ids) != len(first.ids)):
                break
            n += 1
        return keys[:n]

    def _begun(self, cache: DynamicCache | None, n: int, depth: int) -> _State:
        """`n` rows that have read what the cache holds; the cache stays as it is."""
        mask = torch.ones(n, depth, dtype=torch.long)
        copied = DynamicCache(config=self._network.config) if cache is None else _copied(cache, n)
        return _State(copied, mask, torch.full((n,), depth), torch.empty(0))

    @torch.inference_mode()
    def _step(self, state: _State, ids: Tensor, real: Tensor | None = None) -> _State:
        """The state after `ids` `[batch, seq]` as well, of which `real` marks those that are no padding."""
        real = torch.ones_like(ids) if real is None else real
        mask = torch.cat([state.mask, real], dim=1)
        position = state.position[:, None] + (real.cumsum(1) - 1).clamp(min=0)
        more: dict[str, Any] = {"position_ids": position.to(self._model.device)} if self._takes_positions else {}
        if self._keeps_last:
            more["logits_to_keep"] = 1
        if not bool(mask.all()):
            more["attention_mask"] = mask.to(self._model.device)
        out = self._network(ids.to(self._model.device), past_key_values=state.cache, use_cache=True, **more)
        self.read_tokens += int(real.sum())
        return _State(out.past_key_values, mask, state.position + real.sum(1), out.logits[:, -1].float().cpu())

    def _list(self, state: _State, slots: _Slots, form: Form, used: list[int]) -> list[Written]:
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
                state = self._step(state, torch.tensor(following))
        tokens_each = sum(map(len, slots.fixed)) + form.values
        return [
            Written(text + "]", tuple(found), n, tokens_each) for text, found, n in zip(texts, odds, used, strict=True)
        ]

    def _text(self, state: _State, form: Form, used: list[int], limit: int) -> list[Written]:
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
                    text = self._tokenizer.decode(ids[row][: -1 if ended else None], skip_special_tokens=True)
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
                state = _chosen(state, stay) if len(stay) < len(rows) else state
                state = self._step(state, torch.tensor([[best[at]] for at in stay]))
            rows = [rows[at] for at in stay]
        return [done[row] for row in range(len(used))]

    def _caches(self) -> tuple[bool, bool]:
        """(whether prefixes can be shared, whether rows can be padded) with this model's cache."""
        ids = self._model.layout.trial[:, :4]
        cache = DynamicCache(config=self._network.config)
        with torch.inference_mode():
            out = self._network(ids.to(self._model.device), past_key_values=cache, use_cache=True)
        kinds = {type(layer) for layer in getattr(getattr(out, "past_key_values", None), "layers", [])}
        shares = bool(kinds) and kinds <= {DynamicLayer, DynamicSlidingWindowLayer}
        return shares, kinds == {DynamicLayer} and self._takes_positions


def _copied(cache: DynamicCache, n: int) -> DynamicCache:
    """A cache of `n` rows like the one row of this: tensors of either are replaced, never written to."""
    made = copy(cache)
    made.layers = [copy(layer) for layer in cache.layers]
    if n > 1:
        made.batch_repeat_interleave(n)
    return made


def _chosen(state: _State, rows: list[int]) -> _State:
    """Those rows alone."""
    index = torch.tensor(rows)
    state.cache.batch_select_indices(index.to(state.cache.layers[0].keys.device))
    return _State(state.cache, state.mask[index], state.position[index], state.logits[index])


def _padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """(ids, 1 where they are real) `[batch, longest]`, padded on the left with 0."""
    longest = max(map(len, rows))
    ids, real = torch.zeros(len(rows), longest, dtype=torch.long), torch.zeros(len(rows), longest, dtype=torch.long)
    for row, tokens in enumerate(rows):
        ids[row, longest - len(tokens) :] = torch.tensor(tokens)
        real[row, longest - len(tokens) :] = 1
    return ids, real


def _alike(first: list[int], last: list[int], most: int) -> int:
    """How many tokens two rows begin with in common, at most `most`; of sorted rows, all between have them too."""
    return next((i for i in range(most) if first[i] != last[i]), most)


def _stops(network: Any, tokenizer: Any) -> set[int]:
    """Tokens that end an answer."""
    said = [getattr(getattr(network, "generation_config", None), "eos_token_id", None), tokenizer.eos_token_id]
    found = {token for ids in said for token in (ids if isinstance(ids, list | tuple) else [ids])}
    return {int(token) for token in found if token is not None}
