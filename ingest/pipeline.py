"""Brings a study into the catalog: model -> text -> residuals -> SAEs -> sparse activations -> configurations.

Each part is skipped when what it is made from did not change, so that a run which was interrupted at any
moment goes on where it was.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path

import duckdb

from catalog import Catalog
from catalog.errors import InputError
from catalog.store.connection import FULL
from catalog.store.locks import locked
from catalog.study.file import Study
from catalog.study.sae import Sae
from catalog.study.tables import record_configurations, record_sweeps
from ingest.activations.harvest import HarvestReport, harvest
from ingest.dictionaries.make import prepare_saes
from ingest.dictionaries.measure import drop_stale, evaluate_text
from ingest.dictionaries.record import record_lens_problems
from ingest.dictionaries.wave import Progress
from ingest.model.catalog_model import remember_trust
from ingest.model.identity import record_model
from ingest.model.language_model import LanguageModel, load_model
from ingest.model.other_names import by_own_names
from ingest.model.splice import check_hookpoints
from ingest.receipt import inputs_of, write_receipt
from ingest.stored.reader import Reader
from ingest.text.corpus import ingest_corpus
from ingest.text.corpus_rows import CorpusReport

_NO_ROOM = 1 << 18
"""Bytes: SQLite calls it an I/O error when its log cannot grow by a few pages."""


@dataclass
class IngestReport:
    """What an ingest did."""

    corpora: list[CorpusReport] = field(default_factory=list)
    trained: list[str] = field(default_factory=list)
    """SAEs that were trained or loaded now."""
    harvest: HarvestReport = field(default_factory=HarvestReport)


def ingest_study(
    catalog: Catalog,
    study: Study,
    progress: Progress = lambda what, done, total, figures: None,
    wait: float = 0.0,
) -> IngestReport:
    """Bring everything up to the sparse activations up to date with the study.

    Raises InputError for a model, text, checkpoint or concept that cannot be used and for a full disk, and, when all
    else is done, for SAEs that diverged; UnknownName for a hookpoint that the model lacks, CatalogLocked if another
    process is refreshing.
    """
    report = IngestReport()
    with locked(catalog.root / "refresh.lock", wait=wait), _full_disk_named(catalog.root):
        inputs = inputs_of(study)
        progress(f"loading model {study.model.name}", 0, None, "")
        remember_trust(study.model)
        model = load_model(study.model)
        study = by_own_names(study, model)
        check_hookpoints(model, [name for sae in study.saes for name in (sae.hookpoint, sae.target) if name])
        record_model(catalog, model)
        for corpus in study.corpora:
            progress(f"tokenising {corpus.name}", 0, corpus.max_tokens, "reading")
            report.corpora.append(
                ingest_corpus(catalog, corpus, model, partial(_tell, progress, f"tokenising {corpus.name}"))
            )
        prepared = prepare_saes(catalog, study, model, progress)
        readers, report.trained = prepared.readers, prepared.made
        record_lens_problems(catalog, model, readers)
        record_configurations(catalog, study)
        harvested = {sae.name: _harvested(study, sae) for sae in study.trained()}
        for corpora in dict.fromkeys(harvested.values()):
            ours = [reader for reader in readers if harvested[reader.name] == corpora]
            if corpora and ours:
                what = f"harvesting {', '.join(r.name for r in ours)}"
                part = harvest(catalog, model, ours, list(corpora), progress=partial(_tell, progress, what))
                _add(report.harvest, part)
        record_sweeps(catalog, study, prepared.missing)
        _measure(catalog, study, model, readers, progress)
        prepared.check()
        write_receipt(catalog, inputs, report.harvest.shards + report.harvest.skipped)
    return report


def _harvested(study: Study, sae: Sae) -> tuple[str, ...]:
    """The corpora whose activations of an SAE are kept."""
    return study.corpora_of(sae) if sae.harvest is None else sae.harvest


def _measure(catalog: Catalog, study: Study, model: LanguageModel, readers: list[Reader], progress: Progress) -> None:
    """Measure every SAE on its corpora with the model running; those with the same corpora share a pass.

    What was measured on other text goes when it is out of date; where the study does not measure, all stays.
    """
    tokens, splits = study.evaluation.tokens, study.evaluation.splits
    if not tokens:
        return
    trained = study.trained()
    asked = {sae.name: study.corpora_of(sae) if sae.evaluate is None else sae.evaluate for sae in trained}
    texts = {sae: set(product(corpora, splits)) for sae, corpora in asked.items()}
    drop_stale(catalog, model, readers, texts, tokens)
    for corpora in dict.fromkeys(asked.values()):
        ours = [reader for reader in readers if asked[reader.name] == corpora]
        if corpora and ours:
            told = partial(_tell, progress, f"measuring {len(ours)} SAEs on {', '.join(corpora)}")
            evaluate_text(catalog, model, ours, list(corpora), tuple(splits), tokens, progress=told)


@contextmanager
def _full_disk_named(root: Path) -> Iterator[None]:
    """A full disk speaks with many voices (Python, Arrow, DuckDB, SQLite); it becomes one InputError."""
    try:
        yield
    except (OSError, duckdb.Error) as error:
        said = str(error).lower()
        full = any(sign.lower() in said for sign in FULL)
        # Without room, a failed write may say no more than that; any other failure has nothing to do with the disk.
        if not full and not ("writ" in said and shutil.disk_usage(root).free <= _NO_ROOM):
            raise
        raise InputError(
            f"the disk that holds {root} is full; every finished shard was kept: make room, run again"
        ) from error


def _tell(progress: Progress, what: str, done: int, total: int | None) -> None:
    progress(what, done, total, "")


def _add(total: HarvestReport, part: HarvestReport) -> None:
    for name in ("tokens", "activations", "bytes", "shards", "skipped"):
        setattr(total, name, getattr(total, name) + getattr(part, name))
    for name, seconds in part.seconds.items():
        total.seconds[name] += seconds
