"""A trained SAE: its configuration, its weights, and both on disk in the SAELens layout."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from catalog.errors import InputError
from catalog.store.atomic_files import write_whole
from ingest.sae.architecture import Architecture, Weights, reconstruct
from ingest.sae.codes import SparseCode
from ingest.sae.config import SAEConfig
from ingest.sae.layout.cfg import CHECKSUM, Stored, check_scalable, check_scale, to_cfg
from ingest.sae.layout.fold import fold_decoder_norms, fold_factor, fold_mean
from ingest.sae.layout.packed import packed
from ingest.sae.layout.read_files import read_safetensors, read_settings
from ingest.sae.layout.saelens_cfg import FACTOR, read_cfg
from ingest.sae.layout.tensors import from_saelens, to_saelens
from ingest.sae.registry import architecture_of

CONFIG_FILE, WEIGHTS_FILE = "cfg.json", "sae_weights.safetensors"
SCALER_FILE = "activation_scaler.json"
"""Where SAELens keeps the factor of rows beside a checkpoint in the midst of training."""


class SAE:
    """A dictionary on one hookpoint: rows of the residual stream to sparse codes, and back."""

    def __init__(
        self,
        config: SAEConfig,
        weights: Weights,
        scale: float | None = None,
        target_scale: float | None = None,
        trained: Mapping[str, Any] | None = None,
    ) -> None:
        self.config = config
        self.weights = weights
        self.scale = scale
        """What rows were multiplied by in training, if known; the weights are those for rows as they are."""
        self.target_scale = target_scale
        """Transcoder: the same of the rows that it writes."""
        self.trained = dict(trained or {})
        """jumprelu: penalty and bandwidth of its training, where they are known."""
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
        weights = Weights(**{name: t.to(device) for name, t in self.weights.named().items()})
        return SAE(self.config, weights, self.scale, self.target_scale, self.trained)

    def save(self, folder: Path) -> None:
        """Write `cfg.json` and `sae_weights.safetensors` into `folder`, each whole or not at all.

        SAELens reads them wherever it has the architecture (see `saelens_cfg`), and refuses them where not. cfg.json
        holds the weights' checksum, so that `load` notices a pair of files that do not belong together.
        """
        content = packed(to_saelens(self.config, self.weights))
        write_whole(folder / WEIGHTS_FILE, content)
        checksum = _checksum(content)
        skip = self.weights.skip is not None
        settings = to_cfg(self.config, skip, checksum, self.scale, self.target_scale, self.trained)
        write_whole(folder / CONFIG_FILE, (json.dumps(settings, indent=2) + "\n").encode())

    def digest(self) -> str:
        """BLAKE2b-128 of the file of weights that `save` writes."""
        return _checksum(packed(to_saelens(self.config, self.weights)))

    @classmethod
    def load(cls, folder: Path, device: str | torch.device = "cpu", scale: float | None = None) -> "SAE":
        """Read what `save` wrote, with the same bits, or what SAELens wrote, versions 1 to 6; weights become float32.

        `scale` is what rows must be multiplied by for a checkpoint of SAELens that does not hold its own factor; it
        is folded into the weights.

        Raises InputError for a missing or unreadable file, a setting that cannot be honoured, a missing or unknown
        tensor, a wrong shape, a weight that is not finite, or weights that are not those of the configuration.
        """
        stored = read_cfg(folder / CONFIG_FILE)
        if scale is not None:
            check_scale(scale, folder)
            if stored.ours:
                raise InputError(f"scale {scale} is given for the SAE in {folder}, but saeql's need none: leave it out")
            check_scalable(scale, stored.config, folder)
        path = folder / WEIGHTS_FILE
        tensors, content = read_safetensors(path)
        if stored.checksum and stored.checksum != _checksum(content):
            raise InputError(
                f"{path} is not the file that {CONFIG_FILE} beside it was written for (checksums differ): train or "
                f"copy the SAE again, or remove {CHECKSUM!r} from {CONFIG_FILE} if the weights were changed on purpose"
            )
        weights = from_saelens(tensors, stored.config, stored.skip, path)
        if stored.by_decoder_norm:
            weights = fold_decoder_norms(weights)
        if stored.needs_factor and scale is None:
            scale = _factor(folder, stored)
        if scale is not None:
            weights = fold_factor(weights, scale)
        if stored.less_mean:
            weights = fold_mean(weights, stored.config.centred)
        scale = stored.scale if scale is None else scale
        return cls(stored.config, weights, scale, stored.target_scale, stored.trained).to(device)


def _checksum(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _factor(folder: Path, stored: Stored) -> float:
    """The factor of rows that SAELens left beside the weights. Raises InputError if there is none."""
    path = folder / SCALER_FILE
    found = read_settings(path).get("scaling_factor") if path.exists() else None
    if found is None:
        raise InputError(
            f"normalize_activations is {FACTOR!r} in {folder / CONFIG_FILE}: rows are to be multiplied by a factor, "
            f"sqrt(d_in) / their mean norm, which is not in the checkpoint. Give it as scale="
        )
    check_scale(found, path)
    return float(found)
