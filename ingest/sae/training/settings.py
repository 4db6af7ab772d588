"""Holds the settings of a training run, and what it reports."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from typing import NamedTuple, get_args

from catalog.errors import InputError
from catalog.study.terms import KEEPS_K, Precision, Schedule
from ingest.sae.config import Objective, SAEConfig


@dataclass(frozen=True)
class TrainConfig:
    """How an SAE is trained. Raises InputError if the fields contradict each other."""

    sae: SAEConfig
    objective: Objective = field(default_factory=Objective)
    steps: int = 1000
    """Optimiser steps."""
    batch: int = 2048
    """Rows (tokens) per step, over all processes."""
    learning_rate: float = 3e-3
    """Peak rate of Adam, on rows scaled to a mean norm of sqrt(d)."""
    warmup: int = 50
    """Steps over which the rate rises from 0."""
    decay: int = 300
    """Last steps, over which the rate falls to 0."""
    schedule: Schedule = "linear"
    """Shape of the fall."""
    sparsity_warmup: int = 0
    """Steps over which the sparsity coefficient rises from 0."""
    l0_range: tuple[float, float] | None = None
    """Hold the mean number of active latents in this range by adjusting the sparsity coefficient."""
    resample_every: int = 0
    """relu: steps between two resamplings of dead latents, until the decay begins; 0 for none."""
    precision: Precision = "float32"
    """Format in which training multiplies; weights, optimiser and sums stay in float32."""
    dead_after: int = 200_000
    """Tokens without firing after which a latent counts as dead."""
    seed: int = 0
    """Decides the initial decoder and the order of rows."""
    checkpoint_every: int = 200
    """Steps between two checkpoints."""
    metrics_every: int = 50
    """Steps between two rows of metrics."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "dead_after", "checkpoint_every", "metrics_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} of a training run is {getattr(self, name)}, but must be at least 1")
        for name in ("warmup", "decay", "seed", "sparsity_warmup", "resample_every"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} of a training run is {getattr(self, name)}, but must not be negative")
        for name, known in (("schedule", get_args(Schedule)), ("precision", get_args(Precision))):
            if getattr(self, name) not in known:
                raise InputError(f"{name} {getattr(self, name)!r} is not known; known are: {', '.join(known)}")
        if self.warmup + self.decay > self.steps:
            raise InputError(
                f"a warm-up of {self.warmup} and a decay of {self.decay} steps do not fit in {self.steps} steps"
            )
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"learning_rate is {self.learning_rate}, but must be a positive number")
        if self.objective.k_aux > self.sae.width:
            raise InputError(f"k_aux {self.objective.k_aux} is above the width {self.sae.width}")
        if self.l0_range is not None:
            low, high = self.l0_range
            if self.sae.architecture in KEEPS_K:
                raise InputError(f"l0_range has no meaning for {self.sae.architecture!r}: its k fixes the L0")
            if not 0 < low <= high <= self.sae.width:
                raise InputError(f"l0_range [{low}, {high}] must ascend from above 0 to at most {self.sae.width}")
            if self.objective.sparsity <= 0:
                raise InputError("l0_range adjusts the sparsity coefficient, which must begin above 0")
        if self.resample_every and self.sae.architecture != "relu":
            raise InputError("resample_every belongs to architecture 'relu'; the TopK family has k_aux")


class Metric(NamedTuple):
    """One row of the table `training`."""

    step: int
    loss: float
    fve: float
    l0: float
    dead: int
    learning_rate: float
    sparsity: float
    """Coefficient of the sparsity penalty in this step."""
    tokens_per_s: float
    """Since the row before, or since the run began or went on."""

    @classmethod
    def of(cls, row: list[float]) -> "Metric":
        """The row that JSON holds as a list."""
        step, loss, fve, l0, dead, *others = row
        return cls(int(step), loss, fve, l0, int(dead), *others)


@dataclass(frozen=True)
class TrainReport:
    """A finished run."""

    steps: int
    tokens: int
    """Rows seen, repetitions included."""
    loss: float
    """Of the last batch, as are fve and l0."""
    fve: float
    l0: float
    dead: int
    """Latents that had not fired for `dead_after` tokens at the end."""
    scale: float
    """Rows were multiplied by it for training; it is folded into the saved weights."""
    sparsity: float = 0.0
    """Sparsity coefficient at the end."""
    resumed_at: int = 0
    """Step from which this call went on; equal to `steps` if the run had been finished before."""
    restarted_because: str = ""
    """Why an existing checkpoint was not continued; empty if there was none, or it was."""
    metrics: list[Metric] = field(default_factory=list, compare=False)


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of a step counted from 0: linear warm-up, constant, linear or cosine fall to 0 behind the last step."""
    rise = min((step + 1) / max(config.warmup, 1), 1.0)
    fall = min((config.steps - step) / max(config.decay, 1), 1.0)
    if config.schedule == "cosine":
        fall = (1 - math.cos(math.pi * fall)) / 2
    return config.learning_rate * min(rise, fall)


def run_digest(config: TrainConfig, *inputs: str) -> str:
    """BLAKE2b-128 of the configuration and of what else decides the weights; how often to save does not matter."""
    skipped = ("checkpoint_every", "metrics_every")
    settings = {name: value for name, value in asdict(config).items() if name not in skipped}
    text = json.dumps([settings, inputs], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
