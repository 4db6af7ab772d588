"""What the next tokens cost a model, in nats, when the output or the input of one of its modules is replaced.

A row of a batch is one sequence: what stands at a position predicts the token after it in the same row, so that BOS
predicts the first token, and no prediction crosses into another document or into padding. Without a BOS, the first
token of a sequence is not predicted.

Replaced is the vector of every real token. BOS keeps its own activation, because no SAE is trained on it; padding
stands on the right, where a causal model cannot see it. Ablation is zero ablation: rows of zeros.

The blocks before the replaced module are not computed again. They, and the module itself if its output is replaced,
answer with what they gave in the clean pass while the model's own code runs all the rest; nothing of an architecture
is written down here.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import cross_entropy

from catalog.errors import InputError
from ingest.hookpoints import Hookpoint
from ingest.models import LanguageModel
from ingest.sequences import Batch

CPU_LOGITS, GPU_LOGITS = 1 << 24, 1 << 27
"""Logits that are held at a time: 64 MB of them, and 512 MB."""


@dataclass(frozen=True)
class CleanPass:
    """One batch as the model itself reads it, and what later passes over the same batch need of that."""

    batch: Batch
    losses: Tensor
    """`[predictions]`, nats, float32: -log p of each predicted token, in row order."""
    outputs: dict[str, Tensor]
    """By hookpoint: `[batch, seq, d]`."""
    given: dict[str, Any]
    """By hookpoint: what the module returned, a tuple in some architectures; None where its input was kept."""
    before: dict[str, dict[Module, Any]]
    """By hookpoint: the blocks that had been computed before it, and what each returned."""


@torch.inference_mode()
def run_clean(model: LanguageModel, batch: Batch, hookpoints: list[str]) -> CleanPass:
    """One undisturbed pass over the batch, through the head, keeping what stands at `hookpoints`.

    Raises UnknownName for a hookpoint that the model lacks, InputError for one that the pass never calls, calls more
    than once, or that gives no vector for each token.
    """
    outputs: dict[str, Tensor] = {}
    given: dict[str, Any] = {}
    before: dict[str, dict[Module, Any]] = {}
    done: dict[Module, Any] = {}

    def finish(module: Module, _inputs: object, output: object) -> None:
        done[module] = output

    def keep(place: Hookpoint) -> Callable[[Tensor, Any], None]:
        def kept(vectors: Tensor, returned: Any) -> None:
            outputs[place.name], given[place.name] = vectors, returned
            before[place.name] = {block: there for block, there in done.items() if block is not place.module}

        return kept

    names = list(dict.fromkeys(hookpoints))
    places = [model.place(name) for name in names]
    handles = [model.hookpoint(name).register_forward_hook(finish) for name in _blocks(model)]
    handles += [place.watch(batch.ids.shape, keep(place)) for place in places]
    try:
        losses = _losses(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    if missing := [name for name in names if name not in outputs]:
        raise InputError(f"the forward pass of {model.spec.name!r} never calls {missing}: choose other hookpoints")
    return CleanPass(batch, losses, outputs, given, before)


@torch.inference_mode()
def run_replaced(model: LanguageModel, clean: CleanPass, hookpoint: str, rows: Tensor) -> Tensor:
    """-log p of each predicted token, `[predictions]` in nats, with `rows` in place of what stands at a hookpoint.

    `rows` `[real tokens, d]` are in row order, as `output[batch.real]` has them; `hookpoint` is one that `run_clean`
    kept. Zeros ablate. Raises InputError if the rows do not fit the hookpoint.
    """
    replaced = clean.outputs[hookpoint].clone()
    real = clean.batch.real.to(replaced.device)
    if rows.shape != (int(real.sum()), replaced.shape[2]):
        raise InputError(
            f"{list(rows.shape)} rows cannot replace those of {hookpoint!r}, which has {int(real.sum())} tokens "
            f"of width {replaced.shape[2]}"
        )
    replaced[real] = rows.to(replaced)
    place, before, given = model.place(hookpoint), clean.before[hookpoint], clean.given[hookpoint]
    if place.enters:
        with _answering(before), place.fed(replaced):
            return _losses(model, clean.batch)
    answer = (replaced, *given[1:]) if isinstance(given, tuple) else replaced
    with _answering({**before, place.module: answer}):
        return _losses(model, clean.batch)


def _blocks(model: LanguageModel) -> list[str]:
    """Names of the model's blocks: of its hookpoints, those that end with the one number in their name."""
    parts = {name: [part.isdigit() for part in name.split(".")] for name in model.hookpoints()}
    return [name for name, numbers in parts.items() if numbers[-1] and sum(numbers) == 1]


@contextmanager
def _answering(answers: Mapping[Module, Any]) -> Iterator[None]:
    """Inside, each module returns what is given here, and computes nothing."""
    own = {module: module.__dict__.get("forward") for module in answers}
    try:
        for module, answer in answers.items():
            # On the instance, where it goes before the class's method.
            module.__dict__["forward"] = partial(_answer, answer)
        yield
    finally:
        for module, forward in own.items():
            module.__dict__.pop("forward", None)
            if forward is not None:
                module.__dict__["forward"] = forward


def _answer(given: Any, *_: object, **__: object) -> Any:
    return given


def _losses(model: LanguageModel, batch: Batch) -> Tensor:
    """-log p of each token that follows another or BOS, `[predictions]`, float32.

    Logits are held for a few tokens at a time: at a vocabulary of 256,000 those of one batch would need gigabytes.
    """
    network = model.network
    ids = batch.ids.to(model.device)
    follows = batch.real[:, 1:].to(model.device)
    output = network.base_model(ids, use_cache=False)
    states = output.last_hidden_state[:, :-1][follows]
    targets = ids[:, 1:][follows]
    losses = torch.empty(len(targets), device=model.device)
    held = CPU_LOGITS if model.device.type == "cpu" else GPU_LOGITS
    size = max(held // int(network.config.vocab_size), 1)
    for start in range(0, len(targets), size):
        part = slice(start, start + size)
        # The head is the model's own, with whatever it does to the logits (soft caps, scales).
        with _answering({network.base_model: type(output)(last_hidden_state=states[None, part])}):
            logits = network(torch.zeros_like(targets[None, part]), use_cache=False).logits[0]
        losses[part] = cross_entropy(logits.float(), targets[part], reduction="none")
    return losses
