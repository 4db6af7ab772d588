"""Makes the study's SAEs in the order that they need each other: a parent before its children and its selections.

An SAE that the catalog has as the study says is left alone. What waits for one that diverged is left out; all else is
made.
"""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from catalog import Catalog
from catalog.errors import InputError
from catalog.study.file import Study
from catalog.study.inheritance import architecture_of, needs, unread_keys
from catalog.study.sae import NEEDS, Sae
from catalog.study.selection import Selection
from ingest.activations.shard_harvest import HarvestReport
from ingest.callbacks import Progress, tell
from ingest.dictionaries.wave import Generation
from ingest.model.language_model import LanguageModel
from ingest.selection.compared_parent import compared_parent
from ingest.selection.select import select_documents
from ingest.stored.parent import FolderDigests, architecture_in
from ingest.stored.reader import Reader


@dataclass
class Prepared:
    """The SAEs of a study, as far as they could be made."""

    readers: list[Reader] = field(default_factory=list)
    """Those that can be read with, in the order of the study."""
    made: list[str] = field(default_factory=list)
    """Those that were trained or loaded now."""
    harvest: HarvestReport = field(default_factory=HarvestReport)
    """Activations that were made while text was read for training."""
    diverged: dict[str, str] = field(default_factory=dict)
    """What happened to those whose training cannot go on."""
    waiting: dict[str, set[str]] = field(default_factory=dict)
    """Those that were not begun, each with the SAEs that it waits for."""
    selections: list[Selection] = field(default_factory=list)
    """Selections that wait for their parent."""

    @property
    def missing(self) -> set[str]:
        """The SAEs of the study that are not there."""
        return self.diverged.keys() | self.waiting.keys()

    def check(self) -> None:
        """Raises InputError naming every SAE that diverged, with what happened, and what waits for it."""
        if not self.diverged:
            return
        # Those that diverged on one pass have one message.
        said: dict[str, list[str]] = {}
        for name, text in self.diverged.items():
            said.setdefault(text, []).append(repr(name))
        lines = [f"SAE {', '.join(names)}: {text}" for text, names in said.items()]
        lines += [f"SAE {name!r} waits for {_listed(others)}" for name, others in self.waiting.items()]
        lines += [f"selection {spec.name!r} waits for {spec.parent!r}" for spec in self.selections]
        raise InputError("\n".join([*lines, "all else of the study is done and stays: mend these sections, run again"]))


def prepare_saes(catalog: Catalog, study: Study, model: LanguageModel, progress: Progress) -> Prepared:
    """Make the study's SAEs and selections; what diverges, and what waits for that, is left out and named.

    Raises InputError for a checkpoint, parent, selection, key or row that cannot be used.
    """
    check_children_of_folders(study)
    prepared, digests = Prepared(), FolderDigests()
    readers: dict[str, Reader] = {}
    left, prepared.selections = study.trained(), list(study.selections)
    while True:
        awaited = {sae.name for sae in left} | prepared.missing
        prepared.selections = _select(catalog, model, prepared.selections, awaited, digests, progress)
        if not left:
            break
        ours = [sae for sae in left if not needs(sae, study.selections) & awaited]
        generation = Generation(catalog, study, model, digests, progress)
        readers |= generation.readers(ours)
        prepared.made += generation.made
        prepared.harvest.add(generation.harvest)
        prepared.diverged |= generation.diverged
        left = [sae for sae in left if sae not in ours]
        prepared.waiting |= _blocked(study, left, prepared.missing)
        left = [sae for sae in left if sae.name not in prepared.waiting]
    prepared.readers = [readers[sae.name] for sae in study.trained() if sae.name in readers]
    return prepared


def check_children_of_folders(study: Study) -> None:
    """Before anything is trained: keys that the architecture in a parent's folder does not read. No study tells it."""
    saes, known = {sae.name: sae for sae in study.saes}, dict[str, str]()
    for sae in study.trained():
        root = architecture_of(sae, saes)[1]
        asks = any(getattr(sae, key) is not None for key in NEEDS)
        if root is None or sae.parent is None or not asks:
            continue
        folder = str(root.checkpoint or root.parent)
        # A child that is in the catalog stays there when the folder is gone.
        if folder not in known and Path(folder).is_dir():
            known[folder] = architecture_in(Path(folder), root.scale)
        for key, wrong in unread_keys(sae, known.get(folder)):
            raise InputError(f"SAE {sae.name!r}: {key} {wrong}; that is the architecture in {folder}: leave {key} out")


def _blocked(study: Study, left: list[Sae], missing: set[str]) -> dict[str, set[str]]:
    """Those of `left` that need an SAE that is not there, or one of each other that does."""
    found: dict[str, set[str]] = {}
    while True:
        without = missing | found.keys()
        new = {sae.name: on for sae in left if sae.name not in found and (on := needs(sae, study.selections) & without)}
        if not new:
            return found
        found |= new


def _select(
    catalog: Catalog,
    model: LanguageModel,
    specs: list[Selection],
    awaited: set[str],
    digests: FolderDigests,
    progress: Progress,
) -> list[Selection]:
    """Make the selections that wait for no SAE, those that no SAE is trained on too; those that are left."""
    for spec in specs:
        if spec.parent not in awaited:
            parent = compared_parent(catalog, spec, digests) if spec.reranked else None
            told = partial(tell, progress, f"selecting {spec.name}")
            select_documents(catalog, model, spec, parent=parent, progress=told)
    return [spec for spec in specs if spec.parent in awaited]


def _listed(names: set[str]) -> str:
    return ", ".join(map(repr, sorted(names)))
