"""Plans an SAE: what decides its weights (section, text, parent, selection), and whether the catalog has it so."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from catalog import Catalog
from catalog.study.base import is_folder
from catalog.study.file import Study
from catalog.study.sae import Sae
from ingest.activations.residual_cache import residuals_digest
from ingest.model.batches import text_shards
from ingest.model.language_model import LanguageModel
from ingest.sae.model import SAE, WEIGHTS_FILE
from ingest.stored.adopt import renamed
from ingest.stored.parent import FolderDigests, inherited, left_to, parent_digest
from ingest.stored.reader import HALF, Reader

_NOT_WEIGHTS = {"harvest", "evaluate", "processes", "template"}
"""Keys of the section that do not decide the weights."""


@dataclass(frozen=True)
class Plan:
    """One SAE as the study says."""

    sae: Sae
    config: str
    """All that decides its weights, JSON."""
    folder: Path
    """Where its weights are kept."""


def plan_of(catalog: Catalog, study: Study, model: LanguageModel, sae: Sae, digests: FolderDigests) -> Plan:
    """What decides the SAE. Text that was added after its training does not: the SAE stays until its section changes.

    An SAE in the catalog also stays if the folder of its checkpoint, or of its parent, is gone.
    """
    there = catalog.value("SELECT config FROM saes WHERE sae = ?", [sae.name])
    said = json.loads(there) if there else {}
    if said.get("shards"):
        as_it_was = _planned(catalog, study, model, sae, said["shards"], digests, said)
        if as_it_was.config == there:
            return as_it_was
    return _planned(catalog, study, model, sae, _shards(catalog, study, sae), digests, {})


def _shards(catalog: Catalog, study: Study, sae: Sae) -> dict[str, int]:
    """Shards of each corpus that the SAE is trained on."""
    counts = dict.fromkeys(study.corpora_of(sae), 0)
    for corpus, *_ in text_shards(catalog, list(counts)):
        counts[corpus] += 1
    return counts


def _planned(
    catalog: Catalog,
    study: Study,
    model: LanguageModel,
    sae: Sae,
    shards: dict[str, int],
    digests: FolderDigests,
    was: dict[str, Any],
) -> Plan:
    """The plan of an SAE on these shards; `was` is what the catalog says of it, for want of a folder that is gone."""
    source = sae.checkpoint or sae.parent
    gone = source is not None and is_folder(source) and bool(was) and not Path(source).exists()
    inputs: dict[str, str] = {}
    if not sae.checkpoint:
        corpora = list(study.corpora_of(sae))
        for role, hookpoint in (("rows", sae.hookpoint), ("target rows", sae.target)):
            if hookpoint:
                inputs[role] = residuals_digest(catalog, model, hookpoint, corpora, sae.train_tokens, shards)
    if source:
        role = "checkpoint" if sae.checkpoint else "parent"
        inputs[role] = _input_of(was, role, len(inputs)) if gone else parent_digest(catalog, source, digests)
        sae = sae.model_copy(update=left_to(sae, was) if gone else inherited(catalog, sae, source))
    if sae.selection:
        inputs["selection"] = _ranges_digest(selected_ranges(catalog, sae.selection))
    # An SAE whose row joins its inputs, as rows did before they had names, stays as it is.
    said = "+".join(inputs.values()) if isinstance(was.get("inputs"), str) else inputs
    config = json.dumps({**settings_of(sae), "inputs": said, "shards": shards}, sort_keys=True)
    name = f"{sae.name}-{hashlib.blake2b(config.encode(), digest_size=6).hexdigest()}"
    return Plan(sae, config, catalog.weights / name)


def settings_of(sae: Sae) -> dict[str, Any]:
    """What of a section decides the weights."""
    # Keys that are younger than some catalogs: an SAE that does not name them stays as it is.
    unsaid = {key for key in ("scale", "outliers") if getattr(sae, key) == Sae.model_fields[key].default}
    return sae.model_dump(mode="json", exclude=_NOT_WEIGHTS | unsaid)


def _input_of(was: dict[str, Any], role: str, place: int) -> str:
    """An input of an SAE as its row has it; joined without names, it stands at `place`. Empty if there is none."""
    said = was["inputs"]
    if isinstance(said, str):
        # An SAE of another kind has fewer inputs: its section tells it from this one.
        return (said.split("+")[place:] or [""])[0]
    return str(said.get(role, ""))


def ready(catalog: Catalog, model: LanguageModel, plan: Plan) -> Reader | None:
    """The SAE as the catalog has it, None if it has it otherwise or not at all."""
    there = catalog.rows("SELECT config, weights, digest, rows, median_norm FROM saes WHERE sae = ?", [plan.sae.name])
    if not there or there[0][0] != plan.config or not (catalog.weights_of(there[0][1]) / WEIGHTS_FILE).exists():
        return None
    _, weights, digest, rows, median_norm = there[0]
    loaded = renamed(plan.sae, SAE.load(catalog.weights_of(weights), model.device))
    return Reader(plan.sae.name, plan.sae.hookpoint, loaded, digest, rows == HALF, median_norm)


def selected_ranges(catalog: Catalog, selection: str) -> dict[str, Any]:
    """Positions [documents, 2] of the selected documents, ascending, per corpus."""
    rows = catalog.rows(
        "SELECT s.corpus, d.start, d.start + d.tokens FROM selected AS s "
        "JOIN documents AS d ON (d.corpus, d.document) = (s.corpus, s.document) "
        "WHERE s.selection = ? ORDER BY s.corpus, d.start",
        [selection],
    )
    ranges: dict[str, list[tuple[int, int]]] = {}
    for corpus, first, last in rows:
        ranges.setdefault(corpus, []).append((first, last))
    return {corpus: np.array(found, np.int64) for corpus, found in ranges.items()}


def _ranges_digest(ranges: dict[str, Any]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for corpus, found in sorted(ranges.items()):
        digest.update(corpus.encode() + found.tobytes())
    return digest.hexdigest()
