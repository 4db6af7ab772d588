"""Foresees which SAEs would be measured on which text, and which measurements would go."""

from collections.abc import Iterator
from itertools import product

from catalog import Catalog
from catalog.study.file import Study
from ingest.dictionaries.foresee import Foreseen
from ingest.dictionaries.stale_evaluations import Measurement, measurements, outdated, unspliceable
from ingest.model.language_model import LanguageModel
from ingest.to_do import CHANGED, CURRENT, GONE, MAY_CHANGE, NEW, Work, measured, precision_of, splits_of


def foresee_evaluations(catalog: Catalog, study: Study, model: LanguageModel, found: Foreseen) -> Iterator[Work]:
    """A row for each SAE that is measured, and one for each that loses what was measured on other text."""
    tokens, splits = study.evaluation.tokens, splits_of(study)
    asked = {sae.name: corpora for sae in study.trained() if (corpora := measured(study, sae))}
    blocked = unspliceable(model, {sae.name: sae.target or sae.hookpoint for sae in study.trained()})
    texts: dict[tuple[str, ...], list[Measurement]] = {}
    readers = list(found.readers.values())
    for corpora in dict.fromkeys(asked.values()):
        texts[corpora] = measurements(catalog, model, readers, list(corpora), splits, tokens, precision_of(study))
    for name, corpora in asked.items():
        usable = [one for one in texts[corpora] if not one.unusable]
        if name in found.readers:
            stale = [one for one in usable if any(reader.name == name for reader in one.stale)]
        else:
            stale = usable
        if not stale or name in blocked:
            yield Work("evaluation", name, why=blocked.get(name, ""))
            continue
        places = [f"{one.text.corpus}:{one.text.split}" for one in stale]
        state, why = _state(catalog, name, found, stale)
        read = sum(one.text.tokens for one in stale)
        yield Work("evaluation", name, state, f"on {', '.join(places)}{why and f': {why}'}", tokens=read)
    if tokens:
        whole = {sae.name: set(product(measured(study, sae), splits)) for sae in study.trained()}
        gone, _ = outdated(catalog, model, readers, whole, tokens, precision_of(study))
        for name in found.readers:
            if lost := [f"{corpus}:{split}" for (corpus, split), saes in gone.items() if name in saes]:
                yield Work("evaluation", name, GONE, f"on {', '.join(lost)}: out of date, and not asked for")


def _state(catalog: Catalog, name: str, found: Foreseen, stale: list[Measurement]) -> tuple[str, str]:
    there = catalog.rows("SELECT corpus, split FROM evaluations WHERE sae = ?", [name])
    if not any((one.text.corpus, one.text.split) in there for one in stale):
        return NEW, ""
    if name in found.perhaps:
        return MAY_CHANGE, "the SAE is trained anew"
    if found.works[name].state != CURRENT:
        return CHANGED, "the SAE is another one now"
    return CHANGED, "the text, what repeats in it, or how it is measured differs"
