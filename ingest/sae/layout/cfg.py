"""Writes and reads the cfg.json of an SAE as saeql has it.

It is a cfg.json of SAELens. What that cannot say (that a JumpReLU is our BatchTopK, say) stands in the block
`metadata.saeql`: the whole SAEConfig, the scales of training, and what a JumpReLU was trained by. With that block the
file is ours, and all else in it must agree with it.
"""

import sys
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from catalog.errors import InputError
from ingest.sae.config import Objective, SAEConfig
from ingest.sae.layout.hookpoint_names import to_transformer_lens
from ingest.sae.layout.read_files import described
from ingest.sae.layout.tensors import ONE_THRESHOLD

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
_KINDS: dict[str, Any] = {
    **dict.fromkeys(("model_name", "hookpoint", "architecture"), str),
    **dict.fromkeys(("centred", "skip"), bool),
    "target_hookpoint": str | None,
    "groups": list,
    "penalty": str,
    "bandwidth": float,
}
"""Types in our block that SAEConfig and Objective take for granted."""
TRAINED = ("penalty", "bandwidth")
"""Fields of Objective that a jumprelu child takes over from its parent."""


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
    target_scale: float | None = None
    """Transcoder: the same of the rows that it writes."""
    checksum: str | None = None
    """BLAKE2b-128 of the weights' file."""
    needs_factor: bool = False
    """The weights are for rows times a factor, which is yet to be folded into them."""
    less_mean: bool = False
    """The weights are for rows less their mean over the columns, as TransformerLens' centred writing weights give."""
    by_decoder_norm: bool = False
    """topk: activations are multiplied by the norms of their decoder rows, also before they are compared."""
    trained: dict[str, Any] = field(default_factory=dict)
    """What of TRAINED is known of its training."""


def to_cfg(
    config: SAEConfig,
    skip: bool,
    checksum: str,
    scale: float | None = None,
    target_scale: float | None = None,
    trained: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The settings of a cfg.json for an SAE whose weights are those for rows as they are."""
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
        OURS: {**asdict(config), "groups": list(config.groups), "skip": skip, "scale": scale, **(trained or {})},
    }
    if target_scale is not None:
        metadata[OURS]["target_scale"] = target_scale
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


def read_ours(settings: dict[str, Any], metadata: dict[str, Any], path: Path) -> Stored:
    block = metadata[OURS]
    where = f"metadata.{OURS} of {path}"
    if not isinstance(block, dict):
        raise InputError(f"{where} is not a JSON object: {block!r}")
    known = {one.name for one in fields(SAEConfig)}
    needed = {one.name for one in fields(SAEConfig) if one.default is MISSING}
    unknown, missing = block.keys() - known - {"skip", "scale", "target_scale", *TRAINED}, needed - block.keys()
    if unknown or missing:
        raise InputError(f"{where} lacks {sorted(missing)} and has the unknown {sorted(unknown)}: write it again")
    for name, kinds in _KINDS.items():
        if name in block and not isinstance(block[name], kinds):
            raise InputError(f"{name} is {block[name]!r} in {where}: it cannot be of type {type(block[name]).__name__}")
    if not all(type(size) is int for size in block.get("groups", [])):
        raise InputError(f"groups is {block['groups']!r} in {where}, but must be a list of whole numbers")
    scale, target_scale, skip = block.get("scale"), block.get("target_scale"), block.get("skip", False)
    for factor in (scale, target_scale):
        if factor is not None:
            check_scale(factor, where)
    given = {name: block[name] for name in known & block.keys()}
    config = described(path, **{**given, "groups": tuple(block.get("groups", ()))})
    written = to_cfg(config, skip, "")
    for name in written.keys() - {"metadata", "dtype", "device"}:
        if settings.get(name) != written[name]:
            raise InputError(
                f"{name} is {settings.get(name)!r} in {path}, but metadata.{OURS} there asks for {written[name]!r}: "
                f"make them agree, or remove metadata.{OURS} to read a plain SAELens checkpoint"
            )
    trained = {name: block[name] for name in TRAINED if name in block}
    try:
        Objective(**trained)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return Stored(config, skip, True, scale, target_scale, metadata.get(CHECKSUM), trained=trained)


def check_scale(scale: object, where: object) -> None:
    """Raises InputError unless `scale` is a positive number."""
    # JSON has whole numbers beyond any float: of them isfinite raises OverflowError.
    if not isinstance(scale, int | float) or isinstance(scale, bool) or not 0 < scale <= sys.float_info.max:
        raise InputError(f"scale is {scale!r} for {where}, but must be a positive number")


def check_scalable(scale: float, config: SAEConfig, where: object) -> None:
    """Raises InputError for a `scale` that is given for a transcoder."""
    if config.target_hookpoint is not None:
        raise InputError(
            f"scale {scale} is given for the transcoder in {where}, whose output would keep its own: leave it out"
        )
