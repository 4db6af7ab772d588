"""Decides whether a step's sparse products and its optimiser run as Triton kernels or as torch's own."""

from functools import cache
from importlib.util import find_spec

from torch import Tensor


def use_kernels(tensor: Tensor) -> bool:
    """Whether kernels are for tensors like this one: on a GPU, and not in float64, which they do not sum in."""
    return tensor.element_size() < 8 and _have_kernels(tensor.device.type)


@cache
def _have_kernels(device: str) -> bool:
    # torch's builds for CUDA and ROCm bring Triton along, those for CPUs do not.
    return device == "cuda" and find_spec("triton") is not None
