"""Packs tensors as the bytes of a safetensors file."""

from safetensors.torch import save
from torch import Tensor


def packed(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """The tensors as a safetensors file's bytes."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
