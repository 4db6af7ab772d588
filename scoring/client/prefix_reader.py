"""Reads rows of tokens by a causal language model, in batches of like length, and no prefix of several rows twice.

What several rows begin with is read once, and the cache of that is copied for each, never changed. Batches are padded
on the left behind it, under a mask and with explicit positions; models whose cache or forward pass cannot have that get
batches of one length.
"""

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from inspect import signature
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from catalog.errors import InputError, first_line
from ingest.model.language_model import LanguageModel
from scoring.client.language_client import Form

_LEAST = 8
"""Tokens that a prefix has to have for its cache to be kept."""
_CPU_TOKENS, _GPU_TOKENS = 1 << 13, 1 << 16
"""Tokens in the cache of a batch, prefixes included."""


@dataclass(frozen=True)
class Row:
    """A conversation as tokens, with those that begin its answer."""

    ids: list[int]
    form: Form
    more: int
    """Tokens that its answer may have."""

    @property
    def order(self) -> tuple[int, tuple[str, ...], str, int]:
        """By form, then by length."""
        return self.form.values, self.form.choices, self.form.line, len(self.ids)


@dataclass
class State:
    """A batch that has been read so far."""

    cache: DynamicCache
    mask: Tensor
    """`[batch, read]`: 1, and 0 for padding."""
    position: Tensor
    """`[batch]`: of the next token."""
    logits: Tensor
    """`[batch, vocabulary]`, float32: of the next token."""


class PrefixReader:
    """Reads by one model."""

    def __init__(self, model: LanguageModel) -> None:
        self._model, self._network = model, model.network
        takes = signature(self._network.forward).parameters
        self._keeps_last = "logits_to_keep" in takes
        self._takes_positions = "position_ids" in takes
        self._shares, self._pads = self._caches()
        self.tokens = 0
        """Tokens that forward passes have read, padding left out."""

    def read(self, rows: Mapping[int, Row]) -> Iterator[tuple[list[int], State]]:
        """(keys, state) of batches of one form, each row read to its end."""
        if rows:
            yield from self._below(rows, sorted(rows, key=lambda key: rows[key].ids), 0, None)

    def _below(
        self, rows: Mapping[int, Row], keys: list[int], depth: int, cache: DynamicCache | None
    ) -> Iterator[tuple[list[int], State]]:
        """Those of `keys`, which are sorted by their rows, whose first `depth` tokens are alike and in the cache."""
        first, last = rows[keys[0]].ids, rows[keys[-1]].ids
        common = _alike(first, last, min(len(rows[key].ids) for key in keys) - 1)
        if self._shares and len(keys) > 1 and common - depth >= _LEAST:
            cache = self.step(self._begun(cache, 1, depth), torch.tensor([first[depth:common]])).cache
            depth = common
        alone: list[int] = []
        for _, group in groupby(keys, key=lambda key: rows[key].ids[depth : depth + _LEAST]):
            near = list(group)
            if self._shares and 1 < len(near) < len(keys) and min(len(rows[k].ids) for k in near) > depth + _LEAST:
                yield from self._below(rows, near, depth, cache)
            else:
                alone += near
        alone.sort(key=lambda key: rows[key].order)
        while alone:
            batch = self._batch(rows, alone)
            alone = alone[len(batch) :]
            fresh = _padded([rows[key].ids[depth:] for key in batch])
            yield batch, self.step(self._begun(cache, len(batch), depth), *fresh)

    def _batch(self, rows: Mapping[int, Row], keys: list[int]) -> list[int]:
        """The first of the keys, which are sorted by form and length, that fit into one batch."""
        most = _GPU_TOKENS if self._model.device.type == "cuda" else _CPU_TOKENS
        first, n = rows[keys[0]], 1
        # Rows of another kind of cache cannot be told apart: each is read alone.
        while n < len(keys) and self._shares and not self._model.layout.alone:
            row = rows[keys[n]]
            fits = (n + 1) * (len(row.ids) + row.more) <= most and row.form == first.form
            if not fits or (not self._pads and len(row.ids) != len(first.ids)):
                break
            n += 1
        return keys[:n]

    def _begun(self, cache: DynamicCache | None, n: int, depth: int) -> State:
        """`n` rows that have read what the cache holds; the cache stays as it is."""
        mask = torch.ones(n, depth, dtype=torch.long)
        copied = DynamicCache(config=self._network.config) if cache is None else _copied(cache, n)
        return State(copied, mask, torch.full((n,), depth), torch.empty(0))

    @torch.inference_mode()
    def step(self, state: State, ids: Tensor, real: Tensor | None = None) -> State:
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
        self.tokens += int(real.sum())
        return State(out.past_key_values, mask, state.position + real.sum(1), out.logits[:, -1].float().cpu())

    def chosen(self, state: State, rows: list[int]) -> State:
        """Those rows of a batch alone."""
        index = torch.tensor(rows)
        state.cache.batch_select_indices(index.to(self._model.device))
        return State(state.cache, state.mask[index], state.position[index], state.logits[index])

    def _caches(self) -> tuple[bool, bool]:
        """(whether prefixes can be shared, whether rows can be padded) with this model's cache."""
        ids = self._model.layout.trial[:, :4]
        cache = DynamicCache(config=self._network.config)
        try:
            with torch.inference_mode():
                out = self._network(ids.to(self._model.device), past_key_values=cache, use_cache=True)
        # A model's own code may raise anything.
        except Exception as error:
            raise InputError(
                f"model {self._model.spec.source!r} ({type(self._network).__name__}) does not write text token by "
                f"token: {first_line(error)}"
            ) from error
        if getattr(out, "past_key_values", None) is None:
            raise InputError(
                f"model {self._model.spec.source!r} ({type(self._network).__name__}) keeps no cache of keys and "
                "values, without which saeql does not let it write: name another one"
            )
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
