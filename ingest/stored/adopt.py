"""Checks that a checkpoint is what the study says, and gives its hookpoints the study's names."""

import re
from dataclasses import replace

from catalog.errors import InputError
from catalog.study.sae import Sae
from ingest.sae.layout.hookpoint_names import AFTER_MLP, INPUT, after_mlp, before_gain
from ingest.sae.model import SAE

_IN_BLOCK = re.compile(r"(?:^|\.)(?:(?:layers|h|blocks)\.|layer_)(\d+)(?:\.(.+))?$")
"""A block of the model, or what is inside it: the block's number, the name inside."""


def check_asked(sae: Sae, loaded: SAE) -> None:
    """A key beside `checkpoint` says what the checkpoint must be. Raises InputError where it is something else."""
    config = loaded.config
    there = {"architecture": config.architecture, "width": config.width, "k": config.k, "groups": config.groups}
    for name, value in there.items():
        asked = getattr(sae, name)
        if asked is not None and asked != value:
            raise InputError(f"the checkpoint {sae.checkpoint} has {name} {value}, and the study says {asked}")
    if (config.target_hookpoint is None) != (sae.target is None):
        raise InputError(f"the checkpoint {sae.checkpoint} and the study differ in whether it is a transcoder")
    if sae.skip and loaded.weights.skip is None:
        raise InputError(f"the checkpoint {sae.checkpoint} has no skip path: leave skip out of its section")
    if before_gain(config.hookpoint):
        raise InputError(
            f"the checkpoint {sae.checkpoint} was trained on {config.hookpoint}, a norm's output before its gain, "
            "which no module of the model takes or gives: divide the encoder by the gain, along d, and save it with "
            "hook_name blocks.N.mlp.hook_in"
        )
    _check_place(sae, config.model_name, config.hookpoint, sae.hookpoint, "reads")
    if config.target_hookpoint is not None and sae.target is not None:
        _check_place(sae, config.model_name, config.target_hookpoint, sae.target, "writes")


def _check_place(sae: Sae, model_name: str, trained: str, asked: str, verb: str) -> None:
    """Rows of another block, or of a module's other side, have the same width: only the names tell."""
    one, other = _place(trained), _place(asked)
    if one is not None and other is not None and other[0] == "mlp" and after_mlp(trained, model_name):
        raise InputError(
            f"the checkpoint {sae.checkpoint} was trained on {trained}, and the study {verb} {asked}: its rows are "
            "what the block adds to the residual stream, which comes from a norm behind the MLP. Name "
            f"layers.{one[1]}.{AFTER_MLP}"
        )
    if one is None or other is None or one == other:
        return
    if one[0] == other[0] or one[0].removesuffix(INPUT) == other[0].removesuffix(INPUT):
        raise InputError(
            f"the checkpoint {sae.checkpoint} was trained on {trained}, and the study {verb} {asked}: name the "
            f"{'block' if one[0] == other[0] else 'side of the module'} that it was trained on"
        )


def _place(hookpoint: str) -> tuple[str, int] | None:
    """(what, number): for the residual stream how many blocks wrote into it, else a name inside a block and its number.

    None for a name that says no block.
    """
    found = _IN_BLOCK.search(hookpoint)
    if found is None:
        return None
    number, inside = int(found[1]), found[2]
    return ("the residual stream", number + (inside is None)) if inside in (None, "input") else (inside, number)


def named(sae: Sae, loaded: SAE, model_name: str, widths: tuple[int, int]) -> SAE:
    """The checkpoint with its hookpoints named as in the study; `widths` are those of the model's rows there.

    Raises InputError for a checkpoint of other widths.
    """
    config = loaded.config
    for hookpoint, verb, own, width in (
        (sae.hookpoint, "reads", config.d_in, widths[0]),
        (sae.target or sae.hookpoint, "writes", config.out, widths[1]),
    ):
        if own != width:
            raise InputError(
                f"the checkpoint {sae.checkpoint} {verb} rows of width {own}, and {hookpoint} of {model_name} gives "
                f"{width}: name the hookpoint that it was trained on"
            )
    return renamed(sae, loaded)


def renamed(sae: Sae, loaded: SAE) -> SAE:
    """The SAE with its hookpoints named as in the study: a checkpoint's own names may be those of another library."""
    config = replace(loaded.config, hookpoint=sae.hookpoint, target_hookpoint=sae.target)
    return SAE(config, loaded.weights, loaded.scale, loaded.target_scale, loaded.trained)
