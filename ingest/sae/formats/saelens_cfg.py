"""cfg.json of SAELens, versions 1 to 6, as an SAEConfig; see `saelens_ours` for what saeql writes."""

import re
from pathlib import Path
from typing import Any

from catalog.errors import InputError
from ingest.sae.formats.hookpoints import from_saelens
from ingest.sae.formats.reading import described, read_settings, whole_number
from ingest.sae.formats.saelens_ours import CHECKSUM, KNOWN, OURS, Stored, read_ours

FACTOR = "expected_average_only_in"
"""The normalisation by a constant, which must be folded into the weights."""
_WRITTEN = re.compile(r"hook_(resid_\w+|attn_out|mlp_out)$")
"""Places that hold what the writing weights wrote."""
_LAYER_NORM = (
    *("gpt2", "distilgpt2", "gpt-neo", "gpt-j", "pythia", "opt-", "bloom", "stablelm", "phi-1", "phi-2"),
    *("solu", "gelu", "attn-only", "tiny-stories", "tinystories", "santacoder", "redwood"),
)
"""How names of models with LayerNorm begin."""
_RMS_NORM = ("llama", "gemma", "mistral", "mixtral", "qwen", "phi-3", "phi-4", "olmo", "deepseek", "yi-")
"""What stands in names of models with RMSNorm, whose writing weights TransformerLens leaves as they are."""
_READ = {
    *("architecture", "d_in", "d_sae", "d_out", "k", "apply_b_dec_to_input", "normalize_activations"),
    *("reshape_activations", "rescale_acts_by_decoder_norm", "metadata", "dtype", "device"),
}
_TRAINING = {
    *("l1_coefficient", "lp_norm", "l1_warm_up_steps", "l0_coefficient", "l0_warm_up_steps", "target_l0"),
    *("decoder_init_norm", "aux_loss_coefficient", "use_sparse_activations", "pre_act_loss_coefficient"),
    *("jumprelu_init_threshold", "jumprelu_bandwidth", "jumprelu_sparsity_loss_mode", "jumprelu_tanh_scale"),
    *("jumprelu_ste_to_input", "mse_loss_normalization", "normalize_sae_decoder", "use_cached_activations"),
    *("cached_activations_path", "scale_sparsity_penalty_by_decoder_norm", "dead_feature_threshold"),
    *("feature_reinit_scale", "init_encoder_as_decoder_transpose", "decoder_heuristic_init_norm"),
    *("decoder_orthogonal_init", "decoder_heuristic_init", "n_batches_in_store_buffer", "autocast"),
}
"""Settings of training, which mean nothing to a finished SAE."""
_BEARS_ON_ENCODING = ("activ", "norm", "scal", "thresh", "reshape", "whiten", "center", "fold", "relu", "topk", "gate")
"""Parts of names at which an unknown setting of the flat layout is refused; it also holds all of training's."""


def read_cfg(path: Path) -> Stored:
    """What the cfg.json at `path` says. Raises InputError for a setting that cannot be honoured."""
    settings = read_settings(path)
    if "metadata" not in settings:
        return _theirs(_from_flat(settings, path), path)
    metadata = settings["metadata"]
    if not isinstance(metadata, dict):
        raise InputError(f"metadata is {metadata!r} in {path}, but must be a JSON object")
    unknown = {name for name in settings.keys() - _READ - _TRAINING if _means_something(settings[name])}
    _refuse_unknown(settings, unknown, path)
    return read_ours(settings, metadata, path) if OURS in metadata else _theirs(settings, path)


def _theirs(settings: dict[str, Any], path: Path) -> Stored:
    missing = {"architecture", "d_in", "d_sae"} - settings.keys()
    if missing:
        raise InputError(f"{path} lacks {sorted(missing)}; it has {sorted(settings)}")
    name = settings["architecture"]
    if not isinstance(name, str) or name not in KNOWN:
        raise InputError(f"architecture {name!r} in {path} is not known; known are: {', '.join(KNOWN)}")
    architecture, transcoder, skip = KNOWN[name]
    centred = settings.get("apply_b_dec_to_input", not transcoder)
    if not isinstance(centred, bool):
        raise InputError(f"apply_b_dec_to_input is {centred!r} in {path}, but must be true or false")
    reshape = settings.get("reshape_activations", "none")
    # Heads side by side are rows of width d_in here, which is what hook_z makes of them.
    if reshape not in ("none", "hook_z"):
        raise InputError(f"reshape_activations is {reshape!r} in {path}; known are: none, hook_z")
    metadata = settings["metadata"]
    hookpoint = from_saelens(metadata, "hook_name") or "unknown"
    target = from_saelens(metadata, "hook_name_out") or f"{hookpoint} (target)"
    config = described(
        path,
        d_in=whole_number(settings, "d_in", path),
        width=whole_number(settings, "d_sae", path),
        k=whole_number(settings, "k", path) if architecture == "topk" else None,
        model_name=str(metadata.get("model_name") or ""),
        hookpoint=hookpoint,
        architecture=architecture,
        centred=centred,
        target_hookpoint=target if transcoder else None,
        d_out=whole_number(settings, "d_out", path) if transcoder else None,
    )
    return Stored(
        config,
        skip,
        ours=False,
        checksum=metadata.get(CHECKSUM),
        needs_factor=_needs_factor(settings, transcoder, path),
        less_mean=_less_mean(metadata, path),
        by_decoder_norm=architecture == "topk" and bool(settings.get("rescale_acts_by_decoder_norm", False)),
    )


def _needs_factor(settings: dict[str, Any], transcoder: bool, path: Path) -> bool:
    """Whether rows are multiplied by one factor. Raises InputError for a normalisation that no weights express."""
    found = settings.get("normalize_activations", "none")
    if found in ("none", None):
        return False
    if found == FACTOR and not transcoder:
        return True
    reasons = {
        FACTOR: "in a transcoder, of which the factor of the output is not said",
        "layer_norm": "which divides each row by its own deviation",
        "constant_norm_rescale": "which divides each row by its own norm",
        "covariance_whitening": "by a matrix that is not in the checkpoint",
    }
    if not isinstance(found, str) or found not in reasons:
        raise InputError(f"normalize_activations is {found!r} in {path}; known are: none, {', '.join(reasons)}")
    raise InputError(
        f"normalize_activations is {found!r} in {path}, {reasons[found]}: it cannot be folded into the weights, "
        f"and rows are not normalised here"
    )


def _less_mean(metadata: dict[str, Any], path: Path) -> bool:
    """Whether the rows are those of a model whose writing weights were centred, at a place where that shows."""
    loading = metadata.get("model_from_pretrained_kwargs") or {}
    if not isinstance(loading, dict):
        raise InputError(f"model_from_pretrained_kwargs is {loading!r} in {path}, but must be a JSON object")
    if not loading.get("center_writing_weights") or not _WRITTEN.search(str(metadata.get("hook_name"))):
        return False
    name = str(metadata.get("model_name")).lower().rpartition("/")[2]
    if any(part in name for part in _RMS_NORM):
        return False
    if not name.startswith(_LAYER_NORM):
        raise InputError(
            f"center_writing_weights is true in {path}, which means rows less their mean for a model with LayerNorm, "
            f"and nothing for one with RMSNorm; which {metadata.get('model_name')!r} has is not known here: set it to "
            "false for RMSNorm, or model_name to one with LayerNorm, such as gpt2"
        )
    return True


def _from_flat(settings: dict[str, Any], path: Path) -> dict[str, Any]:
    """Settings of versions before 6, where those of the model and of training stand beside the SAE's, as version 6."""
    unknown = {
        name
        for name in settings.keys() - _READ - _TRAINING - {"activation_fn_str", "activation_fn", "activation_fn_kwargs"}
        if any(part in name.lower() for part in _BEARS_ON_ENCODING) and _means_something(settings[name])
    }
    _refuse_unknown(settings, unknown, path)
    activation = settings.get("activation_fn_str", settings.get("activation_fn")) or "relu"
    arguments = settings.get("activation_fn_kwargs") or {}
    architecture = settings.get("architecture", "standard")
    if activation == "topk" and architecture in ("standard", "topk"):
        architecture = "topk"
    elif activation != "relu":
        raise InputError(
            f"activation_fn_str is {activation!r} with architecture {architecture!r} in {path}; known are: relu, topk"
        )
    normalised = settings.get("normalize_activations")
    if isinstance(normalised, bool):
        normalised = FACTOR if normalised else "none"
    found = {
        **{name: settings[name] for name in _READ & settings.keys()},
        "architecture": architecture,
        "normalize_activations": normalised,
        "metadata": {
            "model_name": settings.get("model_name"),
            "hook_name": settings.get("hook_name") or settings.get("hook_point"),
            "hook_name_out": settings.get("hook_name_out"),
            "model_from_pretrained_kwargs": settings.get("model_from_pretrained_kwargs"),
        },
    }
    if isinstance(arguments, dict) and "k" in arguments:
        found["k"] = arguments["k"]
    return found


def _means_something(value: object) -> bool:
    return value not in (None, False, "none", "", 0) and value != {} and value != []


def _refuse_unknown(settings: dict[str, Any], names: set[str], path: Path) -> None:
    if names:
        said = ", ".join(f"{name} = {settings[name]!r}" for name in sorted(names))
        raise InputError(
            f"{path} has settings that may change the encoding and are not known here: {said}. "
            f"Remove them if they do not"
        )
