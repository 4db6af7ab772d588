"""Reads an SAE of the catalog for harvest and evaluation: its weights, and the digest of what decides its codes."""

from dataclasses import dataclass
from functools import cached_property

import torch

from catalog.digest import digest
from catalog.errors import InputError
from ingest.sae.model import SAE

HALF = "float16"


@dataclass(frozen=True)
class Reader:
    """One SAE to harvest."""

    name: str
    hookpoint: str
    sae: SAE
    digest: str
    """BLAKE2b-128 of its weights, thresholds among them."""
    rounded: bool = False
    """Whether its activations are of rows rounded to half precision, as a cache keeps them, and it was trained on."""

    median_norm: float | None = None
    """Of the rows that it was trained on, as `saes.median_norm` has it: it tells which rows are outliers."""

    @cached_property
    def identity(self) -> str:
        """BLAKE2b-128 of all that decides its codes: the same weights make other codes by another k, say."""
        config = self.sae.config
        said = {"architecture": config.architecture, "k": config.k, "centred": config.centred, "groups": config.groups}
        return digest({"weights": self.digest, **said})

    @property
    def rows(self) -> str | None:
        """The precision of its rows as `saes.rows` has it; None for that of the model."""
        return HALF if self.rounded else None

    def fitting(self, rows: torch.Tensor, hookpoint: str, width: int) -> torch.Tensor:
        """`rows` `[n, width]` of a hookpoint. Raises InputError if they have another width than the SAE's there."""
        if rows.shape[1] != width:
            raise InputError(
                f"SAE {self.name!r} is made for rows of width {width} at {hookpoint!r}, which has width "
                f"{rows.shape[1]} in this model: name the hookpoint that it was trained on"
            )
        return rows
