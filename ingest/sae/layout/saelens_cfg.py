"""Reads cfg.json of SAELens, versions 1 to 6, as an SAEConfig; `layout/cfg.py` writes saeql's own."""

from pathlib import Path
from typing import Any

from catalog.errors import InputError
from ingest.sae.layout.cfg import CHECKSUM, KNOWN, OURS, Stored, read_ours
from ingest.sae.layout.hookpoint_names import from_saelens
from ingest.sae.layout.read_files import described, read_settings, whole_number
from ingest.sae.layout.saelens_loading import check_centring_said, less_mean

FACTOR = "expected_average_only_in"
"""The normalisation by a constant, which must be folded into the weights."""
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
_EXPORTED = ("batchtopk", "matryoshka_batchtopk")
"""Architectures of training that SAELens exports as JumpReLU."""
_BEARS_ON_ENCODING = ("activ", "norm", "scal", "thresh", "reshape", "whiten", "center", "fold", "relu", "topk", "gate")
"""Parts of names at which an unknown setting of the flat layout is refused; it also holds all of training's."""


def read_cfg(path: Path) -> Stored:
    """What the cfg.json at `path` says. Raises InputError for a setting that cannot be honoured."""
    settings = read_settings(path)
    metadata = settings.get("metadata", {})
    if not isinstance(metadata, dict):
        raise InputError(f"metadata is {metadata!r} in {path}, but must be a JSON object")
    if "architecture" in settings and OURS not in metadata:
        # Before its settings, which would be named as unknown one by one.
        _check_architecture(settings["architecture"], path)
    if "metadata" not in settings:
        return _theirs(_from_flat(settings, path), path)
    unknown = {name for name in settings.keys() - _READ - _TRAINING if _means_something(settings[name])}
    _refuse_unknown(settings, unknown, path)
    return read_ours(settings, metadata, path) if OURS in metadata else _theirs(settings, path)


def _theirs(settings: dict[str, Any], path: Path) -> Stored:
    missing = {"architecture", "d_in", "d_sae"} - settings.keys()
    if missing:
        raise InputError(f"{path} lacks {sorted(missing)}; it has {sorted(settings)}")
    architecture, transcoder, skip = KNOWN[settings["architecture"]]
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
        less_mean=less_mean(metadata, path),
        by_decoder_norm=architecture == "topk" and bool(settings.get("rescale_acts_by_decoder_norm", False)),
    )


def _check_architecture(name: object, path: Path) -> None:
    if isinstance(name, str) and name in KNOWN:
        return
    if name in _EXPORTED:
        raise InputError(
            f"architecture {name!r} in {path} is one that SAELens has in training alone: export the SAE with its "
            "save_inference_model, which writes it as jumprelu"
        )
    raise InputError(f"architecture {name!r} in {path} is not known; known are: {', '.join(KNOWN)}")


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
    metadata = {
        "model_name": settings.get("model_name"),
        "hook_name": settings.get("hook_name") or settings.get("hook_point"),
        "hook_name_out": settings.get("hook_name_out"),
        "model_from_pretrained_kwargs": settings.get("model_from_pretrained_kwargs"),
    }
    check_centring_said(metadata, settings.get("sae_lens_training_version"), path)
    found = {
        **{name: settings[name] for name in _READ & settings.keys()},
        "architecture": architecture,
        "normalize_activations": normalised,
        "metadata": metadata,
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
