"""dictionary_learning's checkpoints: `ae.pt`, a state dict, and `config.json`, which names its class.

The class alone decides the encoding; the other settings are those of training. Linear layers hold a matrix as
[out, in], so encoder.weight is [latents, d] and decoder.weight [d, latents].
"""

import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from catalog.errors import InputError
from catalog.store.atomic_files import write_whole
from catalog.study.terms import KEEPS_K
from ingest.sae.architecture import Weights
from ingest.sae.checkpoints.pickled import read_state_dict
from ingest.sae.layout.fold import fold_decoder_norms, with_centring
from ingest.sae.layout.hookpoint_names import INPUT
from ingest.sae.layout.read_files import checked, described, read_settings, whole_number
from ingest.sae.layout.tensors import ONE_THRESHOLD
from ingest.sae.model import SAE

WEIGHTS_FILE, CONFIG_FILE = "ae.pt", "config.json"
_LINEAR = {"encoder": "encoder.weight", "encoder_bias": "encoder.bias", "decoder": "decoder.weight"}
_PLAIN = {"encoder": "W_enc", "encoder_bias": "b_enc", "decoder": "W_dec", "decoder_bias": "b_dec"}


@dataclass(frozen=True)
class _Class:
    """How a class of the library stores an SAE of ours."""

    architecture: str
    names: Mapping[str, str]
    """Field of Weights -> tensor."""
    trainer: str
    centred: bool = True
    unit_decoder: bool = False
    """Whether the library brings decoder rows to norm 1 when it reads the file."""


_CLASSES = {
    "AutoEncoder": _Class("relu", {**_LINEAR, "decoder_bias": "bias"}, "StandardTrainer", unit_decoder=True),
    "AutoEncoderNew": _Class("relu", {**_LINEAR, "decoder_bias": "decoder.bias"}, "StandardTrainer", centred=False),
    "AutoEncoderTopK": _Class("topk", {**_LINEAR, "decoder_bias": "b_dec"}, "TopKTrainer"),
    "BatchTopKSAE": _Class(
        "batchtopk", {**_LINEAR, "decoder_bias": "b_dec", "threshold": "threshold"}, "BatchTopKTrainer"
    ),
    "JumpReluAutoEncoder": _Class("jumprelu", {**_PLAIN, "threshold": "threshold"}, "JumpReluTrainer", centred=False),
    "GatedAutoEncoder": _Class(
        "gated",
        {
            "encoder": "encoder.weight",
            "encoder_bias": "gate_bias",
            "decoder": "decoder.weight",
            "decoder_bias": "decoder_bias",
            "magnitude": "r_mag",
            "magnitude_bias": "mag_bias",
        },
        "GatedSAETrainer",
    ),
    "MatryoshkaBatchTopKSAE": _Class("matryoshka", {**_PLAIN, "threshold": "threshold"}, "MatryoshkaBatchTopKTrainer"),
}
_WHOLE = (
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.int8, torch.int16, torch.int32, torch.int64),
)
"""Types of whole numbers, truth values aside."""
_UNUSED = ("k", "threshold", "group_sizes")
"""Tensors that are read apart, or that the class does not use at inference."""


def load_dictionary_learning(folder: Path) -> SAE:
    """The SAE in `folder`. Raises InputError for an unknown class and for tensors that are not the class's."""
    path, config_path = folder / WEIGHTS_FILE, folder / CONFIG_FILE
    settings = read_settings(config_path)
    trainer = settings.get("trainer")
    if not isinstance(trainer, dict):
        raise InputError(f"trainer is {trainer!r} in {config_path}, but must be a JSON object")
    name = trainer.get("dict_class")
    if not isinstance(name, str) or name not in _CLASSES:
        raise InputError(f"dict_class is {name!r} in {config_path}; known are: {', '.join(_CLASSES)}")
    stored = _CLASSES[name]
    tensors = read_state_dict(path)
    d, width = _sizes(tensors, stored, trainer, path, config_path)
    k = _k(tensors, trainer, path, config_path) if stored.architecture in KEEPS_K else None
    config = described(
        config_path,
        d_in=d,
        width=width,
        k=k,
        model_name=str(trainer.get("lm_name") or ""),
        hookpoint=_hookpoint(trainer, settings.get("buffer"), config_path),
        architecture=stored.architecture,
        centred=stored.centred,
        groups=_groups(tensors, width, path) if stored.architecture == "matryoshka" else (),
    )
    shapes: dict[str, tuple[int, ...]] = {"encoder": (width, d), "decoder": (width, d), "decoder_bias": (d,)}
    if config.architecture in ONE_THRESHOLD:
        shapes["threshold"] = ()
    turned = _turned(stored)
    shapes[turned] = shapes[turned][::-1]
    expected = {tensor: shapes.get(field, (width,)) for field, tensor in stored.names.items()}
    found = checked(tensors, expected, path, f"activation_dim {d} and dict_size {width}", _unused(stored))
    fields = {field: found[tensor] for field, tensor in stored.names.items()}
    fields[turned] = fields[turned].T.contiguous()
    weights = Weights(**fields)
    norms = weights.decoder.norm(dim=1)
    if stored.unit_decoder and not torch.allclose(norms, torch.ones_like(norms)):
        weights = fold_decoder_norms(weights)
    return SAE(config, weights)


def save_dictionary_learning(folder: Path, sae: SAE) -> None:
    """Write `ae.pt` and `config.json`. Raises InputError for an SAE that the format cannot hold.

    An SAE that subtracts b_dec where its class does not, or the other way about, gets its encoder bias changed so
    that it computes the same.
    """
    config = sae.config
    if config.target_hookpoint is not None:
        raise InputError(
            "the dictionary_learning format cannot hold a transcoder: its classes read and write one width"
        )
    if sae.weights.skip is not None:
        raise InputError("the dictionary_learning format cannot hold a skip path: it has no tensor for it")
    name = _class_of(sae)
    stored = _CLASSES[name]
    weights = with_centring(sae.weights, config.centred, stored.centred)
    turned = _turned(stored)
    tensors = {}
    for field, tensor in stored.names.items():
        value = torch.tensor(-1.0) if field == "threshold" and weights.threshold is None else getattr(weights, field)
        value = value.T if field == turned else value
        # A view would be saved with all that it is a view of.
        tensors[tensor] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    if config.k is not None:
        tensors["k"] = torch.tensor(config.k, dtype=torch.int)
        tensors.setdefault("threshold", torch.tensor(-1.0))
    module = config.hookpoint.removesuffix(INPUT)
    buffer = {} if module == config.hookpoint else {"io": "in"}
    block = None if buffer else re.fullmatch(r"layers\.(\d+)", module)
    layer = re.search(r"\d+", config.hookpoint)
    trainer: dict[str, Any] = {
        "trainer_class": stored.trainer,
        "dict_class": name,
        "activation_dim": config.d_in,
        "dict_size": config.width,
        "layer": int(layer[0]) if layer else None,
        "lm_name": config.model_name,
        "submodule_name": f"resid_post_layer_{block[1]}" if block else module,
    }
    if config.k is not None:
        trainer["k"] = config.k
    if config.groups:
        sizes = [high - low for low, high in zip((0, *config.groups), config.groups, strict=False)]
        trainer["group_sizes"] = sizes
        tensors["group_sizes"] = torch.tensor(sizes)
    content = io.BytesIO()
    torch.save(tensors, content)
    write_whole(folder / WEIGHTS_FILE, content.getvalue())
    write_whole(folder / CONFIG_FILE, (json.dumps({"trainer": trainer, "buffer": buffer}, indent=2) + "\n").encode())


def _class_of(sae: SAE) -> str:
    """The class that computes what `sae` does, also after the library has read it."""
    norms = sae.weights.decoder.norm(dim=1)
    unit = torch.allclose(norms, torch.ones_like(norms))
    return next(
        name
        for name, stored in _CLASSES.items()
        if stored.architecture == sae.config.architecture and (unit or not stored.unit_decoder)
    )


def _turned(stored: _Class) -> str:
    """The field whose tensor holds one latent per column."""
    return "encoder" if stored.names["encoder"] == "W_enc" else "decoder"


def _unused(stored: _Class) -> tuple[str, ...]:
    return _UNUSED if stored.architecture in KEEPS_K else ()


def _sizes(
    tensors: dict[str, Tensor], stored: _Class, trainer: dict[str, Any], path: Path, config_path: Path
) -> tuple[int, int]:
    """(d, latents) of the encoder. Raises InputError if the settings name others."""
    name = stored.names["encoder"]
    matrix = tensors.get(name)
    if matrix is None or matrix.ndim != 2:
        said = f"has {name} of shape {tuple(matrix.shape)}" if matrix is not None else f"has {sorted(tensors)}"
        raise InputError(f"{path} {said}, but needs {name}, a matrix")
    width, d = matrix.shape if _turned(stored) == "decoder" else reversed(matrix.shape)
    for setting, size in (("activation_dim", d), ("dict_size", width)):
        if trainer.get(setting) is not None and whole_number(trainer, setting, config_path) != size:
            raise InputError(
                f"{setting} is {trainer[setting]} in {config_path}, but {name} in {path} has shape "
                f"{tuple(matrix.shape)}, which makes it {size}"
            )
    return d, width


def _k(tensors: dict[str, Tensor], trainer: dict[str, Any], path: Path, config_path: Path) -> int:
    stored = tensors.get("k")
    if stored is None:
        return whole_number(trainer, "k", config_path)
    if stored.numel() != 1 or stored.dtype not in _WHOLE:
        raise InputError(f"k in {path} is {stored.dtype} of shape {tuple(stored.shape)}, but must be one whole number")
    k = int(stored)
    if trainer.get("k") is not None and trainer["k"] != k:
        raise InputError(f"k is {trainer['k']!r} in {config_path}, but {k} in {path}")
    return k


def _groups(tensors: dict[str, Tensor], width: int, path: Path) -> tuple[int, ...]:
    """Where each nested dictionary ends, from the latents that each adds."""
    sizes = tensors.get("group_sizes")
    if sizes is None or sizes.ndim != 1 or sizes.dtype not in _WHOLE:
        raise InputError(f"{path} needs group_sizes, a list of whole numbers, for its nested dictionaries")
    # PyTorch compares and adds up few of the unsigned types.
    sizes = sizes.long()
    if not len(sizes) or int(sizes.min()) < 1 or int(sizes.sum()) != width:
        raise InputError(f"group_sizes is {sizes.tolist()} in {path}, but must be positive and add up to {width}")
    return tuple(sizes.cumsum(0).tolist())


def _hookpoint(trainer: dict[str, Any], buffer: object, path: Path) -> str:
    """The submodule's name, with `.input` after it if the buffer that the SAE was trained from read what goes into it.

    `resid_post_layer_8`, as the library's own scripts name a block's output, is ours `layers.8`. Raises InputError for
    a buffer that read both sides.
    """
    side = buffer.get("io", "out") if isinstance(buffer, dict) else "out"
    if side not in ("in", "out"):
        raise InputError(
            f"buffer.io is {side!r} in {path}; known are: in, out. What was trained on both sides of a module is a "
            "transcoder, and the format's classes are read as SAEs"
        )
    name = str(trainer.get("submodule_name") or "")
    if block := re.fullmatch(r"resid_post_layer_(\d+)", name):
        name = f"layers.{block[1]}"
    name = name or (f"layer_{trainer['layer']}" if trainer.get("layer") is not None else "unknown")
    return name + INPUT if side == "in" else name
