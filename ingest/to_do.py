"""Says what an ingest would do, a row for each part of a study. Importing this module loads no torch."""

from dataclasses import dataclass

from catalog.study.file import Study
from catalog.study.sae import Sae

CURRENT, NEW, CHANGED, GONE = "current", "new", "changed", "gone"
MAY_CHANGE = "may change"
"""It follows from something that is made anew, and which may come out as it was."""


@dataclass(frozen=True)
class Work:
    """What an ingest would do about one part of a study. The sizes are of what it would make."""

    stage: str
    what: str
    state: str = CURRENT
    why: str = ""
    documents: int | None = None
    tokens: int | None = None
    """Text: of the new documents. SAE: of the train text that it would be trained on. Else: that would be read."""
    shards: int | None = None
    rows: int | None = None
    """Activations to expect."""
    bytes: int | None = None
    """Of those activations on disk."""


def harvested(study: Study, sae: Sae) -> tuple[str, ...]:
    """The corpora whose activations of an SAE are kept."""
    return study.corpora_of(sae) if sae.harvest is None else sae.harvest


def measured(study: Study, sae: Sae) -> tuple[str, ...]:
    """The corpora that an SAE is measured on."""
    if not study.evaluation.tokens:
        return ()
    return study.corpora_of(sae) if sae.evaluate is None else sae.evaluate


PRECISION = 0.02
"""Half the 95% interval of ce_spliced - ce_clean at which a measurement may end, as a share of ce_clean."""


def precision_of(study: Study) -> float:
    """As PRECISION; 0, for all tokens, where a sweep compares its SAEs on the same ones."""
    asked = study.evaluation.precision
    return (0.0 if study.sweeps else PRECISION) if asked is None else asked


def splits_of(study: Study) -> tuple[str, ...]:
    """The splits that SAEs are measured on: test, and val where a sweep is there to choose from."""
    asked = study.evaluation.splits
    return (("val", "test") if study.sweeps else ("test",)) if asked is None else asked


def up_to_date(study: Study) -> list[Work]:
    """The rows of an ingest that has nothing to do, in the order of its stages."""
    saes = study.trained()
    parts = [
        ("model", [study.model.name]),
        ("text", [corpus.name for corpus in study.corpora]),
        ("selection", [selection.name for selection in study.selections]),
        ("SAE", [sae.name for sae in saes]),
        ("concept", [concept.name for concept in study.concepts]),
        ("explainer", [explainer.name for explainer in study.explainers]),
        ("scorer", [scorer.name for scorer in study.scorers]),
        ("study", [study.name]),
        ("harvest", [sae.name for sae in saes if harvested(study, sae)]),
        ("sweep", [sweep.name for sweep in study.sweeps]),
        ("evaluation", [sae.name for sae in saes if measured(study, sae)]),
    ]
    return [Work(stage, what) for stage, names in parts for what in names]
