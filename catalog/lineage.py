"""Where a study's SAE has its architecture from, if not from its own section, and the keys that are read there."""

from collections.abc import Iterable, Mapping

from catalog.sae_section import NEEDS, Sae
from catalog.section import is_folder


def architecture_of(sae: Sae, saes: Mapping[str, Sae]) -> tuple[str | None, Sae | None]:
    """(its architecture, None), or (None, the section with the folder that has it); `saes` are the study's, by name.

    (None, None) for parents that form a circle or that there are not.
    """
    passed = set()
    while sae.name not in passed:
        passed.add(sae.name)
        if sae.architecture is not None:
            return sae.architecture, None
        if sae.checkpoint is not None or (sae.parent is not None and is_folder(sae.parent)):
            return None, sae
        if sae.parent is None:
            return "topk", None
        if sae.parent not in saes:
            break
        sae = saes[sae.parent]
    return None, None


def unread_keys(sae: Sae, architecture: str | None) -> list[tuple[str, str]]:
    """(key, what is wrong with it) of the keys that are set and that an SAE of this architecture does not read."""
    return [
        (key, f"is not read by architecture {architecture!r}, only by {', '.join(reads)}")
        for key, reads in NEEDS.items()
        if architecture is not None and getattr(sae, key) is not None and architecture not in reads
    ]


def mistakes_of_children(saes: Iterable[Sae]) -> list[str]:
    """Keys of sections without `architecture` that the parent's architecture does not read, each with its path."""
    saes = list(saes)
    by_name = {sae.name: sae for sae in saes}
    return [
        f"sae[{i}].{key}: {wrong}; it has the architecture of its parent {sae.parent!r}"
        for i, sae in enumerate(saes)
        if sae.architecture is None
        for key, wrong in unread_keys(sae, architecture_of(sae, by_name)[0])
    ]


def mistakes_of_runs(runs: Iterable[tuple[str, float, Sae]], saes: Mapping[str, Sae]) -> list[str]:
    """What a sweep varies in its (family, value, SAE) and the family's architecture does not read."""
    found = []
    for family, _, sae in runs:
        for key, wrong in unread_keys(sae, architecture_of(sae, saes)[0]):
            if getattr(saes[family], key) is None:
                found.append(f"{key}: {wrong}; {family!r} has the architecture of its parent")
    return list(dict.fromkeys(found))
