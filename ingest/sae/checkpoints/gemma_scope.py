"""Gemma Scope's checkpoints: `params.npz`, a JumpReLU SAE that does not subtract b_dec from its input.

    z = relu(pre) * (pre > threshold),  pre = x W_enc + b_enc        x_hat = z W_dec + b_dec

The file says neither the model nor the hookpoint; they are taken from the path where it is that of a release, such as
`gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82`. A transcoder reads what comes out of the norm before the MLP
without its gain, which the authors folded into the MLP (Lieberum et al. 2024, appendix "Language model technical
details"): that is not what goes into the MLP of the model as it is published. What an SAE on an MLP reads, and a
transcoder writes, is what the MLP adds to the residual stream, which Gemma 2 takes from a second norm behind the MLP.
"""

import math
import os
import re
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from catalog.errors import InputError
from ingest.sae.architecture import Weights
from ingest.sae.layout.cfg import check_scalable
from ingest.sae.layout.fold import fold_factor
from ingest.sae.layout.hookpoint_names import AFTER_MLP
from ingest.sae.layout.read_files import checked, described
from ingest.sae.model import SAE

WEIGHTS_FILE = "params.npz"
_EMBEDDINGS = "embedding"
"""Hookpoint of an SAE on embeddings."""
_RELEASE = re.compile(r"gemma-scope-(\d+b)-(pt|it)-(res|mlp|att|transcoders)[^/]*")
_LAYER = re.compile(r"(?:^|/)layer_(\d+)(?=/|$)")
_EMBEDDING = re.compile(r"(?:^|/)embedding(?:/width_[^/]+(?:/average_l0_[^/]+)?)?$")
"""The end of a path in the layout of a release; another folder may be called so too."""


def load_gemma_scope(folder: Path, scale: float | None = None) -> SAE:
    """The SAE in `folder`. `scale` is what rows are to be multiplied by, and is folded into the weights.

    Raises InputError for what is not such a file, and for an SAE on embeddings without a scale.
    """
    path = folder / WEIGHTS_FILE
    tensors = _read(path)
    matrix = tensors.get("W_enc")
    if matrix is None or matrix.ndim != 2:
        said = f"has W_enc of shape {tuple(matrix.shape)}" if matrix is not None else f"has {sorted(tensors)}"
        raise InputError(f"{path} {said}, but needs W_enc of shape (d, latents)")
    d, width = matrix.shape
    latents = (width,)
    shapes = {"W_enc": (d, width), "W_dec": (width, d), "b_enc": latents, "b_dec": (d,), "threshold": latents}
    found = checked(tensors, shapes, path, f"d {d} and {width} latents (W_enc)")
    model_name, hookpoint, target = _from_path(folder)
    if hookpoint == _EMBEDDINGS and scale is None:
        raise InputError(
            f"{folder} is an SAE on embeddings, trained on sqrt(d) = {math.sqrt(d):.6g} times them: give "
            f"scale={math.sqrt(d):.6g} to read embeddings as they are stored, or scale=1 if the model multiplies them"
        )
    config = described(
        path,
        d_in=d,
        width=width,
        k=None,
        model_name=model_name,
        hookpoint=hookpoint,
        architecture="jumprelu",
        centred=False,
        target_hookpoint=target,
        d_out=None if target is None else d,
    )
    weights = Weights(
        encoder=found["W_enc"].T.contiguous(),
        encoder_bias=found["b_enc"],
        decoder=found["W_dec"],
        decoder_bias=found["b_dec"],
        threshold=found["threshold"],
    )
    if scale is not None:
        check_scalable(scale, config, folder)
        weights = fold_factor(weights, scale)
    return SAE(config, weights, scale)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:
            found = _arrays(file, path)
    except OSError as error:
        raise InputError(f"the SAE in {path.parent} has no readable {path.name}: {error.strerror or error}") from error
    wrong = {name: array.dtype for name, array in found.items() if array.dtype.kind not in "fiu"}
    if wrong:
        raise InputError(f"{path} has arrays that are not of numbers: {wrong}")
    # PyTorch reads neither foreign byte orders nor every width of float.
    return {name: torch.from_numpy(array.astype(np.float32)) for name, array in found.items()}


def _arrays(file: BinaryIO, path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise InputError(f"{path} is a single array of shape {loaded.shape} (npy), not an npz file of named arrays")
        # A member that is no array comes as bytes.
        return {name: np.asarray(loaded[name]) for name in loaded.files}
    except (InputError, OSError):
        raise
    # What a damaged archive raises is whatever zipfile, zlib or NumPy's parser stumbles over.
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{path} is not an npz file of plain arrays, or is cut short or damaged: {first}. "
            "Pickled objects are never read"
        ) from error


class _Told(NamedTuple):
    """What a path says."""

    release: tuple[str, str, str] | None
    """(size, pt or it, site)."""
    layer: int | None
    embedding: bool


def _told(path: str) -> _Told:
    """What is in a release's folder is named below it."""
    release = list(_RELEASE.finditer(path))
    below = path[release[-1].end() :] if release else path
    layers = _LAYER.findall(below)
    embedding = "embedding" in below.split("/") if release else _EMBEDDING.search(path) is not None
    found = (release[-1][1], release[-1][2], release[-1][3]) if release else None
    return _Told(found, int(layers[-1]) if layers else None, embedding)


def _from_path(folder: Path) -> tuple[str, str, str | None]:
    """(model, hookpoint, a transcoder's target) as far as the path tells.

    The path as it was given and the one that links lead to: either may hold the names, a release's own before others.
    """
    told = [_told(path.as_posix()) for path in (Path(os.path.abspath(folder)), folder.resolve())]
    told.sort(key=lambda one: one.release is None)
    release = next((one.release for one in told if one.release), None)
    layer = next((one.layer for one in told if one.layer is not None), None)
    other = _EMBEDDINGS if any(one.embedding for one in told) else "unknown"
    if release is None:
        return "", other if layer is None else f"layer_{layer}", None
    size, kind, site = release
    model = f"google/gemma-2-{size}" + ("-it" if kind == "it" else "")
    if layer is None:
        return model, other, f"{other} (target)" if site == "transcoders" else None
    behind = f"layers.{layer}.{AFTER_MLP}"
    match site:
        case "transcoders":
            return model, f"blocks.{layer}.ln2.hook_normalized", behind
        case "att":
            return model, f"layers.{layer}.self_attn.o_proj.input", None
        case "mlp":
            return model, behind, None
    return model, f"layers.{layer}", None
