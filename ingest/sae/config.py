"""Configures an SAE and what its training minimises: the settings that every architecture is built from."""

import math
from dataclasses import dataclass
from typing import get_args

from catalog.errors import InputError
from catalog.study.terms import ARCHITECTURES, KEEPS_K, Penalty

PENALTIES: tuple[Penalty, ...] = get_args(Penalty)


@dataclass(frozen=True)
class SAEConfig:
    """What an SAE is and which activations it reads. Raises InputError if the fields contradict each other."""

    d_in: int
    """Width of the hookpoint that it reads."""
    width: int
    """Number of latents (SAELens: d_sae)."""
    k: int | None
    """topk: active latents per row, at most; batchtopk and matryoshka: on average; None for the others."""
    model_name: str
    """The model whose activations it reads: a Hugging Face id or a directory."""
    hookpoint: str
    """What of it is read: a module's output, for example `layers.3`, or its input, `layers.3.mlp.input`."""
    architecture: str = "topk"
    """How pre-activations become a code: one of ARCHITECTURES."""
    centred: bool = True
    """Whether b_dec is subtracted from the input (SAELens: apply_b_dec_to_input); never in a transcoder."""
    groups: tuple[int, ...] = ()
    """matryoshka: how many latents each nested dictionary has, ascending, the last one being the width."""
    target_hookpoint: str | None = None
    """Transcoder: the hookpoint that is reconstructed; None for an SAE."""
    d_out: int | None = None
    """Transcoder: width of that module's output; None for an SAE."""

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise InputError(f"architecture {self.architecture!r} is not known; known are: {', '.join(ARCHITECTURES)}")
        sizes = {"d_in": self.d_in, "width": self.width}
        if self.architecture in KEEPS_K:
            sizes["k"] = self.k  # type: ignore[assignment]
        elif self.k is not None:
            raise InputError(f"k {self.k} of an SAE means nothing to architecture {self.architecture!r}: leave it out")
        if self.d_out is not None:
            sizes["d_out"] = self.d_out
        for name, value in sizes.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{name} of an SAE is {value!r}, but must be a whole number of at least 1")
        if self.k is not None and self.k > self.width:
            raise InputError(f"k {self.k} is above the width {self.width}: an SAE cannot keep more latents than it has")
        if not self.hookpoint.strip():
            raise InputError("the hookpoint of an SAE is empty: name the module that it reads")
        if (self.target_hookpoint is None) != (self.d_out is None):
            raise InputError("a transcoder needs both target_hookpoint and d_out, an SAE neither")
        if self.target_hookpoint is not None and self.centred:
            raise InputError("a transcoder's b_dec belongs to its output: it cannot be subtracted from its input")
        if (self.architecture == "matryoshka") != bool(self.groups):
            raise InputError("groups belong to architecture 'matryoshka', which cannot do without")
        ascending = list(self.groups) == sorted(set(self.groups))
        if self.groups and not (ascending and self.groups[0] >= 1 and self.groups[-1] == self.width):
            raise InputError(f"groups {list(self.groups)} must ascend from at least 1 to the width {self.width}")

    @property
    def out(self) -> int:
        """Width of what it reconstructs."""
        return self.d_in if self.d_out is None else self.d_out


@dataclass(frozen=True)
class Objective:
    """What training minimises besides the reconstruction error. Raises InputError for values that make no sense."""

    k_aux: int = 64
    """TopK family: dead latents per row that reconstruct the error (AuxK); 0 turns it off."""
    aux_coefficient: float = 1 / 32
    """Weight of the AuxK term (Gao et al. 2024, appendix A.2)."""
    sparsity: float = 1.0
    """relu, gated: lambda of the L1 norm (Specialized SAEs, equation 1); jumprelu: of the L0 penalty."""
    penalty: Penalty = "step"
    """jumprelu: the number of active latents with a straight-through gradient, or the sum of tanh(4 z / threshold)."""
    bandwidth: float = 0.05
    """jumprelu: width of the kernel through which the threshold gets its gradient, in scaled activations."""
    tilt: float = 0.0
    """t of the tilted loss (TERM) over the rows of a batch; 0 is the mean."""

    def __post_init__(self) -> None:
        if self.k_aux < 0:
            raise InputError(f"k_aux of a training run is {self.k_aux}, but must not be negative")
        if self.penalty not in PENALTIES:
            raise InputError(f"penalty {self.penalty!r} is not known; known are: {', '.join(PENALTIES)}")
        for name in ("aux_coefficient", "sparsity"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"{name} is {value}, but must be a number that is not negative")
        if not (math.isfinite(self.bandwidth) and self.bandwidth > 0):
            raise InputError(f"bandwidth is {self.bandwidth}, but must be a positive number")
        if not math.isfinite(self.tilt):
            raise InputError(f"tilt is {self.tilt}, but must be a finite number")
