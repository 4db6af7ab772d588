"""Understands hookpoints by names that other libraries use, by what stands there: a trial pass decides, not a name.

`blocks.9.hook_resid_post` of TransformerLens is the output of block 9, whatever the model calls its blocks. What
attention or MLP add to the residual stream (`hook_attn_out`, `hook_mlp_out`) is the pair of modules whose outputs
together make the difference between the block's output and its input: the norms behind them in Gemma 2 and 3.
"""

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module

from catalog.study.file import Study
from ingest.model.hookpoints import vectors_of
from ingest.sae.layout.hookpoint_names import INPUT, from_transformer_lens

if TYPE_CHECKING:
    from ingest.model.language_model import LanguageModel

_SAME = {torch.float32: 1e-4}
_SAME_HALF = 2e-2
"""How far a sum may lie from what it is compared with, as a part of its norm."""
_PART = re.compile(r"blocks\.(\d+)\.hook_(attn_out|mlp_out|resid_mid)")
_BLOCK = re.compile(r"layers\.(\d+)((?:\.\w+)*)")


class _Block(NamedTuple):
    """What a trial pass found at a block: `[seq, d]` each, by the names of its direct children, in their order."""

    before: Tensor
    after: Tensor
    outputs: dict[str, Tensor]
    inputs: dict[str, Tensor]


def by_own_names(study: Study, model: "LanguageModel") -> Study:
    """The study with its SAEs' hookpoints by the names that the model has for them."""
    saes = [
        sae.model_copy(
            update={"hookpoint": model.named(sae.hookpoint), "target": sae.target and model.named(sae.target)}
        )
        for sae in study.saes
    ]
    return study.model_copy(update={"saes": type(study.saes)(saes)})


def own_name(model: "LanguageModel", name: str) -> str | None:
    """The model's own name for what `name` means; None if it means nothing here. It may name no module."""
    part = _PART.fullmatch(name)
    found = part or _BLOCK.fullmatch(from_transformer_lens(name))
    block = next((b for b in model.layout.blocks if found and b.rpartition(".")[2] == str(int(found[1]))), None)
    if found is None or block is None:
        return None
    inside = _inside(model, block, found[2]) if part else found[2]
    return None if inside is None else f"{block}{inside}"


def _inside(model: "LanguageModel", block: str, part: str) -> str | None:
    """Where inside a block attention's or MLP's part of the residual stream stands, or the stream between the two."""
    bound = _SAME.get(model.dtype, _SAME_HALF)
    seen = _seen(model.network, model.layout.blocks[block], model.layout.trial.to(model.device))
    parts = _parts(seen, bound)
    if parts is None:
        return None
    attention, mlp = parts
    if part != "resid_mid":
        return f".{attention if part == 'attn_out' else mlp}"
    between = seen.before + seen.outputs[attention]
    child = next((child for child, given in seen.inputs.items() if _same(given, between, bound)), None)
    return None if child is None else f".{child}{INPUT}"


def added_parts(network: Module, block: Module, ids: Tensor) -> tuple[str, str] | None:
    """The children of a block whose outputs are attention's and the MLP's part of the stream; None if none are.

    A pass of `network`, which computes in float32, over ids `[batch, seq]` tells.
    """
    return _parts(_seen(network, block, ids), _SAME[torch.float32])


def _parts(seen: _Block, bound: float) -> tuple[str, str] | None:
    added, names = seen.after - seen.before, list(seen.outputs)
    if not added.any():
        return None
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    # Attention comes first in every architecture, also where both read the same.
    return next(((a, b) for a, b in pairs if _same(seen.outputs[a] + seen.outputs[b], added, bound)), None)


def _same(one: Tensor, other: Tensor, bound: float) -> bool:
    return one.shape == other.shape and bool((one - other).norm() <= bound * other.norm())


def _seen(network: Module, block: Module, ids: Tensor) -> _Block:
    stream: list[Tensor] = []
    outputs: dict[str, Tensor] = {}
    inputs: dict[str, Tensor] = {}

    def given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return next((value for value in args if isinstance(value, Tensor)), kwargs.get("hidden_states"))

    def entering(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found = given(args, kwargs)
        if isinstance(found, Tensor) and found.ndim == 3:
            inputs[name] = found[0].float().clone()

    def leaving(name: str, output: Any) -> None:
        found = vectors_of(output)
        if isinstance(found, Tensor) and found.ndim == 3:
            # In the order of the calls.
            outputs.pop(name, None)
            outputs[name] = found[0].float().clone()

    handles = [
        block.register_forward_pre_hook(
            lambda _m, args, kwargs: stream.append(given(args, kwargs)[0].float().clone()), with_kwargs=True
        ),
        block.register_forward_hook(lambda _m, _a, output: stream.append(vectors_of(output)[0].float().clone())),
    ]
    for name, child in block.named_children():
        handles += [
            child.register_forward_pre_hook(lambda _m, a, k, name=name: entering(name, a, k), with_kwargs=True),
            child.register_forward_hook(lambda _m, _a, output, name=name: leaving(name, output)),
        ]
    try:
        with torch.inference_mode():
            network(ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return _Block(stream[0], stream[1], outputs, inputs)
