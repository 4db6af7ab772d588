"""Finds what an SAE of the study takes from its parents, what it waits for, and which of its keys fit neither."""

from collections.abc import Iterable, Iterator, Mapping

from catalog.study.base import is_folder
from catalog.study.sae import NEEDS, WIDTH, Sae
from catalog.study.selection import Selection


def architecture_of(sae: Sae, saes: Mapping[str, Sae]) -> tuple[str | None, Sae | None]:
    """(its architecture, None), or (None, the section with the folder that has it); `saes` are the study's, by name.

    (None, None) for parents that form a circle or that there are not.
    """
    for section in _line(sae, saes):
        if section.architecture is not None:
            return section.architecture, None
        if _has_folder(section):
            return None, section
        if section.parent is None:
            return "topk", None
    return None, None


def width_of(sae: Sae, saes: Mapping[str, Sae]) -> int | None:
    """Its number of latents; None where a folder has it, or no parent that there is."""
    for section in _line(sae, saes):
        if section.width is not None:
            return section.width
        if _has_folder(section):
            return None
        if section.parent is None:
            return WIDTH
    return None


def needs(sae: Sae, selections: Iterable[Selection]) -> set[str]:
    """What must be there before it is trained: its parent, and the parent of its selection."""
    parents = [sae.parent, *(spec.parent for spec in selections if spec.name == sae.selection)]
    return {parent for parent in parents if parent is not None}


def unread_keys(sae: Sae, architecture: str | None) -> list[tuple[str, str]]:
    """(key, what is wrong with it) of the keys that are set and that an SAE of this architecture does not read."""
    return [
        (key, f"is not read by architecture {architecture!r}, only by {', '.join(reads)}")
        for key, reads in NEEDS.items()
        if architecture is not None and getattr(sae, key) is not None and architecture not in reads
    ]


def mistakes_of_saes(saes: Iterable[Sae], selections: Iterable[Selection]) -> list[str]:
    """Keys that do not go with what an SAE has from its parents, and parents that cannot be; each with its path."""
    saes, selections = list(saes), list(selections)
    by_name = {sae.name: sae for sae in saes}
    found = []
    for i, sae in enumerate(saes):
        architecture = None if sae.architecture else architecture_of(sae, by_name)[0]
        unread = dict(unread_keys(sae, architecture))
        found += [
            f"sae[{i}].{key}: {wrong}; it has the architecture of its parent {sae.parent!r}"
            for key, wrong in unread.items()
        ]
        found += [f"sae[{i}].{key}: {wrong}" for key, wrong in _misfits(sae, by_name) if key not in unread]
        found += _template(f"sae[{i}].parent", sae.parent, by_name)
    for i, spec in enumerate(selections):
        found += _template(f"selection[{i}].parent", spec.parent, by_name)
    circle = _circle({sae.name: needs(sae, selections) for sae in saes})
    if circle:
        said = ", ".join(map(repr, circle))
        found.append(f"sae: {said} wait for each other, as parents or as parents of selections: none can be first")
    return found


def mistakes_of_runs(runs: Iterable[tuple[str, float, Sae]], saes: Mapping[str, Sae]) -> list[str]:
    """What a sweep varies in its (family, value, SAE) and the family does not read, or cannot be."""
    found = []
    for family, _, sae in runs:
        if saes[family].checkpoint is not None:
            found.append(f"{family!r} is loaded from its checkpoint as it is: name that folder as `parent` to train it")
            continue
        for key, wrong in unread_keys(sae, architecture_of(sae, saes)[0]):
            if getattr(saes[family], key) is None:
                found.append(f"{key}: {wrong}; {family!r} has the architecture of its parent")
        for key, wrong in _misfits(sae, saes):
            if getattr(saes[family], key) != getattr(sae, key):
                found.append(f"{sae.name!r}: {key} {wrong}")
    return list(dict.fromkeys(found))


def _line(sae: Sae, saes: Mapping[str, Sae]) -> Iterator[Sae]:
    """The section, its parent's, and so on, each once."""
    passed = set()
    while sae.name not in passed:
        passed.add(sae.name)
        yield sae
        if sae.parent is None or sae.parent not in saes:
            return
        sae = saes[sae.parent]


def _has_folder(sae: Sae) -> bool:
    return sae.checkpoint is not None or (sae.parent is not None and is_folder(sae.parent))


def _misfits(sae: Sae, saes: Mapping[str, Sae]) -> list[tuple[str, str]]:
    """(key, what is wrong with it) of the keys that do not go with its number of latents, if the study tells it."""
    parent = saes.get(sae.parent or "")
    inherited = width_of(parent, saes) if parent else None
    if sae.width is not None and inherited not in (None, sae.width):
        return [("width", f"{sae.width} is not that of its parent {sae.parent!r}, {inherited}: leave it out")]
    width = width_of(sae, saes)
    if width is None:
        return []
    found = []
    for key in ("k", "k_aux"):
        value = getattr(sae, key)
        # Beside its own width the section itself refuses it.
        if sae.width is None and value is not None and value > width:
            found.append((key, f"{value} is above width {width}"))
    if sae.l0_range is not None and sae.l0_range[1] > width:
        found.append(("l0_range", f"{sae.l0_range[1]:g} is above width {width}"))
    if sae.groups is not None and sae.groups[-1] != width:
        found.append(("groups", f"{list(sae.groups)} must end with the width, {width}"))
    return found


def _template(where: str, name: str | None, saes: Mapping[str, Sae]) -> list[str]:
    """What is wrong with a parent that only the runs of a sweep are made from."""
    if name is not None and name in saes and saes[name].template:
        return [f"{where}: {name!r} is a template, of which only the runs of a [[sweep]] are made: name another SAE"]
    return []


def _circle(waits: Mapping[str, set[str]]) -> list[str]:
    """Those that need each other, in order: what is left when all are gone that need none, or that none needs."""
    left = dict(waits)
    while True:
        needed = {name for others in left.values() for name in others}
        gone = [name for name, others in left.items() if not others & left.keys() or name not in needed]
        if not gone:
            return list(left)
        for name in gone:
            del left[name]
