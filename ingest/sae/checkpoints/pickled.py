"""Reads a PyTorch state dict from disk without running what a pickle may contain."""

import pickle
import warnings
from pathlib import Path

import torch
from torch import Tensor

from catalog.errors import InputError


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors by name, each plain. Raises InputError for a file that holds anything else, code above all."""
    try:
        with warnings.catch_warnings():
            # It warns of unusual pickles, of which all that matters is whether they are refused.
            warnings.simplefilter("ignore")
            found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"the SAE in {path.parent} has no readable {path.name}: {error.strerror}") from error
    except pickle.UnpicklingError as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(
            f"{path} is refused: it holds more than tensors, or is damaged, and a pickle can run any code when read. "
            f"Save the state dict alone (PyTorch: {first})"
        ) from error
    # What torch raises for a cut or foreign file is whatever its parser stumbles over.
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} is not a PyTorch file, or is cut short: {first}") from error
    if not isinstance(found, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items()):
        raise InputError(f"{path} is not a state dict: it must hold tensors by name")
    for name, tensor in found.items():
        if odd := _oddity(tensor):
            raise InputError(f"{name} in {path} is {odd}: save it as a plain tensor of numbers")
    # Training changes tensors in place, which a parameter of a graph refuses.
    return {name: tensor.detach() for name, tensor in found.items()}


def _oddity(tensor: Tensor) -> str:
    """Why numbers cannot be read off a tensor as off a plain one; empty if they can."""
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.is_meta:
        return "a meta tensor, which holds no numbers"
    if tensor.is_quantized:
        return f"quantised ({tensor.dtype})"
    return "" if tensor.layout == torch.strided else f"not dense ({tensor.layout})"
