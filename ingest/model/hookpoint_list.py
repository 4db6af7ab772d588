"""Lists a model's hookpoints with their widths from its configuration alone: no weight is loaded.

Which modules are attention's and the MLP's part of the residual stream only values tell: those of a model of the same
configuration with one block, few tokens, and random weights.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module
from transformers import AutoModelForCausalLM, PreTrainedConfig

from catalog.errors import InputError
from catalog.study.text import Model
from ingest.model.hookpoints import vectors_of
from ingest.model.hub import quiet
from ingest.model.language_model import load_model, located, read_config
from ingest.model.other_names import added_parts
from ingest.model.trial_passes import block_names
from ingest.sae.layout.hookpoint_names import INPUT

_TOKENS = 4
_WORDS = 64
"""Tokens of the vocabulary of a model with one block."""
_PARTS = ("hook_attn_out", "hook_mlp_out")


class ListedHookpoint(NamedTuple):
    """A hookpoint that a study may name."""

    hookpoint: str
    """By the model's own name."""
    width: int
    """Of its vectors."""
    other: str | None
    """TransformerLens' name for it, which is understood too."""

    @property
    def layer(self) -> int:
        """Number of its block."""
        return next(int(part) for part in self.hookpoint.split(".") if part.isdigit())


def list_hookpoints(source: str, tell: Callable[[str], None] = lambda what: None) -> list[ListedHookpoint]:
    """Input and output of each block, and the outputs of its direct children, in the order of the model.

    A model is built without weights, and a pass over shapes alone tells the widths. Where its code needs values, the
    model is loaded. `tell` is called, and InputError raised, as by `load_model`.
    """
    spec = Model.model_validate({"name": "model", "source": source})
    at, _ = located(spec, tell)
    with quiet():
        config = read_config(spec, at)
        try:
            with torch.device("meta"):
                network = AutoModelForCausalLM.from_config(config, attn_implementation="eager")  # type: ignore[no-untyped-call]
                ids = torch.zeros(1, _TOKENS, dtype=torch.int64)
            found = _widths(network, ids)
            parts = _parts_of_one_block(config)
        # Code of many architectures, each of which may want values, or have no place among causal models.
        except Exception:
            model = load_model(spec)
            block = next(iter(model.layout.blocks.values()))
            parts = added_parts(model.network, block, model.layout.trial.to(model.device))
            found = _widths(model.network, model.layout.trial.to(model.device))
    if not found:
        raise InputError(f"model {source!r} has no blocks that give a vector for each token")
    return [ListedHookpoint(name, width, _other(name, parts)) for name, width in found.items()]


def _parts_of_one_block(config: PreTrainedConfig) -> tuple[str, str] | None:
    """The children of a block that add to the residual stream; None where a model of one block does not tell."""
    try:
        small = copy.deepcopy(config)
        text = small.get_text_config()
        text.num_hidden_layers, text.vocab_size = 1, _WORDS
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            setattr(text, name, None)
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[:1]
        network = AutoModelForCausalLM.from_config(small, attn_implementation="eager", dtype=torch.float32)  # type: ignore[no-untyped-call]
        network.eval()
        (block,) = (network.base_model.get_submodule(name) for name in block_names(network))
        _spread(network)
        return added_parts(network, block, torch.arange(2, 2 + _TOKENS).view(1, -1))
    # Code of many architectures: some cannot be made so small. Their modules have their own names still.
    except Exception:
        return None


def _spread(network: Module) -> None:
    """Random weights where a new model's are all 0 or all 1, as those of norms: its parts would look alike."""
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim == 1 or not weight.any():
                weight.add_(0.1 * torch.randn(weight.shape, generator=draws))


def _widths(network: Any, ids: Tensor) -> dict[str, int]:
    """Of each hookpoint that is listed, in the order of the model."""
    network.eval()
    modules = dict(network.base_model.named_modules())
    blocks = block_names(network)
    names = [
        name
        for block in blocks
        for name in (block, *(f"{block}.{child}" for child, _ in modules[block].named_children()))
    ]
    widths: dict[str, int] = {}

    def keep(name: str, found: Any) -> None:
        if isinstance(found, Tensor) and found.ndim == 3 and found.shape[:2] == ids.shape:
            widths[name] = found.shape[-1]

    def enter(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(name + INPUT, next((value for value in args if isinstance(value, Tensor)), kwargs.get("hidden_states")))

    handles = [
        modules[name].register_forward_hook(lambda _m, _a, out, name=name: keep(name, vectors_of(out)))
        for name in names
    ]
    handles += [
        modules[block].register_forward_pre_hook(lambda _m, a, k, name=block: enter(name, a, k), with_kwargs=True)
        for block in blocks
    ]
    try:
        with torch.inference_mode():
            # With a mask, the one for attention is made without looking at values.
            network.base_model(ids, attention_mask=torch.ones_like(ids), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return {side: widths[side] for name in names for side in (name + INPUT, name) if side in widths}


def _other(hookpoint: str, parts: tuple[str, str] | None) -> str | None:
    """TransformerLens' name; `parts` are a block's children that add to the residual stream."""
    enters = hookpoint.endswith(INPUT)
    *_, before, last = hookpoint.removesuffix(INPUT).split(".")
    if last.isdigit():
        return f"blocks.{last}.hook_resid_{'pre' if enters else 'post'}"
    return f"blocks.{before}.{_PARTS[parts.index(last)]}" if parts and last in parts else None
