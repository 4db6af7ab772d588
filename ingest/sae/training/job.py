"""Describes a training job: a configuration, where its SAE is left, what it begins with."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ingest.sae.architecture import Weights
from ingest.sae.training.settings import TrainConfig

Progress = Callable[[int, int, float, float, float, int], None]
"""Called with (steps done, steps, loss, FVE, L0, dead latents) of the batch just seen."""


@dataclass(frozen=True)
class Parent:
    """The SAE that a fine-tuning begins with."""

    weights: Weights
    """For rows as they are, unscaled."""
    digest: str
    """Of its weights file: another parent is another run."""
    scale: float | None = None
    """What its rows were multiplied by in training, so that coefficients keep their meaning; None: from the rows."""
    target_scale: float | None = None
    """Transcoder: the same of the rows that it writes."""


@dataclass(frozen=True)
class Job:
    """One SAE to train."""

    config: TrainConfig
    out_dir: Path
    """Where it is left, for `SAE.load`; belongs to one run at a time."""
    parent: Parent | None = None
    progress: Progress | None = None
    skip: bool = False
    """Transcoder: with a linear path from input to output, zero at the beginning."""
