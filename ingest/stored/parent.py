"""Finds the SAE that a fine-tuning begins with, by its name in the catalog or by its folder, and what it decides.

What a plan asks of a parent is answered without its weights: only a training loads them.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catalog import Catalog
from catalog.errors import InputError
from catalog.store.shards import file_digest
from catalog.study.base import is_folder
from catalog.study.sae import Sae
from ingest.sae.config import PENALTIES, Objective
from ingest.sae.layout.read_files import read_settings
from ingest.sae.layout.saelens_cfg import FACTOR, read_cfg
from ingest.sae.model import CONFIG_FILE, SAE, WEIGHTS_FILE

_OF_CHECKPOINTS = (".safetensors", ".json", ".pt", ".npz")
"""Endings of the files that some format reads."""


@dataclass(frozen=True)
class Origin:
    """What a child begins with."""

    sae: SAE
    digest: str
    """Of its weights file and of what else decides its code, or of its folder."""
    sparsity: float | None = None
    """The sparsity coefficient that its training ended with, if known."""


@dataclass
class FolderDigests:
    """Digests of folders; a file is read once, as long as it stays as it is."""

    _known: dict[tuple[Path, int, int, int], str] = field(default_factory=dict)

    def of(self, folder: Path) -> str:
        """Of the files that some format reads. Raises InputError for no folder, and for a file that is unreadable."""
        if not folder.is_dir():
            raise InputError(f"the checkpoint {folder} is not a directory")
        # A sparsify run has a folder for each hookpoint; what else lies there, a README say, decides nothing.
        found = [path for depth in ("*", "*/*") for path in folder.glob(depth) if path.suffix in _OF_CHECKPOINTS]
        return "".join(self._of_file(path) for path in sorted(found) if path.is_file())

    def _of_file(self, path: Path) -> str:
        try:
            found = path.stat()
            key = (path, found.st_size, found.st_mtime_ns, found.st_ino)
            if key not in self._known:
                self._known[key] = file_digest(path)
        except OSError as error:
            raise InputError(
                f"{path} cannot be read ({error.strerror}): it counts as part of the checkpoint in its folder; make it "
                "readable, or move it away"
            ) from error
        return self._known[key]


def parent_of(catalog: Catalog, name: str, digests: FolderDigests, scale: float | None = None) -> Origin:
    """A parent by name or path, with its weights.

    `scale` is what rows are multiplied by for one on disk that asks for a factor which it does not hold.
    """
    from ingest.sae.checkpoints.load import load_checkpoint_folder

    if is_folder(name):
        return Origin(load_checkpoint_folder(Path(name), scale), digests.of(Path(name)))
    weights, digest, sparsity = _row(catalog, name)
    return Origin(SAE.load(catalog.weights_of(weights)), digest, sparsity)


def parent_digest(catalog: Catalog, name: str, digests: FolderDigests) -> str:
    """The digest that `parent_of` gives, without loading the weights."""
    return digests.of(Path(name)) if is_folder(name) else _row(catalog, name)[1]


def _row(catalog: Catalog, name: str) -> tuple[str, str, float | None]:
    """(weights' folder, what identifies it, sparsity coefficient) of an SAE of the catalog."""
    # The same weights make other codes by another k, say.
    rows: list[tuple[str, str, float | None]] = catalog.rows(
        "SELECT weights, concat_ws('/', digest, code), sparsity FROM saes WHERE sae = ?", [name]
    )
    if not rows:
        known = ", ".join(row[0] for row in catalog.rows("SELECT sae FROM saes ORDER BY sae"))
        raise InputError(f"there is no SAE {name!r} to begin with; the catalog has {known or 'none'}")
    return rows[0]


def architecture_in(folder: Path, scale: float | None = None) -> str:
    """The architecture of the SAE in a folder, without its weights where its configuration stands beside them."""
    from ingest.sae.checkpoints.load import load_checkpoint_folder

    if (folder / WEIGHTS_FILE).is_file():
        return read_cfg(folder / CONFIG_FILE).config.architecture
    return load_checkpoint_folder(folder, scale).config.architecture


def inherited(catalog: Catalog, sae: Sae, source: str) -> dict[str, Any]:
    """Keys of JumpReLU's objective that the section leaves to `source`, where that was not trained by the defaults.

    `source` is its parent or checkpoint. The catalog knows what an SAE was trained by; a folder on disk tells it if
    saeql trained the SAE there, or SAELens left its settings.
    """
    architecture, said = _trained_by(catalog, source)
    return left_to(sae, said) if (sae.architecture or architecture) == "jumprelu" else {}


def left_to(sae: Sae, said: dict[str, Any]) -> dict[str, Any]:
    """What `said` has of JumpReLU's objective where the section leaves it out, defaults aside."""
    return {
        key: said[key]
        for key in ("penalty", "bandwidth")
        if said.get(key) not in (None, getattr(Objective, key)) and getattr(sae, key) is None
    }


def _trained_by(catalog: Catalog, name: str) -> tuple[str | None, dict[str, Any]]:
    """(architecture, JumpReLU's penalty and bandwidth) of a parent, None where they are not known."""
    if is_folder(name):
        return _left_in(Path(name))
    rows = catalog.rows("SELECT architecture, config FROM saes WHERE sae = ?", [name])
    if not rows:
        return None, {}
    config = json.loads(rows[0][1])
    return rows[0][0], {key: config.get(key) for key in ("penalty", "bandwidth")}


def _left_in(folder: Path) -> tuple[str | None, dict[str, Any]]:
    if not (folder / WEIGHTS_FILE).is_file() or not (folder / CONFIG_FILE).is_file():
        return None, {}
    stored = read_cfg(folder / CONFIG_FILE)
    if stored.ours:
        return stored.config.architecture, stored.trained
    settings = read_settings(folder / CONFIG_FILE)
    penalty, bandwidth = (settings.get(f"jumprelu_{name}") for name in ("sparsity_loss_mode", "bandwidth"))
    # It counts in activations as they were trained on, which are scaled as ours only where rows are given a norm.
    scaled = settings.get("normalize_activations") in (FACTOR, True)
    usable = isinstance(bandwidth, float) and math.isfinite(bandwidth) and bandwidth > 0
    return stored.config.architecture, {
        "penalty": penalty if penalty in PENALTIES else None,
        "bandwidth": bandwidth if scaled and usable else None,
    }
