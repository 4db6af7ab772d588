"""Brings a study into the catalog, stage by stage: model, text, SAEs, configuration, activations, evaluations.

Each stage says what it would do (`foresee`), and does it (`run`). Both ask the same functions of the rooms what is out
of date, so that a dry run tells what an ingest does. A stage skips what is made from the same things as before: a run
that was interrupted at any moment goes on where it was.

The way of a document: here -> `text/corpus.py` -> `text/sources.py` -> `text/tokenise.py` -> `catalog/store/shards.py`;
the way of its activations: here -> `activations/harvest.py` -> `activations/activation_file.py` -> `shards.py`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Protocol

from catalog import Catalog
from catalog.store.locks import locked
from catalog.study.file import Study
from catalog.study.tables import configuration_rows, differing, record_configurations, record_sweeps, sweep_rows
from ingest.activations.harvest import harvest
from ingest.activations.shard_harvest import HarvestReport
from ingest.callbacks import Progress, tell
from ingest.dictionaries.foresee import Foreseen, foresee_saes
from ingest.dictionaries.foresee_evaluations import foresee_evaluations
from ingest.dictionaries.foresee_harvest import foresee_harvest
from ingest.dictionaries.make import Prepared, prepare_saes
from ingest.dictionaries.measure import Sample, drop_stale, evaluate_sample
from ingest.dictionaries.record import lens_problems, record_lens_problems
from ingest.full_disk import full_disk_named
from ingest.model.catalog_model import remember_trust
from ingest.model.identity import foresee_model, record_model
from ingest.model.language_model import LanguageModel, load_model
from ingest.model.other_names import by_own_names
from ingest.model.splice import check_hookpoints
from ingest.receipt import inputs_of, write_receipt
from ingest.text.coming_text import ComingText
from ingest.text.corpus import ingest_corpus
from ingest.text.corpus_rows import CorpusReport
from ingest.to_do import GONE, Work, harvested, measured, precision_of, splits_of


@dataclass
class IngestReport:
    """What an ingest did."""

    corpora: list[CorpusReport] = field(default_factory=list)
    trained: list[str] = field(default_factory=list)
    """SAEs that were trained or loaded now."""
    harvest: HarvestReport = field(default_factory=HarvestReport)


@dataclass
class Ingest:
    """One study on its way into one catalog: what the stages have made so far, for those that follow."""

    catalog: Catalog
    study: Study
    model: LanguageModel
    progress: Progress
    report: IngestReport = field(default_factory=IngestReport)
    prepared: Prepared = field(default_factory=Prepared)
    foreseen: Foreseen = field(default_factory=Foreseen)
    """In a dry run, what stands for `prepared`."""

    def told(self, what: str) -> partial[None]:
        """Progress of one thing that is done."""
        return partial(tell, self.progress, what)


class Stage(Protocol):
    """One part of an ingest."""

    def foresee(self, ingest: Ingest) -> Iterable[Work]:
        """A row for each thing that the stage has to do with, up to date or not. Writes nothing; raises as `run`."""
        ...

    def run(self, ingest: Ingest) -> None:
        """Bring it up to date."""
        ...


class Model:
    """The model's row and its vocabulary."""

    def foresee(self, ingest: Ingest) -> Iterable[Work]:
        yield foresee_model(ingest.catalog, ingest.model)

    def run(self, ingest: Ingest) -> None:
        record_model(ingest.catalog, ingest.model)


class Text:
    """Documents and tokens, shard by shard."""

    def foresee(self, ingest: Ingest) -> Iterable[Work]:
        coming = ComingText(ingest.catalog)
        for corpus in ingest.study.corpora:
            told = ingest.told(f"tokenising {corpus.name}")
            ingest.progress(f"tokenising {corpus.name}", 0, corpus.max_tokens, "reading")
            yield coming.foresee(ingest.catalog, corpus, ingest.model, told)

    def run(self, ingest: Ingest) -> None:
        for corpus in ingest.study.corpora:
            told = ingest.told(f"tokenising {corpus.name}")
            ingest.progress(f"tokenising {corpus.name}", 0, corpus.max_tokens, "reading")
            ingest.report.corpora.append(ingest_corpus(ingest.catalog, corpus, ingest.model, told))


class Saes:
    """Selections and SAEs: parents first."""

    def foresee(self, ingest: Ingest) -> Iterable[Work]:
        ingest.progress("comparing with the catalog", 0, None, "")
        found = ingest.foreseen = foresee_saes(ingest.catalog, ingest.study, ingest.model)
        yield from (found.selections[spec.name] for spec in ingest.study.selections)
        yield from (found.works[sae.name] for sae in ingest.study.trained())

    def run(self, ingest: Ingest) -> None:
        ingest.prepared = prepare_saes(ingest.catalog, ingest.study, ingest.model, ingest.progress)
        ingest.report.trained = ingest.prepared.made
        ingest.report.harvest.add(ingest.prepared.harvest)


class Lens:
    """Why some SAEs have no logit lens."""

    def foresee(self, ingest: Ingest) -> Iterable[Work]:
        configs = ingest.foreseen.configs.items()
        asked = {name: (config.target_hookpoint or config.hookpoint, config.out) for name, config in configs}
        if lens_problems(ingest.catalog, ingest.model, asked) is not None:
            yield Work("problems", "logit lens", "changed", "other SAEs than before have none, or for other reasons")

    def run(self, ingest: Ingest) -> None:
        record_lens_problems(ingest.catalog, ingest.model, ingest.prepared.readers)


class Configuration:
    """Concepts, explainers, scorers and the study itself."""

    def foresee(self, ingest: Ingest) -> Iterable[Work]:
        for table, rows in configuration_rows(ingest.study).items():
            for name, (state, unlike) in differing(ingest.catalog, table, rows).items():
                why = "not in the study any more" if state == GONE else f"other {unlike}" if unlike else ""
                yield Work(table.removesuffix("s"), name, state, why)

    def run(self, ingest: Ingest) -> None:
        record_configurations(ingest.catalog, ingest.study)


class Harvest:
    """Sparse activations, as far as no pass for training made them; SAEs of the same corpora share a pass."""

    def foresee(self, ingest: Ingest) -> Iterable[Work]:
        kept = {sae.name: harvested(ingest.study, sae) for sae in ingest.study.trained()}
        return foresee_harvest(ingest.catalog, ingest.model, ingest.foreseen, kept)

    def run(self, ingest: Ingest) -> None:
        kept = {sae.name: harvested(ingest.study, sae) for sae in ingest.study.trained()}
        for corpora in dict.fromkeys(kept.values()):
            ours = [reader for reader in ingest.prepared.readers if kept[reader.name] == corpora]
            if corpora and ours:
                told = ingest.told(f"harvesting {', '.join(reader.name for reader in ours)}")
                part = harvest(ingest.catalog, ingest.model, ours, list(corpora), progress=told)
                ingest.report.harvest.add(part)


class Sweeps:
    """Which SAEs belong to which sweep."""

    def foresee(self, ingest: Ingest) -> Iterable[Work]:
        for sweep in ingest.study.sweeps:
            rows = sweep_rows(ingest.study, sweep, set())
            for name, (state, unlike) in differing(ingest.catalog, "sweeps", rows, sweep=sweep.name).items():
                yield Work("sweep", name, state, f"other {unlike}" if unlike else "")

    def run(self, ingest: Ingest) -> None:
        record_sweeps(ingest.catalog, ingest.study, ingest.prepared.missing)


class Evaluations:
    """Every SAE on its corpora with the model running; those with the same corpora share a pass.

    What was measured on other text goes when it is out of date; where the study does not measure, all stays.
    """

    def foresee(self, ingest: Ingest) -> Iterable[Work]:
        return foresee_evaluations(ingest.catalog, ingest.study, ingest.model, ingest.foreseen)

    def run(self, ingest: Ingest) -> None:
        study, readers = ingest.study, ingest.prepared.readers
        tokens, splits = study.evaluation.tokens, splits_of(study)
        if not tokens:
            return
        asked = {sae.name: measured(study, sae) for sae in study.trained()}
        texts = {sae: set(product(corpora, splits)) for sae, corpora in asked.items()}
        precision = precision_of(study)
        drop_stale(ingest.catalog, ingest.model, readers, texts, tokens, precision)
        for corpora in dict.fromkeys(asked.values()):
            ours = [reader for reader in readers if asked[reader.name] == corpora]
            if corpora and ours:
                told = ingest.told(f"measuring {len(ours)} SAEs on {', '.join(corpora)}")
                where = (list(corpora), splits)
                evaluate_sample(ingest.catalog, ingest.model, ours, *where, Sample(tokens, precision), told)


STAGES: tuple[Stage, ...] = (
    Model(),
    Text(),
    Saes(),
    Lens(),
    Configuration(),
    Harvest(),
    Sweeps(),
    Evaluations(),
)


def _silent(what: str, done: int, total: int | None, figures: str) -> None:
    """No progress."""


def ingest_study(catalog: Catalog, study: Study, progress: Progress = _silent, wait: float = 0.0) -> IngestReport:
    """Bring everything up to the sparse activations up to date with the study.

    Raises InputError for a model, text, checkpoint or concept that cannot be used and for a full disk, and, when all
    else is done, for SAEs that diverged; UnknownName for a hookpoint that the model lacks, CatalogLocked if another
    process is refreshing.
    """
    with locked(catalog.root / "refresh.lock", wait=wait), full_disk_named(catalog.root):
        inputs = inputs_of(study)
        remember_trust(study.model)
        ingest = _begun(catalog, study, progress)
        for stage in STAGES:
            stage.run(ingest)
        ingest.prepared.check()
        done = ingest.report.harvest
        write_receipt(catalog, inputs, done.shards + done.skipped)
    return ingest.report


def foresee_study(catalog: Catalog, study: Study, progress: Progress = _silent) -> list[Work]:
    """What `ingest_study` would do: a row for each part of the study, in the order of the stages.

    Nothing is written, and no lock is held. New text is read and tokenised, since what is new in it decides all that
    follows. `catalog` is for nothing else afterwards: it shows the text as it would be. Raises as `ingest_study` does,
    for what can be found without training and without reading all text by the model.
    """
    ingest = _begun(catalog, study, progress)
    return [work for stage in STAGES for work in stage.foresee(ingest)]


def _begun(catalog: Catalog, study: Study, progress: Progress) -> Ingest:
    progress(f"loading model {study.model.name}", 0, None, "")
    model = load_model(study.model, lambda what: progress(what, 0, None, ""))
    study = by_own_names(study, model)
    check_hookpoints(model, [name for sae in study.saes for name in (sae.hookpoint, sae.target) if name])
    return Ingest(catalog, study, model, progress)
