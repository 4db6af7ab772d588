"""A trained SAE: its configuration, its weights, and both on disk in the SAELens layout."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as unpacked
from torch import Tensor

from catalog.errors import InputError
from ingest.sae.architecture import Architecture, Weights, reconstruct
from ingest.sae.codes import SparseCode
from ingest.sae.config import SAEConfig
from ingest.sae.files import packed, write_whole
from ingest.sae.registry import architecture_of

CONFIG_FILE, WEIGHTS_FILE = "cfg.json", "sae_weights.safetensors"
_CHECKSUM = "weights_blake2b"
_FIXED = {
    "apply_b_dec_to_input": True,
    "normalize_activations": "none",
    "reshape_activations": "none",
    "rescale_acts_by_decoder_norm": False,
}
"""SAELens settings that have one value here; another must be folded into the weights before loading."""


class SAE:
    """A dictionary on one hookpoint: rows of the residual stream to sparse codes, and back."""

    def __init__(self, config: SAEConfig, weights: Weights) -> None:
        self.config = config
        self.weights = weights
        self.architecture: Architecture = architecture_of(config)

    @torch.inference_mode()
    def encode(self, x: Tensor) -> SparseCode:
        """The code of rows `x` [n, d_in], float32; a pair of value 0 is no activation."""
        return self.architecture.encode(self.weights, x)

    @torch.inference_mode()
    def decode(self, code: SparseCode, x: Tensor | None = None) -> Tensor:
        """The rows [n, d_out] that a code stands for; a transcoder with a skip path needs its input `x` too."""
        return reconstruct(self.weights, code, x)

    def to(self, device: str | torch.device) -> "SAE":
        """The same SAE with its weights on `device`."""
        return SAE(self.config, Weights(**{name: t.to(device) for name, t in self.weights.named().items()}))

    def save(self, folder: Path) -> None:
        """Write `cfg.json` and `sae_weights.safetensors` into `folder`, each whole or not at all.

        cfg.json holds the weights' checksum, so that `load` notices a pair of files that do not belong together.
        """
        content = packed(_to_saelens(self.weights))
        write_whole(folder / WEIGHTS_FILE, content)
        settings = _settings(self.config, hashlib.blake2b(content, digest_size=16).hexdigest())
        write_whole(folder / CONFIG_FILE, (json.dumps(settings, indent=2) + "\n").encode())

    @classmethod
    def load(cls, folder: Path, device: str | torch.device = "cpu") -> "SAE":
        """Read what `save` wrote, or SAELens for a TopK SAE; weights become float32.

        Raises InputError for a missing or unreadable file, a setting that this encoder does not have, a missing
        tensor, a wrong shape, a weight that is not finite, or weights that are not those of the configuration.
        """
        settings = _read_settings(folder / CONFIG_FILE)
        config = _config_of(settings, folder / CONFIG_FILE)
        path = folder / WEIGHTS_FILE
        try:
            content = path.read_bytes()
            tensors = unpacked(content)
        except OSError as error:
            raise InputError(f"the SAE in {folder} has no readable {WEIGHTS_FILE}: {error.strerror}") from error
        except SafetensorError as error:
            raise InputError(f"{path} is not a safetensors file, or is cut short: {error}") from error
        expected = settings["metadata"].get(_CHECKSUM)
        if expected and expected != hashlib.blake2b(content, digest_size=16).hexdigest():
            raise InputError(
                f"{path} is not the file that {CONFIG_FILE} beside it was written for (checksums differ): train or "
                f"copy the SAE again, or remove {_CHECKSUM!r} from {CONFIG_FILE} if the weights were changed on purpose"
            )
        return cls(config, _from_saelens(tensors, config, path)).to(device)


def _to_saelens(weights: Weights) -> dict[str, Tensor]:
    return {
        "W_enc": weights.encoder.T,
        "b_enc": weights.encoder_bias,
        "W_dec": weights.decoder,
        "b_dec": weights.decoder_bias,
    }


def _from_saelens(tensors: dict[str, Tensor], config: SAEConfig, path: Path) -> Weights:
    d, latents = config.d_in, config.width
    shapes = {"W_enc": (d, latents), "b_enc": (latents,), "W_dec": (latents, d), "b_dec": (d,)}
    missing = shapes.keys() - tensors.keys()
    if missing:
        raise InputError(f"{path} lacks the tensors {sorted(missing)}; it has {sorted(tensors)}")
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape:
            raise InputError(
                f"{name} in {path} has shape {tuple(tensor.shape)}, but d_in {d} and width {latents} ask for {shape}"
            )
        bad = int((~tensor.isfinite()).sum())
        if bad:
            raise InputError(f"{bad} of {tensor.numel()} values of {name} in {path} are NaN or infinite")
    whole = {name: tensors[name].float() for name in shapes}
    return Weights(whole["W_enc"].T.contiguous(), whole["b_enc"], whole["W_dec"].contiguous(), whole["b_dec"])


def _settings(config: SAEConfig, checksum: str) -> dict[str, Any]:
    return {
        "architecture": config.architecture,
        "d_in": config.d_in,
        "d_sae": config.width,
        "dtype": "float32",
        "device": "cpu",
        **_FIXED,
        "k": config.k,
        "metadata": {"model_name": config.model_name, "hook_name": config.hookpoint, _CHECKSUM: checksum},
    }


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"there is no SAE in {path.parent}: {path.name} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(settings, dict) or not isinstance(settings.setdefault("metadata", {}), dict):
        raise InputError(f"{path} is not an SAE's configuration: it and its metadata must be JSON objects")
    return settings


def _config_of(settings: dict[str, Any], path: Path) -> SAEConfig:
    missing = {"architecture", "d_in", "d_sae", "k"} - settings.keys()
    if missing:
        raise InputError(f"{path} lacks {sorted(missing)}; it has {sorted(settings)}")
    for name, supported in _FIXED.items():
        if settings.get(name, supported) != supported:
            raise InputError(
                f"{name} is {settings[name]!r} in {path}, but only {supported!r} is supported: "
                f"fold it into the weights first"
            )
    metadata = settings["metadata"]
    return SAEConfig(
        d_in=settings["d_in"],
        width=settings["d_sae"],
        k=settings["k"],
        model_name=str(metadata.get("model_name") or ""),
        hookpoint=str(metadata.get("hook_name") or "unknown"),
        architecture=settings["architecture"],
    )
