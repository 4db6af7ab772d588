"""cfg.json of SAELens, versions 1 to 6, as an SAEConfig, and back.

What SAELens cannot say (that a JumpReLU is our BatchTopK, say) stands in the block `metadata.saeql`: the whole
SAEConfig and the scale of training. With that block the file is ours, and all else in it must agree with it.
"""

import math
import re
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from catalog.errors import InputError
from ingest.sae.config import SAEConfig
from ingest.sae.formats.hookpoints import from_saelens, to_transformer_lens
from ingest.sae.formats.reading import described, read_settings, whole_number
from ingest.sae.formats.saelens_tensors import ONE_THRESHOLD

CHECKSUM, OURS = "weights_blake2b", "saeql"
LAYOUT = "6.0.0"
"""The SAELens version that files are written for; without one SAELens takes them for the flat layout."""
KNOWN = {
    "standard": ("relu", False, False),
    "topk": ("topk", False, False),
    "jumprelu": ("jumprelu", False, False),
    "gated": ("gated", False, False),
    "transcoder": ("relu", True, False),
    "skip_transcoder": ("relu", True, True),
    "jumprelu_transcoder": ("jumprelu", True, False),
    "jumprelu_skip_transcoder": ("jumprelu", True, True),
}
"""SAELens' name: (our architecture, whether it is a transcoder, whether it has a skip path)."""
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
_KINDS: dict[str, Any] = {
    **dict.fromkeys(("model_name", "hookpoint", "architecture"), str),
    **dict.fromkeys(("centred", "skip"), bool),
    "target_hookpoint": str | None,
    "groups": list,
}
"""Types in our block that SAEConfig takes for granted."""
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


@dataclass(frozen=True)
class Stored:
    """What a cfg.json says about the SAE and about how its tensors are stored."""

    config: SAEConfig
    skip: bool
    """Whether there is a skip path."""
    ours: bool
    """Whether saeql wrote it."""
    scale: float | None = None
    """What rows were multiplied by in training, if known; the weights are those for rows as they are."""
    checksum: str | None = None
    """BLAKE2b-128 of the weights' file."""
    needs_factor: bool = False
    """The weights are for rows times a factor, which is yet to be folded into them."""
    less_mean: bool = False
    """The weights are for rows less their mean over the columns, as TransformerLens' centred writing weights give."""
    by_decoder_norm: bool = False
    """topk: activations are multiplied by the norms of their decoder rows, also before they are compared."""


def to_cfg(config: SAEConfig, skip: bool, scale: float | None, checksum: str) -> dict[str, Any]:
    """The settings of a cfg.json for an SAE with unfolded weights."""
    settings: dict[str, Any] = {
        "architecture": saelens_architecture(config, skip),
        "d_in": config.d_in,
        "d_sae": config.width,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": config.centred,
        "normalize_activations": "none",
        "reshape_activations": "none",
    }
    if config.architecture == "topk":
        settings.update(k=config.k, rescale_acts_by_decoder_norm=False)
    metadata: dict[str, Any] = {
        "sae_lens_version": LAYOUT,
        "model_name": config.model_name,
        "hook_name": to_transformer_lens(config.hookpoint),
        CHECKSUM: checksum,
        OURS: {**asdict(config), "groups": list(config.groups), "skip": skip, "scale": scale},
    }
    if config.target_hookpoint is not None:
        settings["d_out"] = config.d_out
        metadata["hook_name_out"] = to_transformer_lens(config.target_hookpoint)
    return {**settings, "metadata": metadata}


def saelens_architecture(config: SAEConfig, skip: bool) -> str:
    """SAELens' name for it; where it has none, one that SAELens will refuse and not misread."""
    base = "jumprelu" if config.architecture in ONE_THRESHOLD else config.architecture
    transcoder = config.target_hookpoint is not None
    for name, known in KNOWN.items():
        if known == (base, transcoder, skip):
            return name
    return "_".join([base, *(["skip"] if skip else []), *(["transcoder"] if transcoder else [])])


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
    return _ours(settings, metadata, path) if OURS in metadata else _theirs(settings, path)


def _ours(settings: dict[str, Any], metadata: dict[str, Any], path: Path) -> Stored:
    block = metadata[OURS]
    where = f"metadata.{OURS} of {path}"
    if not isinstance(block, dict):
        raise InputError(f"{where} is not a JSON object: {block!r}")
    known = {field.name for field in fields(SAEConfig)}
    needed = {field.name for field in fields(SAEConfig) if field.default is MISSING}
    unknown, missing = block.keys() - known - {"skip", "scale"}, needed - block.keys()
    if unknown or missing:
        raise InputError(f"{where} lacks {sorted(missing)} and has the unknown {sorted(unknown)}: write it again")
    for name, kinds in _KINDS.items():
        if name in block and not isinstance(block[name], kinds):
            raise InputError(f"{name} is {block[name]!r} in {where}: it cannot be of type {type(block[name]).__name__}")
    if not all(type(size) is int for size in block.get("groups", [])):
        raise InputError(f"groups is {block['groups']!r} in {where}, but must be a list of whole numbers")
    scale, skip = block.get("scale"), block.get("skip", False)
    if scale is not None:
        check_scale(scale, where)
    given = {name: block[name] for name in known & block.keys()}
    config = described(path, **{**given, "groups": tuple(block.get("groups", ()))})
    written = to_cfg(config, skip, scale, "")
    for name in written.keys() - {"metadata", "dtype", "device"}:
        if settings.get(name) != written[name]:
            raise InputError(
                f"{name} is {settings.get(name)!r} in {path}, but metadata.{OURS} there asks for {written[name]!r}: "
                f"make them agree, or remove metadata.{OURS} to read a plain SAELens checkpoint"
            )
    return Stored(config, skip, True, scale, metadata.get(CHECKSUM))


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


def check_scale(scale: object, where: object) -> None:
    """Raises InputError unless `scale` is a positive number."""
    if not isinstance(scale, int | float) or isinstance(scale, bool) or not (math.isfinite(scale) and scale > 0):
        raise InputError(f"scale is {scale!r} for {where}, but must be a positive number")
