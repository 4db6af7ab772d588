"""Loads the SAE whose loss TracIn differentiates: its weights, identity, hookpoint and L1 coefficient."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from catalog import Catalog
from catalog.errors import InputError, UnknownName
from catalog.study.base import is_folder
from catalog.study.selection import Selection
from ingest.sae.model import SAE
from ingest.stored.parent import FolderDigests, parent_digest, parent_of


@dataclass(frozen=True)
class Parent:
    """An SAE whose weights are read only when its loss is differentiated."""

    digest: str
    load: Callable[[], SAE]
    """Raises InputError if it cannot be read."""


def compared_parent(catalog: Catalog, spec: Selection, digests: FolderDigests) -> Parent:
    """The SAE that the section names, in the catalog or on disk.

    Where its folder is gone it counts as what it was when the selection was made. Raises UnknownName for a name that
    is not in the catalog, InputError for a folder that is not there and of which the catalog knows nothing.
    """
    name = str(spec.parent)
    known = [sae for (sae,) in catalog.rows("SELECT sae FROM saes ORDER BY sae")]
    if not is_folder(name) and name not in known:
        raise UnknownName(f"selection {spec.name!r}: there is no SAE {name!r}; known: {', '.join(known) or 'none'}")
    digest = None
    if is_folder(name) and not Path(name).exists():
        sql = "SELECT parent_digest FROM selections WHERE (selection, parent) = (?, ?)"
        digest = catalog.value(sql, [spec.name, name])
    return Parent(
        digest or parent_digest(catalog, name, digests), lambda: parent_of(catalog, name, digests, spec.scale).sae
    )


def hookpoint_of(catalog: Catalog, spec: Selection, parent: SAE) -> str:
    """As the catalog names it: a checkpoint's own name for it may be that of another library."""
    found = catalog.value("SELECT hookpoint FROM saes WHERE sae = ?", [spec.parent])
    return str(found or parent.config.hookpoint)


def sparsity_of(catalog: Catalog, spec: Selection, parent: SAE) -> float:
    """lambda of equation 1 for rows as they are; 0 for a parent without an L1 norm.

    In training rows were scaled by s, so that |x - x_hat|^2 grew by s^2 and |z|_1 by s: lambda / s is left.
    """
    if parent.config.architecture != "relu":
        return 0.0
    if spec.sparsity is not None:
        return spec.sparsity
    found = catalog.value("SELECT sparsity FROM saes WHERE sae = ?", [spec.parent])
    if found is None:
        raise InputError(
            f"selection {spec.name!r}: the L1 coefficient of the relu SAE {spec.parent!r} is not known: set sparsity"
        )
    return float(found) / (parent.scale or 1.0)
