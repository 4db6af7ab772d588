"""Says how SAELens loaded the model that an SAE was trained on, and what that did to the rows.

TransformerLens can change a model's weights so that it computes the same from other rows inside.
"""

import re
from pathlib import Path
from typing import Any

from catalog.errors import InputError

_WRITTEN = re.compile(r"hook_(resid_\w+|attn_out|mlp_out)$")
"""Places that hold what the writing weights wrote."""
_CENTRED = "center_writing_weights"
_SAID_SINCE = (3, 19, 2)
"""The SAELens version since which _CENTRED is written down, and false where it is not."""
_MOVES_HEADS = ("fold_value_biases", "refactor_factored_attn_matrices")
"""What TransformerLens does to a model that changes the rows of attn.hook_z."""
_LAYER_NORM = (
    *("gpt2", "distilgpt2", "gpt-neo", "gpt-j", "pythia", "opt-", "bloom", "stablelm", "phi-1", "phi-2"),
    *("solu", "gelu", "attn-only", "tiny-stories", "tinystories", "santacoder", "redwood"),
)
"""How names of models with LayerNorm begin."""
_RMS_NORM = ("llama", "gemma", "mistral", "mixtral", "qwen", "phi-3", "phi-4", "olmo", "deepseek", "yi-")
"""What stands in names of models with RMSNorm, whose writing weights TransformerLens leaves as they are."""


def less_mean(metadata: dict[str, Any], path: Path) -> bool:
    """Whether the rows are those of a model whose writing weights were centred, at a place where that shows."""
    if not _loading(metadata, path).get(_CENTRED) or not _may_show(metadata):
        return False
    name = _model(metadata)
    if not name.startswith(_LAYER_NORM):
        raise InputError(
            f"{_CENTRED} is true in {path}, which means rows less their mean for a model with LayerNorm, "
            f"and nothing for one with RMSNorm; which {metadata.get('model_name')!r} has is not known here: set it to "
            "false for RMSNorm, or model_name to one with LayerNorm, such as gpt2"
        )
    return True


def check_centring_said(metadata: dict[str, Any], trained_with: object, path: Path) -> None:
    """Raises InputError where centred writing weights would change the rows, and nothing says whether they were."""
    version = re.match(r"(\d+)\.(\d+)\.(\d+)", str(trained_with))
    said = version is not None and tuple(map(int, version.groups())) >= _SAID_SINCE
    if said or _CENTRED in _loading(metadata, path) or not _may_show(metadata):
        return
    raise InputError(
        f"{path} does not say whether the rows at {metadata['hook_name']} are less their mean: before version "
        f"{'.'.join(map(str, _SAID_SINCE))} SAELens centred the writing weights of models with LayerNorm, and did not "
        f"write it down. Set {_CENTRED} in its model_from_pretrained_kwargs: to true for an SAE trained so "
        "(gpt2-small-res-jb is), to false for one on the rows of the model as it is published"
    )


def _loading(metadata: dict[str, Any], path: Path) -> dict[str, Any]:
    """What the model was loaded with. Raises InputError for a change of the rows that cannot be undone."""
    found = metadata.get("model_from_pretrained_kwargs") or {}
    if not isinstance(found, dict):
        raise InputError(f"model_from_pretrained_kwargs is {found!r} in {path}, but must be a JSON object")
    for name in _MOVES_HEADS:
        if found.get(name) and str(metadata.get("hook_name")).endswith("attn.hook_z"):
            raise InputError(
                f"{name} is {found[name]!r} in model_from_pretrained_kwargs of {path}: at {metadata['hook_name']} the "
                "rows are then not those of the model as it is published, and what they are cannot be told from the "
                "checkpoint. Set it to false if the model was not changed so"
            )
    return found


def _may_show(metadata: dict[str, Any]) -> bool:
    """Whether centred writing weights change the rows: unless the model has RMSNorm, or nothing was written yet."""
    written = _WRITTEN.search(str(metadata.get("hook_name"))) is not None
    return written and not any(part in _model(metadata) for part in _RMS_NORM)


def _model(metadata: dict[str, Any]) -> str:
    return str(metadata.get("model_name")).lower().rpartition("/")[2]
