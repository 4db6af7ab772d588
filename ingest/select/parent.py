"""The SAE whose loss TracIn differentiates: its weights, what identifies it, its hookpoint and its L1 coefficient."""

import hashlib

from catalog import Catalog
from catalog.errors import InputError, UnknownName
from catalog.selection import Selection
from ingest.sae.model import SAE
from ingest.select.tracin import check_supported


def parent_of(catalog: Catalog, spec: Selection, parent: SAE | None) -> tuple[SAE, str]:
    """The parent and what identifies it."""
    rows = catalog.rows("SELECT weights, digest FROM saes WHERE sae = ?", [spec.parent])
    if parent is None and not rows:
        known = ", ".join(name for (name,) in catalog.rows("SELECT sae FROM saes ORDER BY sae"))
        raise UnknownName(f"selection {spec.name!r}: there is no SAE {spec.parent!r}; known: {known or 'none'}")
    if parent is None:
        parent = SAE.load(catalog.weights / rows[0][0])
    check_supported(parent.config)
    return parent, rows[0][1] if rows else _weights_digest(parent)


def _weights_digest(sae: SAE) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sae.weights.named().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


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
