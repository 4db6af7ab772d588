"""sparsify's checkpoints: `<run>/<hookpoint>/cfg.json` and `sae.safetensors`, TopK SAEs and transcoders.

    z = TopK(relu((x - b_dec) W^T + b))        x_hat = z W_dec + b_dec (+ x W_skip^T)

A transcoder reads what goes into its module (`.input`) and does not subtract b_dec. Here W_dec holds one
latent per row, as ours does.
"""

import json
import os
from pathlib import Path
from typing import Any

from catalog.errors import InputError
from catalog.store.atomic_files import write_whole
from ingest.sae.architecture import Weights
from ingest.sae.layout.fold import with_centring
from ingest.sae.layout.hookpoint_names import INPUT
from ingest.sae.layout.packed import packed
from ingest.sae.layout.read_files import checked, described, read_safetensors, read_settings, whole_number
from ingest.sae.model import SAE

CONFIG_FILE, WEIGHTS_FILE, RUN_FILE = "cfg.json", "sae.safetensors", "config.json"
_FLAGS = ("multi_topk", "skip_connection", "transcode", "normalize_decoder")
_READ = {*_FLAGS, "activation", "expansion_factor", "num_latents", "k", "d_in"}


def load_sparsify(folder: Path) -> SAE:
    """The SAE in a hookpoint's folder; its name is the hookpoint's. Raises InputError for what cannot be honoured."""
    path = folder / CONFIG_FILE
    settings = _settings(path)
    d_in, k = whole_number(settings, "d_in", path), whole_number(settings, "k", path)
    said = "num_latents" if settings.get("num_latents") else "expansion_factor"
    width = whole_number(settings, said, path) * (1 if said == "num_latents" else d_in)
    transcoder, skip = settings.get("transcode", False), settings.get("skip_connection", False)
    place = _place(folder)
    hookpoint = place.name
    config = described(
        path,
        d_in=d_in,
        width=width,
        k=k,
        model_name=_model_name(place.parent),
        hookpoint=hookpoint + INPUT if transcoder else hookpoint,
        centred=not transcoder,
        target_hookpoint=hookpoint if transcoder else None,
        d_out=d_in if transcoder else None,
    )
    shapes = {
        "encoder.weight": (width, d_in),
        "encoder.bias": (width,),
        "W_dec": (width, d_in),
        "b_dec": (d_in,),
        **({"W_skip": (d_in, d_in)} if skip else {}),
    }
    tensors, _ = read_safetensors(folder / WEIGHTS_FILE)
    found = checked(tensors, shapes, folder / WEIGHTS_FILE, f"d_in {d_in} and {width} latents ({said}) in {path}")
    weights = Weights(
        encoder=found["encoder.weight"],
        encoder_bias=found["encoder.bias"],
        decoder=found["W_dec"],
        decoder_bias=found["b_dec"],
        skip=found.get("W_skip"),
    )
    return SAE(config, weights)


def save_sparsify(folder: Path, sae: SAE) -> None:
    """Write the SAE as the run `folder`: `<hookpoint>/cfg.json`, `<hookpoint>/sae.safetensors`, and the model's name.

    Raises InputError for an SAE that the format cannot hold.
    """
    config, weights = sae.config, sae.weights
    transcoder = config.target_hookpoint is not None
    hookpoint = config.target_hookpoint or config.hookpoint
    _refuse(config.architecture != "topk", f"architecture {config.architecture!r}", "it has TopK alone")
    _refuse(config.out != config.d_in, f"d_out {config.out}", f"its decoder is as wide as its input, {config.d_in}")
    _refuse(not transcoder and weights.skip is not None, "a skip path", "it is read here for transcoders alone")
    _refuse(hookpoint.endswith(INPUT), f"hookpoint {hookpoint!r}", "its SAEs reconstruct a module's output alone")
    _refuse(
        hookpoint in (".", "..") or "/" in hookpoint or "\\" in hookpoint,
        f"hookpoint {hookpoint!r}",
        "it names a folder by it, so it must have no slash",
    )
    weights = with_centring(weights, config.centred, not transcoder)
    tensors = {
        "encoder.weight": weights.encoder,
        "encoder.bias": weights.encoder_bias,
        "W_dec": weights.decoder,
        "b_dec": weights.decoder_bias,
        **({} if weights.skip is None else {"W_skip": weights.skip}),
    }
    settings = {
        "activation": "topk",
        # Of no meaning beside num_latents, but it must be a whole number.
        "expansion_factor": max(config.width // config.d_in, 1),
        "normalize_decoder": False,
        "num_latents": config.width,
        "k": config.k,
        "multi_topk": False,
        "skip_connection": weights.skip is not None,
        "transcode": transcoder,
        "d_in": config.d_in,
    }
    write_whole(folder / hookpoint / WEIGHTS_FILE, packed(tensors))
    write_whole(folder / hookpoint / CONFIG_FILE, (json.dumps(settings, indent=2) + "\n").encode())
    write_whole(folder / RUN_FILE, (json.dumps({"model": config.model_name}) + "\n").encode())


def _settings(path: Path) -> dict[str, Any]:
    settings = read_settings(path)
    unknown = {name: value for name, value in settings.items() if name not in _READ and value not in (None, False)}
    if unknown:
        said = ", ".join(f"{name} = {value!r}" for name, value in sorted(unknown.items()))
        raise InputError(f"{path} has settings that are not known here and may change the encoding: {said}")
    activation = settings.get("activation", "topk")
    if activation != "topk":
        raise InputError(f"activation is {activation!r} in {path}; known is topk alone: groupmax keeps other latents")
    for name in _FLAGS:
        if not isinstance(settings.get(name, False), bool):
            raise InputError(f"{name} is {settings[name]!r} in {path}, but must be true or false")
    # multi_topk is a second loss: the latents of the code are the k largest all the same.
    if settings.get("skip_connection") and not settings.get("transcode"):
        raise InputError(
            f"skip_connection is true and transcode false in {path}: an SAE that adds a linear map of its input to "
            f"the reconstruction has no place here; a transcoder has"
        )
    return settings


def _place(folder: Path) -> Path:
    """Where the hookpoint's folder stands in its run: as it was named, unless it is a link that only leads into one."""
    named, led = Path(os.path.abspath(folder)), folder.resolve()
    return led if (led.parent / RUN_FILE).is_file() and not (named.parent / RUN_FILE).is_file() else named


def _model_name(run: Path) -> str:
    """From the run's own settings; empty if there are none."""
    path = run / RUN_FILE
    return str(read_settings(path).get("model") or "") if path.is_file() else ""


def _refuse(wrong: bool, what: str, why: str) -> None:
    if wrong:
        raise InputError(f"the sparsify format cannot hold {what}: {why}")
