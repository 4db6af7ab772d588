"""Lists a model's hookpoints with their widths from its configuration alone: no weight is loaded."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from catalog.errors import InputError
from catalog.study.text import Model
from ingest.model.hookpoints import vectors_of
from ingest.model.hub import quiet
from ingest.model.language_model import load_model, located, read_config
from ingest.model.trial_passes import block_names
from ingest.sae.layout.hookpoint_names import INPUT

_TOKENS = 4


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


def list_hookpoints(source: str) -> list[ListedHookpoint]:
    """Input and output of each block, and the outputs of its direct children, in the order of the model.

    A model is built without weights, and a pass over shapes alone tells the widths. Where its code needs values, the
    model is loaded. Raises InputError as `load_model` does.
    """
    spec = Model.model_validate({"name": "model", "source": source})
    at, _ = located(spec)
    with quiet():
        config = read_config(spec, at)
        try:
            with torch.device("meta"):
                network = AutoModelForCausalLM.from_config(config, attn_implementation="eager")  # type: ignore[no-untyped-call]
                ids = torch.zeros(1, _TOKENS, dtype=torch.int64)
            found = _widths(network, ids)
        # Code of many architectures, each of which may want values, or have no place among causal models.
        except Exception:
            model = load_model(spec)
            found = _widths(model.network, model.layout.trial)
    if not found:
        raise InputError(f"model {source!r} has no blocks that give a vector for each token")
    return found


def _widths(network: Any, ids: Tensor) -> list[ListedHookpoint]:
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
    listed = []
    for name in names:
        sides = ((name + INPUT, "hook_resid_pre"), (name, "hook_resid_post")) if name in blocks else ((name, None),)
        for side, other in sides:
            if side in widths:
                said = f"blocks.{name.rpartition('.')[2]}.{other}" if other else None
                listed.append(ListedHookpoint(side, widths[side], said))
    return listed
