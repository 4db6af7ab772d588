"""Reads [[sweep]]: a series of SAEs that differ in one setting and in the seed."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from catalog.study.base import Name, Names, Section
from catalog.study.sae import Numbers, Positive, Sae, Seeds


class Sweep(Section):
    """A series of SAEs that differ in one setting and in the seed, to be compared at equal L0."""

    name: Name
    """Its name in the catalog."""
    saes: Names
    """The [[sae]] sections that are varied: the families that are compared."""
    setting: Literal["sparsity", "k", "tilt", "lr", "width", "l0"] = "sparsity"
    """What is varied; l0 holds the mean number of active latents at the value."""
    values: Numbers
    """Its values."""
    seeds: Seeds = (0,)
    """Seeds at every value."""
    middle_seeds: Seeds | None = None
    """Seeds at the middle value, where the spread is measured; none: as the others."""
    harvest: Annotated[tuple[Name, ...], Field(strict=False)] = ()
    """Corpora whose activations are kept, for the first seed at the middle value of each family alone."""
    baseline: Name | None = None
    """Which of `saes` the others' firings are compared with, run by run; none: each SAE's parent."""
    l0_low: Positive = 60.0
    """Start of the L0 range over which the area under the perplexity is taken."""
    l0_high: Positive = 140.0
    """End of that range."""

    @field_validator("baseline")
    @classmethod
    def _one_of_them(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and value not in info.data.get("saes", (value,)):
            raise ValueError(f"{value!r} is not one of saes")
        return value

    @field_validator("l0_high")
    @classmethod
    def _above_low(cls, value: float, info: ValidationInfo) -> float:
        if value <= info.data.get("l0_low", 0):
            raise ValueError(f"{value} is not above l0_low {info.data['l0_low']}")
        return value

    @field_validator("values")
    @classmethod
    def _whole(cls, value: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        if len(set(value)) < len(value):
            raise ValueError("names a value twice")
        if info.data.get("setting") in ("k", "width") and any(v != int(v) or v < 1 for v in value):
            raise ValueError(f"must be whole numbers: {info.data['setting']} counts latents")
        return value

    def expanded(self, templates: dict[str, Sae]) -> list[tuple[str, float, Sae]]:
        """(family, value, SAE) of each run; its name is family-setting-value-seed: sweeps over two settings share none.

        Raises pydantic's ValidationError if the setting does not fit an SAE.
        """
        found = []
        middle = sorted(self.values)[len(self.values) // 2]
        for family in self.saes:
            for value in self.values:
                seeds = self.middle_seeds if self.middle_seeds and value == middle else self.seeds
                for seed in seeds:
                    kept = self.harvest if value == middle and seed == seeds[0] else ()
                    said = f"{value:g}".replace(".", "_").replace("+", "").replace("-", "m")
                    changes: dict[str, Any] = {self.setting: value}
                    if self.setting in ("k", "width"):
                        changes = {self.setting: int(value)}
                    if self.setting == "l0":
                        changes = {"l0_range": (0.95 * value, 1.05 * value)}
                    name = f"{family}-{self.setting}-{said}-s{seed}"
                    changes |= {"name": name, "seed": seed, "template": False, "harvest": kept}
                    found.append((family, value, Sae.model_validate(templates[family].model_dump() | changes)))
        return found
