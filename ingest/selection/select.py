"""Makes a selection: seed and pool -> scores -> ranks -> what the budget takes -> `selected`."""

import hashlib
import json
import time
from typing import Any, NamedTuple

import numpy as np

from catalog import Catalog
from catalog.errors import InputError
from catalog.study.selection import Selection
from catalog.vectors.collections import Version
from ingest.callbacks import Counted
from ingest.model.batches import text_shards
from ingest.model.language_model import LanguageModel
from ingest.model.text_encoder import encoder_digest
from ingest.sae.model import SAE
from ingest.selection.compared_parent import Parent, compared_parent, hookpoint_of, sparsity_of
from ingest.selection.documents import Documents, check_corpora, read_pool, read_seed
from ingest.selection.selected import Chosen, Scores, SelectionReport, as_before, record, row_of
from ingest.selection.token_budget import best_first, by_hash, passes, within
from ingest.stored.parent import FolderDigests

_BM25_MAX = 2
"""Part of the inputs' digest: a change of these scores raises it, and what was chosen by them is chosen again."""


def select_documents(
    catalog: Catalog,
    model: LanguageModel,
    spec: Selection,
    *,
    parent: Parent | None = None,
    progress: Counted | None = None,
) -> SelectionReport:
    """Bring `selections` and `selected` up to date with `spec`. Hold `refresh.lock`, as vectors may be written.

    `parent` stands for the SAE that the section names; it is loaded if there is something to do. Documents are taken by
    rank until `tokens` is reached, the one that crosses the budget included. BM25 finds only documents that share a
    word with the seed; the other methods rank the whole pool. What stays below its budget has a row in `problems` that
    says why. Raises UnknownName for a corpus, a document or an SAE that is not there. Raises InputError if a seed text
    is of a split test, if nothing is found, if a corpus was cut for another model, if the encoder cannot be loaded, or
    if TracIn cannot differentiate the parent's loss.
    """
    report = SelectionReport(spec.name)
    clock = _Clock(report.seconds)
    seed, parent, inputs = made_from(catalog, model, spec, parent)
    if seed is not None:
        report.seed_documents, report.seed_tokens = len(seed), int(seed.tokens.sum())
    if as_before(catalog, spec, inputs, report):
        return report
    loaded = parent.load() if parent else None
    if loaded is not None:
        from ingest.selection.tracin import check_supported

        check_supported(loaded.config)
    chosen = _choose(catalog, model, spec, seed, loaded, _Told(report, clock, progress))
    if not len(chosen.order):
        raise InputError(
            f"selection {spec.name!r} is empty: no document of {spec.pool!r} shares a word with the seed documents"
        )
    times = np.ones(len(chosen.order), np.int64) if chosen.passes is None else chosen.passes
    report.documents = len(chosen.order)
    report.tokens = int((chosen.documents.tokens[chosen.order] * times).sum())
    with clock("write"):
        row = row_of(spec, seed, parent.digest if parent else None, inputs)
        record(catalog, spec, row, chosen, times, report)
    return report


def made_from(
    catalog: Catalog, model: LanguageModel, spec: Selection, parent: Parent | None
) -> tuple[Documents | None, Parent | None, str]:
    """(seed documents, SAE that is compared with, digest of all that decides) of a selection."""
    seed = read_seed(catalog, spec) if spec.seed is not None else None
    _check_model(catalog, model, spec)
    if not spec.reranked:
        parent = None
    elif parent is None:
        parent = compared_parent(catalog, spec, FolderDigests())
    return seed, parent, _inputs(catalog, model, spec, seed, parent.digest if parent else "")


def _choose(
    catalog: Catalog,
    model: LanguageModel,
    spec: Selection,
    seed: Documents | None,
    parent: SAE | None,
    told: "_Told",
) -> Chosen:
    """What the method takes."""
    report, clock, progress = told
    budget = int(spec.tokens or 0)
    if spec.method == "seed" and seed is not None:
        often = passes(seed.tokens, budget)
        return Chosen(seed, np.flatnonzero(often), passes=often[often > 0])
    pool = read_pool(catalog, spec.pool)
    if seed is None:
        order = by_hash(pool, spec.rng) if spec.method == "random" else np.arange(len(pool))
        return Chosen(pool, order if spec.method == "full" else order[: within(pool.tokens[order], budget)])
    scores, version = _first_scores(catalog, spec, pool, seed, report, clock, progress)
    order = best_first(scores)
    if spec.first_stage == "bm25":
        order = order[scores[order] > 0]
    if parent is not None and len(order):
        order = np.sort(order[: within(pool.tokens[order], int(budget * spec.candidates))])
        report.candidates = len(order)
        with clock("tracin"):
            found = _influence(catalog, model, spec, parent, pool.take(order), seed, progress)
        scores = np.full(len(pool), -np.inf)
        scores[order] = found
        order = order[best_first(found)]
    return Chosen(pool, order[: within(pool.tokens[order], budget)], scores, version=version)


def _first_scores(
    catalog: Catalog,
    spec: Selection,
    pool: Documents,
    seed: Documents,
    report: SelectionReport,
    clock: "_Clock",
    progress: Counted | None,
) -> tuple[Scores, Version | None]:
    """How like the seed each document of the pool is, `[pool]`, and the vectors that it was found with."""
    if spec.first_stage == "bm25":
        from ingest.selection.bm25 import bm25_scores

        with clock("bm25"):
            return bm25_scores(pool.texts(catalog), seed.texts(catalog), spec.pooling), None
    from ingest.selection.dense import dense_scores, embedded

    with clock("embed"):
        found = embedded(catalog, spec.encoder, [pool, seed], progress)
        report.embedded = found.fresh
    with clock("dense"):
        return dense_scores(found.matrices[0], found.matrices[1], spec.pooling), found.version


def _influence(
    catalog: Catalog,
    model: LanguageModel,
    spec: Selection,
    parent: SAE,
    candidates: Documents,
    seed: Documents,
    progress: Counted | None,
) -> Scores:
    """TracIn of each candidate with the seed, `[candidates]`, from rows that the model gives as they are needed."""
    from ingest.selection.document_rows import document_rows
    from ingest.selection.tracin import document_influence, seed_gradient

    hookpoint = hookpoint_of(catalog, spec, parent)
    parent = parent.to(model.device)
    sparsity = sparsity_of(catalog, spec, parent)
    gradient = seed_gradient(parent, (x for x, _ in document_rows(catalog, model, hookpoint, seed)), sparsity)
    total = int(candidates.tokens.sum())
    return document_influence(
        parent,
        gradient,
        document_rows(catalog, model, hookpoint, candidates),
        len(candidates),
        sparsity,
        None if progress is None else lambda done: progress(done, total),
    )


def _check_model(catalog: Catalog, model: LanguageModel, spec: Selection) -> None:
    """The budget counts tokens, and TracIn reads them: both of this model's tokenizer."""
    names = [name for name in (spec.pool, spec.seed) if name is not None]
    check_corpora(catalog, names)
    for name in names:
        cut = catalog.value("SELECT model FROM corpora WHERE corpus = ?", [name])
        if cut != model.spec.name:
            raise InputError(
                f"selection {spec.name!r}: corpus {name!r} was cut for model {cut!r}, not {model.spec.name!r}"
            )


def _inputs(catalog: Catalog, model: LanguageModel, spec: Selection, seed: Documents | None, parent: str) -> str:
    """BLAKE2b-128 of everything that decides a selection."""
    corpora = sorted({spec.pool, *([spec.seed] if spec.seed else [])})
    said: list[Any] = [
        spec.model_dump(mode="json", exclude={"scale"} if spec.scale is None else set()),
        text_shards(catalog, corpora),
        "" if seed is None else hashlib.blake2b("".join(seed.hashes).encode(), digest_size=16).hexdigest(),
        encoder_digest(spec.encoder) if spec.first_stage == "dense" else "",
        [model.digest, str(model.dtype), parent] if spec.reranked else "",
    ]
    if (spec.first_stage, spec.pooling) == ("bm25", "max"):
        said.append(_BM25_MAX)
    if spec.reranked:
        said.append(catalog.rows("SELECT hookpoint, sparsity FROM saes WHERE sae = ?", [spec.parent]))
    return hashlib.blake2b(json.dumps(said).encode(), digest_size=16).hexdigest()


class _Told(NamedTuple):
    """Who is told how a selection goes."""

    report: SelectionReport
    clock: "_Clock"
    progress: Counted | None


class _Clock:
    """Adds up what each part takes."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds
        self._name, self._begun = "", 0.0

    def __call__(self, name: str) -> "_Clock":
        self._name = name
        return self

    def __enter__(self) -> None:
        self._begun = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        taken = time.perf_counter() - self._begun
        self._seconds[self._name] = round(self._seconds.get(self._name, 0.0) + taken, 3)
