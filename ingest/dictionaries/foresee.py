"""Foresees which SAEs and selections of a study an ingest would make, in the order of `make`, and makes none.

A checkpoint is loaded and checked, since what it is decides its activations. What a training would give nobody knows
before: what follows from such an SAE may change.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catalog import Catalog
from catalog.errors import InputError
from catalog.study.file import Study
from catalog.study.inheritance import needs
from catalog.study.sae import Sae
from catalog.study.selection import Selection
from ingest.activations.residual_cache import no_train_text
from ingest.activations.streamed_rows import row_widths
from ingest.dictionaries.configure import beginning, shape, training
from ingest.dictionaries.make import check_children_of_folders
from ingest.dictionaries.plan import Plan, plan_of, ready, settings_of
from ingest.dictionaries.record import code_of
from ingest.model.language_model import LanguageModel
from ingest.sae.config import SAEConfig
from ingest.selection.compared_parent import compared_parent
from ingest.selection.select import made_from
from ingest.stored.adopt import check_asked, named
from ingest.stored.parent import FolderDigests, parent_of
from ingest.stored.reader import Reader
from ingest.to_do import CHANGED, CURRENT, MAY_CHANGE, NEW, Work

_UNSAID = ("penalty", "bandwidth")
"""Keys that an SAE may have from its parent."""


@dataclass
class Foreseen:
    """The SAEs of a study as an ingest would leave them."""

    works: dict[str, Work] = field(default_factory=dict)
    """The work on each SAE, by name."""
    selections: dict[str, Work] = field(default_factory=dict)
    readers: dict[str, Reader] = field(default_factory=dict)
    """SAEs that are in the catalog, or whose checkpoint is loaded: their codes are known."""
    configs: dict[str, SAEConfig] = field(default_factory=dict)
    """Of those, and of those to train whose parent is known."""
    perhaps: set[str] = field(default_factory=set)
    """SAEs that are to be trained, and may come out as they were."""

    def upstream(self, sae: Sae) -> str | None:
        """What an SAE is made from that is trained or chosen anew; None if all of that is known."""
        parent = self.works.get(sae.parent or "")
        if parent is not None and parent.what not in self.readers:
            return f"its parent {sae.parent!r} is trained anew"
        chosen = self.selections.get(sae.selection or "")
        return f"its selection {sae.selection!r} is made anew" if chosen and chosen.state != CURRENT else None


def foresee_saes(catalog: Catalog, study: Study, model: LanguageModel) -> Foreseen:
    """What `prepare_saes` would do. Raises as it does, but for what only a training can find."""
    check_children_of_folders(study)
    found, digests = Foreseen(), FolderDigests()
    left, selections = study.trained(), list(study.selections)
    while True:
        awaited = {sae.name for sae in left}
        for spec in [spec for spec in selections if spec.parent not in awaited]:
            found.selections[spec.name] = _selection(catalog, model, spec, digests, found)
            selections.remove(spec)
        if not left:
            return found
        for sae in [sae for sae in left if not needs(sae, study.selections) & awaited]:
            found.works[sae.name] = _sae(catalog, study, model, sae, digests, found)
            left.remove(sae)


def _selection(
    catalog: Catalog, model: LanguageModel, spec: Selection, digests: FolderDigests, found: Foreseen
) -> Work:
    row = catalog.rows("SELECT inputs, settings FROM selections WHERE selection = ?", [spec.name])
    parent = found.works.get(spec.parent or "")
    if spec.reranked and parent is not None and parent.state != CURRENT:
        why = f"its parent {spec.parent!r} is made anew"
        return Work("selection", spec.name, MAY_CHANGE if row else NEW, why if row else "")
    compared = compared_parent(catalog, spec, digests) if spec.reranked else None
    inputs = made_from(catalog, model, spec, compared)[2]
    if not row:
        return Work("selection", spec.name, NEW, "", tokens=spec.tokens)
    if row[0][0] == inputs:
        return Work("selection", spec.name)
    unlike = _unlike(json.loads(row[0][1]), spec.model_dump(mode="json"))
    return Work("selection", spec.name, CHANGED, unlike or "its text, encoder or parent differs", tokens=spec.tokens)


def _sae(
    catalog: Catalog, study: Study, model: LanguageModel, sae: Sae, digests: FolderDigests, found: Foreseen
) -> Work:
    row = catalog.rows("SELECT config FROM saes WHERE sae = ?", [sae.name])
    said: dict[str, Any] = json.loads(row[0][0]) if row else {}
    upstream = found.upstream(sae)
    if upstream:
        unlike = _unlike(said, settings_of(sae)) if said else ""
        state = NEW if not said else CHANGED if unlike else MAY_CHANGE
        why = "" if not said else unlike or upstream
        if state == MAY_CHANGE:
            found.perhaps.add(sae.name)
        return Work("SAE", sae.name, state, why, tokens=_train_tokens(catalog, study, sae))
    parent = found.works.get(sae.parent or "")
    if parent is not None and parent.state != CURRENT and not _as_before(catalog, found.readers[parent.what]):
        # Its parent's row, which a plan reads, is not there yet.
        state = NEW if not said else CHANGED
        why = f"its parent {sae.parent!r} is another one now" if said else ""
        return Work("SAE", sae.name, state, why, tokens=_train_tokens(catalog, study, sae))
    plan = plan_of(catalog, study, model, sae, digests)
    there = ready(catalog, model, plan)
    if there is not None:
        found.readers[sae.name], found.configs[sae.name] = there, there.sae.config
        return Work("SAE", sae.name)
    made = f"loaded from {sae.checkpoint}" if sae.checkpoint else f"{sae.steps} steps of {sae.batch} tokens"
    state, why = (CHANGED, _why(said, plan)) if said else (NEW, made)
    if sae.checkpoint:
        reader = _loaded(model, plan.sae)
        found.readers[sae.name], found.configs[sae.name] = reader, reader.sae.config
        return Work("SAE", sae.name, state, why)
    if plan.config == (row[0][0] if row else None):
        # Its weights are lost, and the same training gives the same ones.
        found.perhaps.add(sae.name)
    tokens = _train_tokens(catalog, study, sae)
    found.configs[sae.name] = _checked(catalog, model, plan, tokens, digests)
    return Work("SAE", sae.name, state, why, tokens=tokens)


def _as_before(catalog: Catalog, reader: Reader) -> bool:
    """Whether the catalog has an SAE of that name with the same codes."""
    rows = catalog.rows("SELECT digest, code FROM saes WHERE sae = ?", [reader.name])
    return rows == [(reader.digest, code_of(reader.sae.config))]


def _loaded(model: LanguageModel, sae: Sae) -> Reader:
    """A checkpoint as it would be read, checked as it would be."""
    from ingest.sae.checkpoints.load import load_checkpoint_folder

    loaded = load_checkpoint_folder(Path(str(sae.checkpoint)), sae.scale)
    check_asked(sae, loaded)
    wanted = [name for name in (sae.hookpoint, sae.target) if name]
    widths = row_widths(model, wanted)
    ours = named(sae, loaded, model.spec.name, (widths[wanted[0]], widths[wanted[-1]]))
    return Reader(sae.name, sae.hookpoint, ours, ours.digest())


def _checked(catalog: Catalog, model: LanguageModel, plan: Plan, tokens: int, digests: FolderDigests) -> SAEConfig:
    """What a training would make. Raises InputError for a section that does not go with its parent or its text."""
    sae = plan.sae
    if not tokens and not sae.selection:
        raise no_train_text(sae.hookpoint)
    wanted = [name for name in (sae.hookpoint, sae.target) if name]
    widths = row_widths(model, wanted)
    origin = parent_of(catalog, sae.parent, digests, sae.scale) if sae.parent else None
    config = shape(sae, widths[wanted[0]], widths[wanted[-1]], model.spec.source, origin.sae if origin else None)
    if origin:
        beginning(origin.sae, origin.digest, config)
    try:
        training(sae, config, max(tokens, 1), origin.sparsity if origin else None)
    except InputError as error:
        raise InputError(f"SAE {sae.name!r}: {error}") from error
    return config


def _train_tokens(catalog: Catalog, study: Study, sae: Sae) -> int:
    """Tokens of the train text that an SAE is trained on; of a selection that is yet to be made its budget."""
    if sae.selection:
        chosen = next(spec for spec in study.selections if spec.name == sae.selection)
        sql = "SELECT sum(tokens)::BIGINT FROM selected WHERE selection = ?"
        return int(catalog.value(sql, [sae.selection]) or chosen.tokens or 0)
    sql = "SELECT coalesce(sum(tokens), 0)::BIGINT FROM documents WHERE split = 'train' AND list_contains(?, corpus)"
    tokens = int(catalog.value(sql, [list(study.corpora_of(sae))]))
    return tokens if sae.train_tokens is None else min(tokens, sae.train_tokens)


def _why(said: dict[str, Any], plan: Plan) -> str:
    """Why an SAE of the catalog is made again."""
    now = json.loads(plan.config)
    if now == said:
        return "its weights are gone"
    if unlike := _unlike(said, now):
        return unlike
    before, after = said.get("inputs"), now["inputs"]
    named_before = before if isinstance(before, dict) else {}
    roles = [role for role in after if named_before.get(role) != after[role]] if isinstance(after, dict) else []
    return f"its {' and '.join(roles)} differ" if named_before and roles else "what it is made from differs"


def _unlike(said: dict[str, Any], now: dict[str, Any]) -> str:
    """The settings that are not as they were."""
    known = [key for key in now if key not in ("inputs", "shards")]
    unlike = [key for key in known if said.get(key) != now[key] and not (key in _UNSAID and now[key] is None)]
    return "; ".join(f"{key} is {_said(now[key])}, and was {_said(said.get(key))}" for key in unlike[:3])


def _said(value: Any) -> str:
    return "left out" if value is None else str(value)
