"""Reads an SAE of the catalog for harvest and evaluation: its weights, and the digest of what decides its codes."""

from dataclasses import dataclass
from functools import cached_property

import torch

from catalog.digest import digest
from catalog.errors import InputError
from ingest.sae.model import SAE


@dataclass(frozen=True)
class Reader:
    """One SAE to harvest."""

    name: str
    hookpoint: str
    sae: SAE
    digest: str
    """BLAKE2b-128 of its weights, thresholds among them."""

    @cached_property
    def identity(self) -> str:
        """BLAKE2b-128 of all that decides its codes: the same weights make other codes by another k, say."""
        config = self.sae.config
        said = {"architecture": config.architecture, "k": config.k, "centred": config.centred, "groups": config.groups}
        return digest({"weights": self.digest, **said})

    def fitting(self, rows: torch.Tensor, hookpoint: str, width: int) -> torch.Tensor:
        """`rows` `[n, width]` of a hookpoint. Raises InputError if they have another width than the SAE's there."""
        if rows.shape[1] != width:
            raise InputError(
                f"SAE {self.name!r} is made for rows of width {width} at {hookpoint!r}, which has width "
                f"{rows.shape[1]} in this model: name the hookpoint that it was trained on"
            )
        return rows
