"""Translates names of hookpoints: those of TransformerLens, and the module names that SAELens notes, to ours.

`layers` stands for the model's list of blocks, whatever it calls that. A name is translated where every version of
the library means the same place by it; any other is left as it is, and a study names the hookpoint itself.
"""

import re
from collections.abc import Mapping
from typing import Any

AFTER_MLP = "post_feedforward_layernorm"
"""In blocks of Gemma 2 and 3, the norm behind the MLP: its output is what they add to the residual stream."""
_PLACES = (
    (r"layers\.(\d+)", "layers.{}", r"blocks\.(\d+)\.hook_resid_post", "blocks.{}.hook_resid_post"),
    (r"layers\.(\d+)\.input", "layers.{}.input", r"blocks\.(\d+)\.hook_resid_pre", "blocks.{}.hook_resid_pre"),
    (r"layers\.(\d+)\.mlp\.input", "layers.{}.mlp.input", r"blocks\.(\d+)\.mlp\.hook_in", "blocks.{}.mlp.hook_in"),
)
"""(pattern of ours, ours, pattern of TransformerLens', TransformerLens')."""
_MEANINGS = (
    # SAELens also takes hook_mlp_in for what comes out of the norm, in the transcoders of Gemma Scope 2.
    (
        r"blocks\.(\d+)\.(?:hook_resid_mid|hook_mlp_in)",
        "is what goes into block {}'s second norm, whose name differs between models: name that norm with .input "
        "after it (Llama: layers.{}.post_attention_layernorm.input)",
    ),
    (
        r"blocks\.(\d+)\.attn\.hook_z",
        "is what goes into the output projection of block {}'s attention, whose name differs between models: name "
        "that projection with .input after it (Llama: layers.{}.self_attn.o_proj.input)",
    ),
    (
        r"blocks\.(\d+)\.hook_mlp_out",
        "is what block {} adds to the residual stream behind its MLP: name the MLP (layers.{}.mlp), or the norm behind "
        "it where there is one (Gemma 2 and 3: post_feedforward_layernorm)",
    ),
    (
        r"blocks\.(\d+)\.hook_resid_(?:pre|post)",
        "is the output (post) or the input (pre) of block {}: name the block, for its input with .input after it",
    ),
)
"""(pattern of a TransformerLens name, what it is)."""


def from_transformer_lens(name: str) -> str:
    """`blocks.12.hook_resid_post` as `layers.12`, a block's output; any other name as it is.

    `hook_resid_pre` is `layers.12.input`, and `mlp.hook_in` is `layers.12.mlp.input`.
    """
    return next((ours.format(m[1]) for _, ours, theirs, _ in _PLACES if (m := re.fullmatch(theirs, name))), name)


def to_transformer_lens(name: str) -> str:
    """The inverse of `from_transformer_lens`."""
    return next((theirs.format(m[1]) for ours, _, _, theirs in _PLACES if (m := re.fullmatch(ours, name))), name)


def from_saelens(metadata: Mapping[str, Any], key: str) -> str | None:
    """The hookpoint that SAELens' metadata name under `key` (`hook_name`, `hook_name_out`), None for none.

    Where TransformerLens' name is not sure and a module's stands beside it (`hf_hook_name`), as
    `model.layers.12.self_attn.o_proj.input`, it is that. What goes into an MLP is not what our model gives it where
    the gain of the norm was folded into the MLP: that name stays as it is.
    """
    said, module = metadata.get(key), metadata.get(f"hf_{key}")
    if not said and not module:
        return None
    found, loading = from_transformer_lens(str(said)), metadata.get("model_from_pretrained_kwargs")
    if found.endswith(".mlp.input") and isinstance(loading, dict) and loading.get("fold_ln"):
        return str(said)
    return str(module).removesuffix(".output") if module and found == str(said) else found


def after_mlp(name: str, model_name: str) -> bool:
    """Whether the rows are those of the norm behind an MLP, which TransformerLens calls the MLP's output."""
    normed = re.search(r"gemma-[23]-", model_name.lower()) and re.search(r"(^|\.)hook_mlp_out$", name)
    return bool(normed) or re.search(rf"(^|\.){AFTER_MLP}$", name) is not None


def before_gain(name: str) -> bool:
    """Whether the rows are those of a norm before its gain, which no module takes or gives."""
    return re.fullmatch(r"blocks\.\d+\.ln[12]\.hook_normalized", name) is not None


def meaning(name: str) -> str:
    """What to name in place of a TransformerLens name, to be put after a message; empty for other names."""
    if before_gain(name):
        return f". {name!r} of TransformerLens is a norm's output before its gain, which no module takes or gives"
    found = next(((m[1], said) for pattern, said in _MEANINGS if (m := re.fullmatch(pattern, name))), None)
    return f". {name!r} of TransformerLens {found[1].format(found[0], found[0])}" if found else ""


INPUT = ".input"
"""Ending of a hookpoint that is a module's input."""
