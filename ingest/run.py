"""A study into the catalog: model -> text -> residuals -> SAEs -> sparse activations -> configurations.

Each part is skipped when what it is made from did not change, so that a run which was interrupted at any
moment goes on where it was.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import duckdb

from catalog import Catalog
from catalog.errors import InputError
from catalog.locks import locked
from catalog.sections import Concept, Sae
from catalog.study import Study
from ingest.corpus import CorpusReport, ingest_corpus
from ingest.harvest import HarvestReport, Reader, harvest
from ingest.models import LanguageModel, load_model
from ingest.residuals import Residuals, cache_residuals, residuals_digest
from ingest.sae.config import Objective, SAEConfig
from ingest.sae.evaluate import evaluate
from ingest.sae.model import SAE, WEIGHTS_FILE
from ingest.sae.settings import TrainConfig
from ingest.sae.train import train_sae
from ingest.sparse import file_digest

Progress = Callable[[str, int, int | None, str], None]
"""Called with (what is being done, done, total, figures so far)."""
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

    Raises InputError for a model, text, checkpoint or concept that cannot be used and for a full disk, UnknownName
    for a hookpoint that the model lacks, CatalogLocked if another process is refreshing.
    """
    report = IngestReport()
    with locked(catalog.root / "refresh.lock", wait=wait), _full_disk_named(catalog.root):
        progress(f"loading model {study.model.name}", 0, None, "")
        model = load_model(study.model)
        for sae in study.saes:
            model.hookpoint(sae.hookpoint)
        _record_model(catalog, model)
        for corpus in study.corpora:
            progress(f"tokenising {corpus.name}", 0, corpus.max_tokens, "reading")
            report.corpora.append(
                ingest_corpus(catalog, corpus, model, partial(_tell, progress, f"tokenising {corpus.name}"))
            )
        readers = _prepare(catalog, study, model, progress, report)
        for corpora in dict.fromkeys(study.corpora_of(sae) for sae in study.saes):
            ours = [r for r, sae in zip(readers, study.saes, strict=True) if study.corpora_of(sae) == corpora]
            what = f"harvesting {', '.join(r.name for r in ours)}"
            part = harvest(catalog, model, ours, list(corpora), progress=partial(_tell, progress, what))
            _add(report.harvest, part)
        _record_configurations(catalog, study)
    return report


@contextmanager
def _full_disk_named(root: Path) -> Iterator[None]:
    """A full disk speaks with many voices (Python, Arrow, DuckDB, SQLite); it becomes one InputError."""
    try:
        yield
    except (OSError, duckdb.Error) as error:
        full = "No space left" in str(error) or "disk is full" in str(error)
        if not full and shutil.disk_usage(root).free > _NO_ROOM:
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


def _put(catalog: Catalog, table: str, rows: list[dict[str, Any]], key: list[str], message: str, **scope: str) -> None:
    """Make the rows of a configuration table those given; equal rows leave no snapshot."""
    catalog.stage(table, rows)
    with catalog.write(message) as tx:
        where = " AND ".join(f"{name} = '{value}'" for name, value in scope.items()) or "true"
        tx.replace(table, "_fresh", key, where)


def _record_model(catalog: Catalog, model: LanguageModel) -> None:
    spec, config = model.spec, model.network.config
    there = catalog.rows("SELECT digest FROM models WHERE model = ?", [spec.name])
    if there and there[0][0] != model.digest and catalog.value("SELECT 1 FROM corpora WHERE model = ?", [spec.name]):
        raise InputError(
            f"the model {spec.name!r} at {spec.source} is not the one that this catalog was built from "
            "(weights or tokenizer differ): give it another name"
        )
    row = {
        "model": spec.name,
        "source": spec.source,
        "revision": spec.revision,
        "architecture": type(model.network).__name__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "d_model": config.hidden_size,
        "layers": config.num_hidden_layers,
        "vocabulary": config.vocab_size,
        "bos": model.bos,
        "digest": model.digest,
    }
    _put(catalog, "models", [row], ["model"], f"model {spec.name}", model=spec.name)
    tokens = [
        {"model": spec.name, "token": i, "text": model.tokenizer.decode([i])} for i in range(len(model.tokenizer))
    ]
    if catalog.value("SELECT count(*) FROM vocabulary WHERE model = ?", [spec.name]) != len(tokens):
        _put(catalog, "vocabulary", tokens, ["model", "token"], f"vocabulary of {spec.name}", model=spec.name)


def _prepare(
    catalog: Catalog, study: Study, model: LanguageModel, progress: Progress, report: IngestReport
) -> list[Reader]:
    """The study's SAEs, those trained or loaded now that the catalog does not have as the study says.

    The residuals that they need are read first, all hookpoints of the same text in one pass of the model.
    """
    configs = {sae.name: _config(catalog, study, sae, model) for sae in study.saes}
    ready = {sae.name: _ready(catalog, sae, configs[sae.name], model) for sae in study.saes}
    texts: dict[tuple[tuple[str, ...], int | None], list[Sae]] = {}
    for sae in study.saes:
        if ready[sae.name] is None:
            texts.setdefault((study.corpora_of(sae), sae.train_tokens), []).append(sae)
    for (corpora, train_tokens), saes in texts.items():
        hookpoints = list(dict.fromkeys(sae.hookpoint for sae in saes))
        told = partial(_tell, progress, f"reading {', '.join(hookpoints)}")
        residuals = cache_residuals(catalog, model, hookpoints, list(corpora), train_tokens, told)
        for sae in saes:
            ready[sae.name] = _make(catalog, sae, residuals[sae.hookpoint], configs[sae.name], model, progress)
            report.trained.append(sae.name)
    return [reader for reader in ready.values() if reader is not None]


def _config(catalog: Catalog, study: Study, sae: Sae, model: LanguageModel) -> str:
    """All that decides an SAE's weights, JSON."""
    inputs = (
        _folder_digest(Path(sae.checkpoint))
        if sae.checkpoint
        else residuals_digest(catalog, model, sae.hookpoint, list(study.corpora_of(sae)), sae.train_tokens)
    )
    return json.dumps({**sae.model_dump(mode="json"), "inputs": inputs}, sort_keys=True)


def _ready(catalog: Catalog, sae: Sae, config: str, model: LanguageModel) -> Reader | None:
    """The SAE as the catalog has it, None if it has it otherwise or not at all."""
    there = catalog.rows("SELECT config, weights, digest FROM saes WHERE sae = ?", [sae.name])
    if not there or there[0][0] != config or not (catalog.weights / there[0][1] / WEIGHTS_FILE).exists():
        return None
    _, weights, digest = there[0]
    return Reader(sae.name, sae.hookpoint, SAE.load(catalog.weights / weights, model.device), digest)


def _make(
    catalog: Catalog, sae: Sae, residuals: Residuals, config: str, model: LanguageModel, progress: Progress
) -> Reader:
    """Train or load one SAE, measure it on val tokens, and put it into the catalog."""
    name = f"{sae.name}-{hashlib.blake2b(config.encode(), digest_size=6).hexdigest()}"
    folder = catalog.weights / name
    if sae.checkpoint:
        loaded = SAE.load(Path(sae.checkpoint))
        if loaded.config.d_in != residuals.train.shape[1]:
            raise InputError(
                f"the checkpoint {sae.checkpoint} reads rows of width {loaded.config.d_in}, and {sae.hookpoint} of "
                f"{model.spec.name} gives {residuals.train.shape[1]}: name the hookpoint that it was trained on"
            )
        loaded.save(folder)
    else:
        _train(sae, residuals.train, folder, model, progress)
    trained = SAE.load(folder, model.device)
    held_out = evaluate(trained, residuals.val) if len(residuals.val) else None
    row = {
        "sae": sae.name,
        "model": model.spec.name,
        "hookpoint": sae.hookpoint,
        "architecture": trained.config.architecture,
        "width": trained.config.width,
        "d": trained.config.d_in,
        "k": trained.config.k,
        "parent": None,
        "weights": name,
        "digest": file_digest(folder / WEIGHTS_FILE),
        "l0": held_out and held_out.l0,
        "fve": held_out and held_out.fve,
        "dead": held_out and held_out.dead,
        "held_out": held_out.rows if held_out else 0,
        "steps": None if sae.checkpoint else sae.steps,
        "config": config,
    }
    _put(catalog, "saes", [row], ["sae"], f"SAE {sae.name}", sae=sae.name)
    return Reader(sae.name, sae.hookpoint, trained, str(row["digest"]))


def _train(sae: Sae, rows: Any, folder: Path, model: LanguageModel, progress: Progress) -> None:
    d = rows.shape[1]
    shape = SAEConfig(d, sae.width, sae.k, model.spec.source, sae.hookpoint)
    chosen = TrainConfig(
        shape,
        steps=sae.steps,
        batch=min(sae.batch, len(rows)),
        learning_rate=sae.lr,
        warmup=min(TrainConfig.warmup, sae.steps // 4),
        decay=min(TrainConfig.decay, sae.steps // 2),
        objective=Objective(k_aux=min(Objective.k_aux, sae.width) if sae.k_aux is None else sae.k_aux),
        seed=sae.seed,
    )
    train_sae(
        chosen,
        rows,
        folder,
        device=model.device,
        progress=lambda step, steps, loss, fve, l0, dead: progress(
            f"training {sae.name}", step, steps, f"FVE {fve:.3f}, L0 {l0:.1f}, dead {dead}"
        ),
    )


def _folder_digest(folder: Path) -> str:
    if not folder.is_dir():
        raise InputError(f"the checkpoint {folder} is not a directory")
    return "".join(file_digest(path) for path in sorted(folder.iterdir()) if path.is_file())


def _record_configurations(catalog: Catalog, study: Study) -> None:
    concepts = [
        {
            "concept": concept.name,
            "kind": concept.kind,
            "corpora": concept.corpora and list(concept.corpora),
            "definition": json.dumps(_definition(concept)),
            "shortlist": concept.shortlist,
        }
        for concept in study.concepts
    ]
    _put(catalog, "concepts", concepts, ["concept"], "concepts of the study")
    explainers = [
        {"explainer": e.name, "provider": e.provider, "model": e.model, "settings": e.model_dump_json()}
        for e in study.explainers
    ]
    _put(catalog, "explainers", explainers, ["explainer"], "explainers of the study")
    scorers = [
        {
            "scorer": s.name,
            "protocol": s.protocol,
            "provider": s.provider,
            "model": s.model,
            "examples": s.examples,
            "settings": s.model_dump_json(),
        }
        for s in study.scorers
    ]
    _put(catalog, "scorers", scorers, ["scorer"], "scorers of the study")
    row = {"name": study.name, **primary_names(study), "source": study.model_dump_json()}
    _put(catalog, "study", [row], ["name"], f"study {study.name}")


def primary_names(study: Study) -> dict[str, str | None]:
    """The names that the view `features` shows."""
    return {"explainer": study.primary.explainer, "scorer": study.primary.scorer, "concept": study.primary.concept}


def _definition(concept: Concept) -> dict[str, Any]:
    if concept.kind == "words":
        return {"words": concept.all_words(), "ignore_case": concept.ignore_case}
    if concept.kind == "predicate":
        return {"predicate": concept.predicate}
    return {"spans": _spans(Path(str(concept.file)))}


def _spans(path: Path) -> list[tuple[str | int, int, int]]:
    """(document hash or number, first character, one after the last) of each line of a JSON Lines file."""
    spans = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 at byte {error.start}: save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            span = (row["document"], int(row["start"]), int(row["end"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}, line {number}: needs document (hash or number), start and end, in characters"
            ) from error
        if not 0 <= span[1] < span[2]:
            raise InputError(f"{path}, line {number}: start {span[1]} and end {span[2]} are no span")
        spans.append(span)
    return spans
