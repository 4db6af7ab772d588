"""Reads [[sae]]: dictionaries that are trained, fine-tuned or loaded."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from catalog.study.base import Count, FilePath, Name, NameOrPath, Names, Section
from catalog.study.terms import KEEPS_K, Architecture, Penalty, Precision, Schedule

NEEDS = {
    "k": KEEPS_K,
    "k_aux": KEEPS_K,
    "sparsity": ("relu", "jumprelu", "gated"),
    "l0_range": ("relu", "jumprelu", "gated"),
    "sparsity_warmup": ("relu", "jumprelu", "gated"),
    "resample_every": ("relu",),
    "penalty": ("jumprelu",),
    "bandwidth": ("jumprelu",),
    "groups": ("matryoshka",),
}
"""Keys that only some architectures read."""
WIDTH, K = 2048, 32
"""What is left out, where no parent and no checkpoint says it."""
WARMUP, DECAY = 50, 300
"""Steps, of a run that is long enough."""

Positive = Annotated[float, Field(gt=0)]
Range = Annotated[tuple[Positive, Positive], Field(strict=False)]
Sizes = Annotated[tuple[Count, ...], Field(strict=False)]
Numbers = Annotated[tuple[float, ...], Field(strict=False, min_length=1)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(strict=False, min_length=1)]


class Sae(Section):
    """A dictionary on one hookpoint: trained as said here, fine-tuned from a parent, or loaded from a checkpoint."""

    name: Name
    """Its name in the catalog."""
    hookpoint: str = Field(default="layers.1", min_length=1)
    """Module of the model whose output is read; with `.input` after its name, what goes into it."""
    target: str | None = Field(default=None, min_length=1)
    """Hookpoint that is reconstructed, which makes it a transcoder; none: the hookpoint itself."""
    skip: bool = False
    """Transcoder: a linear path from input to output beside the latents."""
    parent: NameOrPath | None = None
    """Fine-tune from this SAE of the catalog, or from a checkpoint's folder (a path with a / in it)."""
    checkpoint: FilePath | None = None
    """Folder to load instead of training: SAELens, sparsify, dictionary_learning or Gemma Scope."""
    scale: Positive | None = None
    """What rows are multiplied by, for a checkpoint or parent on disk that asks for a factor and does not hold it."""
    architecture: Architecture | None = None
    """How the code is made sparse; none: the parent's or the checkpoint's, else topk."""
    width: int | None = Field(default=None, ge=2)
    """Number of latents; none: the parent's or the checkpoint's, else 2048."""
    k: Count | None = None
    """topk: latents that may fire on a token; batchtopk, matryoshka: on average; none: the parent's, else 32."""
    groups: Sizes | None = None
    """matryoshka: latents of each nested dictionary; none: width / 16, / 8, / 4, / 2 and the width."""
    corpora: Names | None = None
    """Corpora that it is trained on; none: all."""
    selection: Name | None = None
    """Train on the documents of this [[selection]] alone."""
    train_tokens: Count | None = None
    """Tokens of the training cache; none: all tokens of the split train."""
    stream: bool = False
    """Train straight from the model, without a cache on disk."""
    outliers: Literal["drop", "keep"] = "drop"
    """Rows whose norm is above 10 times the median: not trained on, or as all others; with `stream` they are kept."""
    processes: Count = 1
    """Train data parallel in this many processes of `torchrun`, each on its part of every batch."""
    steps: Count = 1000
    """Optimiser steps."""
    batch: Count = 2048
    """Tokens per step, over all processes: a multiple of their number."""
    lr: float = Field(default=3e-3, gt=0)
    """Peak learning rate of Adam, after warm-up and before decay."""
    warmup: int | None = Field(default=None, ge=0)
    """Steps over which the rate rises from 0; none: 50, or a quarter of the steps where that is less."""
    decay: int | None = Field(default=None, ge=0)
    """Last steps, over which the rate falls to 0; none: 300, or half of the steps where that is less."""
    schedule: Schedule = "linear"
    """Shape of the fall."""
    precision: Precision = "float32"
    """Format in which training multiplies: bfloat16 is for GPUs, on a CPU it is slow; sums and weights are float32."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of the initial weights and the order of the tokens."""
    k_aux: int | None = Field(default=None, ge=0)
    """TopK family: dead latents that AuxK revives per token; none: 64, or the width where that is less; 0: none."""
    dead_after: Count = 200_000
    """Tokens without firing after which a latent counts as dead."""
    sparsity: float | None = Field(default=None, ge=0)
    """relu, gated: coefficient of the L1 norm; jumprelu: of the L0 penalty; none: the parent's, else 1."""
    sparsity_warmup: int | None = Field(default=None, ge=0)
    """Steps over which the coefficient rises from 0; none: a tenth of the steps, with a parent 0."""
    l0_range: Range | None = None
    """Hold the mean number of active latents in this range by adjusting the coefficient."""
    resample_every: int | None = Field(default=None, ge=0)
    """relu: steps between two resamplings of dead latents; none: never."""
    penalty: Penalty | None = None
    """jumprelu: L0 with a straight-through gradient, or a tanh of the activations; none: the parent's, else step."""
    bandwidth: Positive | None = None
    """jumprelu: width of the kernel that gives the thresholds their gradient; none: the parent's, else 0.05."""
    tilt: float = 0.0
    """t of the tilted loss (TERM) over the tokens of a batch; 0 is the mean."""
    harvest: Annotated[tuple[Name, ...], Field(strict=False)] | None = None
    """Corpora whose activations are kept; none: those that it is trained on."""
    evaluate: Annotated[tuple[Name, ...], Field(strict=False)] | None = None
    """Corpora that it is measured on, spliced into the model; none: those that it is trained on."""
    template: bool = False
    """Trained only as part of a [[sweep]]."""

    @field_validator("k", "k_aux")
    @classmethod
    def _within_width(cls, value: int | None, info: ValidationInfo) -> int | None:
        from_scratch = not info.data.get("parent") and not info.data.get("checkpoint")
        width = info.data.get("width") or (WIDTH if from_scratch else None)
        if value is not None and width is not None and value > width:
            raise ValueError(f"{value} is above width {width}")
        return value

    @field_validator(*NEEDS)
    @classmethod
    def _fits_architecture(cls, value: Any, info: ValidationInfo) -> Any:
        """A child's architecture may be its parent's: what that does not read, `inheritance` finds."""
        architecture, name = info.data.get("architecture"), str(info.field_name)
        default = "topk" if not info.data.get("parent") and not info.data.get("checkpoint") else None
        known = architecture or default
        if value is not None and known is not None and known not in NEEDS[name]:
            raise ValueError(f"is not read by architecture {known!r}, only by {', '.join(NEEDS[name])}")
        return value

    @field_validator("groups")
    @classmethod
    def _nested(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and list(value) != sorted(set(value)):
            raise ValueError(f"{list(value)} must ascend: each is how many latents the dictionary has that far")
        return value

    @field_validator("l0_range")
    @classmethod
    def _ascends(cls, value: tuple[float, float] | None, info: ValidationInfo) -> tuple[float, float] | None:
        if value is not None and value[0] > value[1]:
            raise ValueError(f"[{value[0]:g}, {value[1]:g}] must ascend")
        if value is not None and info.data.get("sparsity") == 0:
            raise ValueError("adjusts the coefficient, which cannot begin at sparsity = 0: leave that out, or raise it")
        return value

    @field_validator("template")
    @classmethod
    def _keeps_nothing(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("harvest"):
            raise ValueError("has no activations of its own: name the corpora to harvest in the [[sweep]]")
        return value

    @model_validator(mode="after")
    def _rises_and_falls(self) -> "Sae":
        if self.warmup_steps + self.decay_steps > self.steps:
            both = f"a warm-up of {self.warmup_steps} and a decay of {self.decay_steps} steps"
            raise ValueError(f"{both} do not fit in {self.steps} steps")
        return self

    @property
    def warmup_steps(self) -> int:
        """`warmup`, its default filled in."""
        if self.warmup is not None:
            return self.warmup
        return max(min(WARMUP, self.steps // 4, self.steps - (self.decay or 0)), 0)

    @property
    def decay_steps(self) -> int:
        """`decay`, its default filled in."""
        return max(min(DECAY, self.steps // 2, self.steps - self.warmup_steps), 0) if self.decay is None else self.decay

    @field_validator("skip")
    @classmethod
    def _of_a_transcoder(cls, value: bool, info: ValidationInfo) -> bool:
        if value and not info.data.get("target"):
            raise ValueError("belongs to a transcoder: name its target")
        return value

    @field_validator("scale")
    @classmethod
    def _of_a_folder(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and not info.data.get("checkpoint") and "/" not in (info.data.get("parent") or ""):
            raise ValueError("belongs to a checkpoint on disk: name it as `checkpoint`, or its folder as `parent`")
        return value

    @field_validator("checkpoint", "selection")
    @classmethod
    def _not_both(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and (info.data.get("parent") if info.field_name == "checkpoint" else False):
            raise ValueError("is loaded as it is: to train further, name it as `parent` alone")
        if value is not None and info.field_name == "selection" and info.data.get("checkpoint"):
            raise ValueError("is not read: a checkpoint is loaded as it is; to train further, name it as `parent`")
        if value is not None and info.field_name == "selection" and info.data.get("corpora") is not None:
            raise ValueError("does not go with corpora: the selection says which documents to train on; leave one out")
        return value

    @field_validator("processes")
    @classmethod
    def _from_the_cache(cls, value: int, info: ValidationInfo) -> int:
        if value > 1 and info.data.get("stream"):
            raise ValueError(f"{value} processes train from the cache alone: leave out stream, or set processes = 1")
        return value

    @field_validator("batch")
    @classmethod
    def _divides(cls, value: int, info: ValidationInfo) -> int:
        processes = info.data.get("processes", 1)
        if value % processes:
            raise ValueError(f"{value} does not divide among {processes} processes: choose a multiple of {processes}")
        return value

    @field_validator("stream")
    @classmethod
    def _not_streamed(cls, value: bool, info: ValidationInfo) -> bool:
        for name in ("selection", "target"):
            if value and info.data.get(name):
                raise ValueError(f"does not go with {name}: that needs the cache")
        return value


class Measuring(Section):
    """How SAEs are measured on text with the model running."""

    tokens: int = Field(default=20_000, ge=0)
    """Most tokens of each corpus and split, documents taken by hash; 0: no measuring."""
    precision: float | None = Field(default=None, ge=0)
    """Measure until ce_spliced - ce_clean is known to this share of ce_clean; none: 0.02, with a [[sweep]] 0: all."""
    splits: Annotated[tuple[Literal["train", "val", "test"], ...] | None, Field(strict=False)] = None
    """Splits that are measured, each in rows of its own; none: test, with a [[sweep]] val too, to choose by."""
