"""Measures the nats that the next tokens cost a model when a module's output or input is replaced.

A row of a batch is one sequence: what stands at a position predicts the token after it in the same row, so that BOS
predicts the first token, and no prediction crosses into another document or into padding. Without a BOS, the first
token of a sequence is not predicted.

Replaced is the vector of every real token. BOS keeps its own activation, because no SAE is trained on it; padding
stands on the right, where a causal model cannot see it. Ablation is zero ablation: rows of zeros.

The blocks before the replaced module are not computed again. They, and the module itself if its output is replaced,
answer with what they gave in the clean pass while the model's own code runs all the rest; nothing of an architecture
is written down here.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from catalog.errors import InputError
from ingest.model.batches import Batch
from ingest.model.hookpoints import Hookpoint, answering
from ingest.model.language_model import LanguageModel

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
    handles = [block.register_forward_hook(finish) for block in model.layout.blocks.values()]
    handles += [place.watch(batch.ids.shape, keep(place)) for place in places]
    try:
        losses = _losses(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    _check_called(model, names, outputs)
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
        with answering(before), place.fed(replaced):
            return _losses(model, clean.batch)
    answer = type(given)([replaced, *given[1:]]) if isinstance(given, tuple | list) else replaced
    with answering({**before, place.module: answer}):
        return _losses(model, clean.batch)


def check_hookpoints(model: LanguageModel, hookpoints: list[str]) -> None:
    """A whole trial pass, before anything is computed: raises what `read` would raise of a hookpoint, if only later."""
    ids = model.layout.trial
    outputs: set[str] = set()
    places = [model.place(name) for name in dict.fromkeys(hookpoints)]
    handles = [place.watch(ids.shape, partial(_note, outputs, place.name)) for place in places]
    try:
        with torch.inference_mode():
            model.network(ids.to(model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    _check_called(model, [place.name for place in places], outputs)


def _note(outputs: set[str], name: str, _vectors: Tensor, _returned: object) -> None:
    outputs.add(name)


def _check_called(model: LanguageModel, names: list[str], found: Container[str]) -> None:
    if missing := [name for name in names if name not in found]:
        raise InputError(f"the forward pass of {model.spec.name!r} never calls {missing}: choose other hookpoints")


def splice_problem(model: LanguageModel, hookpoint: str) -> str | None:
    """Why nothing can be put in place of what stands at a hookpoint; None if the model's own rows leave its losses.

    Raises UnknownName for a hookpoint that there is not.
    """
    model.place(hookpoint)
    ids = model.layout.trial
    real = torch.ones(ids.shape, dtype=torch.bool)
    places = np.arange(ids.numel())
    batch = Batch(ids, real, places, np.ones(len(places), bool), np.zeros(len(places), bool))
    try:
        clean = run_clean(model, batch, [hookpoint])
        rows = clean.outputs[hookpoint][real.to(model.device)]
        again = run_replaced(model, clean, hookpoint, rows)
    # The model's own code runs with a module replaced, and may raise anything.
    except Exception as error:
        return f"{hookpoint!r} cannot be replaced: {str(error).partition(chr(10))[0] or type(error).__name__}"
    if not torch.allclose(again, clean.losses, rtol=1e-3, atol=1e-3):
        return f"the model's own rows in place of {hookpoint!r} change its losses"
    return None


def _losses(model: LanguageModel, batch: Batch) -> Tensor:
    """-log p of each token that follows another or BOS, `[predictions]`, float32.

    Logits are held for a few tokens at a time: at a vocabulary of 256,000 those of one batch would need gigabytes.
    """
    network, body = model.network, model.layout.body
    if body is None or model.layout.headless:
        raise InputError(f"model {model.spec.name!r}: no losses can be measured: {model.layout.headless}")
    ids = batch.ids.to(model.device)
    follows = batch.real[:, 1:].to(model.device)
    output = _states(network, body, ids)
    states = output.last_hidden_state[:, :-1][follows]
    targets = ids[:, 1:][follows]
    losses = torch.empty(len(targets), device=model.device)
    held = CPU_LOGITS if model.device.type == "cpu" else GPU_LOGITS
    size = max(held // model.layout.vocabulary, 1)
    for start in range(0, len(targets), size):
        part = slice(start, start + size)
        # The head is the model's own, with whatever it does to the logits (soft caps, scales).
        with answering({body: type(output)(last_hidden_state=states[None, part])}):
            logits = network(torch.zeros_like(targets[None, part]), use_cache=False).logits[0]
        losses[part] = cross_entropy(logits.float(), targets[part], reduction="none")
    return losses


class _StatesRead(Exception):
    """Ends a pass before its head."""


def _states(network: PreTrainedModel, body: Module, ids: Tensor) -> Any:
    """What the model's own pass over `ids` `[batch, seq]` gets from `body`; its head is not computed."""
    found: list[Any] = []

    def keep(_module: Module, _inputs: object, output: object) -> None:
        found.append(output)
        raise _StatesRead

    handle = body.register_forward_hook(keep)
    try:
        network(ids, use_cache=False)
    except _StatesRead:
        return found[0]
    finally:
        handle.remove()
    raise InputError(f"the forward pass of {type(network).__name__} does not call {type(body).__name__} by itself")
