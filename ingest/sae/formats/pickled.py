"""A PyTorch state dict from disk, without running what a pickle may contain."""

import pickle
import warnings
from pathlib import Path

import torch
from torch import Tensor

from catalog.errors import InputError


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors by name. Raises InputError for a file that holds anything else, code above all."""
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
    return found
