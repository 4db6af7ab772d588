"""Reads what all formats have in common: JSON settings, safetensors, and tensors of known shapes."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as unpacked
from torch import Tensor

from catalog.errors import InputError
from ingest.sae.config import SAEConfig


def read_settings(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises InputError if there is none."""
    try:
        settings = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"there is no SAE in {path.parent}: {path.name} cannot be read ({error.strerror})") from error
    except RecursionError as error:
        raise InputError(f"{path} is nested too deeply to be an SAE's configuration: {error}") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path} is not an SAE's configuration: it must be a JSON object")
    return settings


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], bytes]:
    """(the tensors, the file's bytes). Raises InputError if it is missing or not whole."""
    try:
        content = path.read_bytes()
        return unpacked(content), content
    except OSError as error:
        raise InputError(f"the SAE in {path.parent} has no readable {path.name}: {error.strerror}") from error
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{path} is not a safetensors file, or is cut short: {error}") from error


def whole_number(settings: Mapping[str, Any], name: str, path: Path) -> int:
    """`settings[name]`, which must be a whole number of at least 1."""
    value = settings.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} is {value!r} in {path}, but must be a whole number of at least 1")
    return value


def described(path: Path, **fields: Any) -> SAEConfig:
    """The SAEConfig with `fields`. Raises InputError naming the file `path` that they come from."""
    try:
        return SAEConfig(**fields)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def checked(
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    path: Path,
    sizes: str,
    unused: Iterable[str] = (),
) -> dict[str, Tensor]:
    """The tensors named in `shapes`, as float32. `sizes` says for a message where the shapes come from.

    Raises InputError for a tensor that is missing, of another shape, not of numbers or not finite, and for one that
    is neither named nor `unused`: it may take part in the encoding.
    """
    missing = shapes.keys() - tensors.keys()
    if missing:
        raise InputError(f"{path} lacks the tensors {sorted(missing)}; it has {sorted(tensors)}")
    unknown = tensors.keys() - shapes.keys() - set(unused)
    if unknown:
        raise InputError(
            f"{path} has the tensors {sorted(unknown)}, of which it is not known what they do to the encoding; "
            f"known are {sorted(shapes)}"
        )
    found = {}
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape:
            raise InputError(f"{name} in {path} has shape {tuple(tensor.shape)}, but {sizes} ask for {shape}")
        if tensor.is_complex() or tensor.dtype == torch.bool or tensor.layout != torch.strided:
            raise InputError(f"{name} in {path} holds {tensor.dtype}, but weights are real numbers")
        # Infinite after the conversion counts too: float64 has numbers that float32 has not.
        whole = tensor.float()
        bad = int((~whole.isfinite()).sum())
        if bad:
            raise InputError(f"{bad} of {whole.numel()} values of {name} in {path} are NaN or infinite")
        found[name] = whole.contiguous()
    return found
