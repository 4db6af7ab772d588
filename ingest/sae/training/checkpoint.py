"""Saves and reads the state of a training run in one file: enough to go on as if it had never stopped."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from catalog.store.atomic_files import write_whole
from ingest.sae.layout.packed import packed

CHECKPOINT_FILE = "checkpoint.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A run after `step` steps. The sampler needs no state: its order follows from the seed and the step."""

    digest: str
    """Of the run's configuration and rows: another run must not continue from it."""
    step: int
    tensors: dict[str, Tensor]
    """Weights, Adam's moments, tokens since each latent fired."""
    metrics: list[list[float]]
    """Rows of metrics so far."""


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the folder's checkpoint, whole or not at all."""
    header = {"digest": checkpoint.digest, "step": str(checkpoint.step), "metrics": checkpoint.metrics}
    write_whole(folder / CHECKPOINT_FILE, packed(checkpoint.tensors, {"run": json.dumps(header)}))


def load_checkpoint(folder: Path) -> Checkpoint | str:
    """The folder's checkpoint, or why there is none that can be used."""
    path = folder / CHECKPOINT_FILE
    if not path.exists():
        return ""
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            header = json.loads((file.metadata() or {})["run"])
            # A copy is aligned as it was before the save; vector kernels sum unaligned memory in another order,
            # and the resumed run would end in other bits.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        return Checkpoint(str(header["digest"]), int(header["step"]), tensors, list(header["metrics"]))
    except (SafetensorError, KeyError, ValueError, OSError, RuntimeError) as error:
        return f"the checkpoint {path} cannot be read: {error}"
