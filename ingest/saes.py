"""The study's SAEs: loaded, trained or fine-tuned, those that share rows on one pass over them.

An SAE that the catalog has as the study says is left alone. A parent comes before its children; the residuals that
a generation needs are read first, all hookpoints of the same text in one pass of the model.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from catalog import Catalog
from catalog.errors import InputError
from catalog.lake import quoted
from catalog.sae_section import Sae
from catalog.study import Study
from catalog.transaction import Transaction
from ingest.checkpoint import check_asked, named, renamed
from ingest.harvest import Reader
from ingest.models import LanguageModel
from ingest.recipe import beginning, shape, training
from ingest.residuals import Residuals, cache_residuals, residuals_digest, text_shards
from ingest.sae.evaluate import evaluate
from ingest.sae.job import Job
from ingest.sae.model import SAE, WEIGHTS_FILE
from ingest.sae.parallel import train_in_processes
from ingest.sae.rows import CachedRows, RowSource
from ingest.sae.settings import TrainReport
from ingest.sae.train import train_saes
from ingest.select.run import select_documents
from ingest.sparse import file_digest
from ingest.streaming import ModelRows, held_out_rows

Progress = Callable[[str, int, int | None, str], None]
"""Called with (what is being done, done, total, figures so far)."""
_NOT_WEIGHTS = {"harvest", "evaluate", "processes", "template"}
"""Keys of the section that do not decide the weights."""
_LENS = "logit lens"
"""The stage of a problem."""
_READS_AS = ("model", "hookpoint", "target", "architecture", "k", "digest")
"""Columns of `saes` that decide what an SAE's activations and measures are."""


def prepare_saes(
    catalog: Catalog, study: Study, model: LanguageModel, progress: Progress
) -> tuple[list[Reader], list[str]]:
    """(the study's SAEs, ready to be read with; the names of those that were trained or loaded now).

    Raises InputError for a checkpoint, parent, selection or row that cannot be used, and for a loss that is not finite.
    """
    made: list[str] = []
    readers: dict[str, Reader] = {}
    waiting = study.trained()
    selected = _select(catalog, study, model, set(), waiting, progress)
    while waiting:
        ours = [sae for sae in waiting if not _depends(study, sae) & {other.name for other in waiting}]
        if not ours:
            names = ", ".join(sae.name for sae in waiting)
            raise InputError(f"the parents of {names} form a circle: none can be first")
        generation = _Generation(catalog, study, model, progress)
        for sae, reader in generation.readers(ours).items():
            readers[sae] = reader
        made += generation.made
        waiting = [sae for sae in waiting if sae not in ours]
        selected = _select(catalog, study, model, selected, waiting, progress)
    return [readers[sae.name] for sae in study.trained()], made


def _depends(study: Study, sae: Sae) -> set[str]:
    """The SAEs that must be there first."""
    found = {sae.parent} if sae.parent else set()
    selection = next((s for s in study.selections if s.name == sae.selection), None)
    if selection is not None and selection.parent:
        found.add(selection.parent)
    return found


def _select(
    catalog: Catalog, study: Study, model: LanguageModel, done: set[str], waiting: list[Sae], progress: Progress
) -> set[str]:
    """Make the selections that wait for no SAE, those that no SAE is trained on too; the names of all that are made."""
    awaited = {sae.name for sae in waiting}
    now = [spec for spec in study.selections if spec.name not in done and spec.parent not in awaited]
    for spec in now:
        parent = _parent_of(catalog, spec.parent, model)[0] if spec.parent else None
        told = partial(_tell, progress, f"selecting {spec.name}")
        select_documents(catalog, model, spec, parent=parent, progress=told)
    return done | {spec.name for spec in now}


def _tell(progress: Progress, what: str, done: int, total: int | None) -> None:
    progress(what, done, total, "")


def _parent_of(catalog: Catalog, name: str, model: LanguageModel) -> tuple[SAE, str, float | None]:
    """(the SAE, the digest of its weights, the sparsity coefficient it ended with) of a parent by name or path."""
    from ingest.sae.formats.detect import load_checkpoint_folder

    if "/" in name:
        return load_checkpoint_folder(Path(name)), _folder_digest(Path(name)), None
    rows = catalog.rows("SELECT weights, digest, sparsity FROM saes WHERE sae = ?", [name])
    if not rows:
        known = ", ".join(row[0] for row in catalog.rows("SELECT sae FROM saes ORDER BY sae"))
        raise InputError(f"there is no SAE {name!r} to begin with; the catalog has {known or 'none'}")
    weights, digest, sparsity = rows[0]
    return SAE.load(catalog.weights / weights), digest, sparsity


@dataclass(frozen=True)
class _Plan:
    """One SAE that the catalog does not have as the study says."""

    sae: Sae
    config: str
    """All that decides its weights, JSON."""
    folder: Path


class _Generation:
    """SAEs whose parents are all there."""

    def __init__(self, catalog: Catalog, study: Study, model: LanguageModel, progress: Progress) -> None:
        self._catalog, self._study, self._model, self._progress = catalog, study, model, progress
        self.made: list[str] = []

    def readers(self, saes: list[Sae]) -> dict[str, Reader]:
        """Make what is missing; every SAE by name."""
        found: dict[str, Reader] = {}
        texts: dict[tuple[tuple[str, ...], int | None], list[_Plan]] = {}
        for sae in saes:
            plan = self._plan(sae)
            ready = self._ready(plan)
            if ready is not None:
                found[sae.name] = ready
            elif sae.checkpoint:
                found[sae.name] = self._load(plan)
            else:
                texts.setdefault((self._study.corpora_of(sae), sae.train_tokens), []).append(plan)
        for (corpora, train_tokens), plans in texts.items():
            for reader in self._train(corpora, train_tokens, plans):
                found[reader.name] = reader
        return found

    def _plan(self, sae: Sae) -> _Plan:
        """What decides the SAE. Text that came after it was made does not: it stays as it is until it is asked anew."""
        there = self._catalog.value("SELECT config FROM saes WHERE sae = ?", [sae.name])
        shards = json.loads(there).get("shards") if there else None
        if shards:
            as_it_was = self._planned(sae, shards)
            if as_it_was.config == there:
                return as_it_was
        return self._planned(sae, self._shards(sae))

    def _shards(self, sae: Sae) -> dict[str, int]:
        """Shards of each corpus that the SAE is trained on."""
        counts = dict.fromkeys(self._study.corpora_of(sae), 0)
        for corpus, *_ in text_shards(self._catalog, list(counts)):
            counts[corpus] += 1
        return counts

    def _planned(self, sae: Sae, shards: dict[str, int]) -> _Plan:
        inputs: list[str] = []
        if sae.checkpoint:
            inputs.append(_folder_digest(Path(sae.checkpoint)))
        else:
            corpora = list(self._study.corpora_of(sae))
            for hookpoint in (sae.hookpoint, *([sae.target] if sae.target else [])):
                limit = sae.train_tokens
                inputs.append(residuals_digest(self._catalog, self._model, hookpoint, corpora, limit, shards))
        if sae.parent:
            inputs.append(_parent_of(self._catalog, sae.parent, self._model)[1])
        if sae.selection:
            inputs.append(_ranges_digest(_selected_ranges(self._catalog, sae.selection)))
        settings = sae.model_dump(mode="json", exclude=_NOT_WEIGHTS)
        config = json.dumps({**settings, "inputs": "+".join(inputs), "shards": shards}, sort_keys=True)
        name = f"{sae.name}-{hashlib.blake2b(config.encode(), digest_size=6).hexdigest()}"
        return _Plan(sae, config, self._catalog.weights / name)

    def _ready(self, plan: _Plan) -> Reader | None:
        """The SAE as the catalog has it, None if it has it otherwise or not at all."""
        there = self._catalog.rows("SELECT config, weights, digest FROM saes WHERE sae = ?", [plan.sae.name])
        if not there or there[0][0] != plan.config or not (self._catalog.weights / there[0][1] / WEIGHTS_FILE).exists():
            return None
        _, weights, digest = there[0]
        loaded = renamed(plan.sae, SAE.load(self._catalog.weights / weights, self._model.device))
        return Reader(plan.sae.name, plan.sae.hookpoint, loaded, digest)

    def _load(self, plan: _Plan) -> Reader:
        """Take a checkpoint into the catalog, measured on val tokens."""
        from ingest.sae.formats.detect import load_checkpoint_folder

        sae = plan.sae
        loaded = load_checkpoint_folder(Path(str(sae.checkpoint)))
        check_asked(sae, loaded)
        wanted = [name for name in (sae.hookpoint, sae.target) if name]
        corpora = list(self._study.corpora_of(sae))
        told = partial(_tell, self._progress, f"reading {', '.join(wanted)}")
        residuals = cache_residuals(self._catalog, self._model, wanted, corpora, sae.train_tokens, told)
        d_in, d_out = (residuals[name].train.shape[1] for name in (wanted[0], wanted[-1]))
        named(sae, loaded, self._model.spec.name, (d_in, d_out)).save(plan.folder)
        target = residuals[sae.target].val if sae.target else None
        return self._record(plan, None, residuals[sae.hookpoint].val, target)

    def _train(self, corpora: tuple[str, ...], train_tokens: int | None, plans: list[_Plan]) -> list[Reader]:
        """Train SAEs on the same text, those with the same rows on one pass over them."""
        cached = [plan.sae for plan in plans if not plan.sae.stream]
        wanted = list(dict.fromkeys(n for sae in cached for n in (sae.hookpoint, sae.target) if n))
        residuals: dict[str, Residuals] = {}
        if wanted:
            told = partial(_tell, self._progress, f"reading {', '.join(wanted)}")
            residuals = cache_residuals(self._catalog, self._model, wanted, list(corpora), train_tokens, told)
        groups: dict[tuple[Any, ...], list[_Plan]] = {}
        for plan in plans:
            sae = plan.sae
            key = (sae.hookpoint, sae.target, sae.selection, sae.stream)
            groups.setdefault(key, []).append(plan)
        found = []
        for (hookpoint, target, selection, stream), ours in groups.items():
            source = self._source(residuals, hookpoint, target, selection, corpora, train_tokens, stream)
            d_in, d_out = source.widths
            jobs = [self._job(plan, source, d_in, d_out) for plan in ours]
            for plan, job in zip(ours, jobs, strict=True):
                if plan.sae.processes > 1:
                    train_in_processes(job, source, plan.sae.processes)
            reports = train_saes(jobs, source, device=self._model.device)
            val = (
                held_out_rows(self._catalog, self._model, hookpoint, list(corpora))
                if stream
                else residuals[hookpoint].val
            )
            val_target = residuals[target].val if target else None
            found += [self._record(p, r, val, val_target) for p, r in zip(ours, reports, strict=True)]
        return found

    def _source(
        self,
        residuals: dict[str, Residuals],
        hookpoint: str,
        target: str | None,
        selection: str | None,
        corpora: tuple[str, ...],
        train_tokens: int | None,
        stream: bool,
    ) -> RowSource:
        """The rows that a training reads."""
        if stream:
            return ModelRows(self._catalog, self._model, hookpoint, list(corpora), train_tokens)
        rows = residuals[hookpoint]
        subset = None
        if selection:
            ranges = _selected_ranges(self._catalog, selection)
            subset = rows.rows_of(ranges)
            chosen = sum(int((found[:, 1] - found[:, 0]).sum()) for found in ranges.values())
            if len(subset) < chosen:
                raise InputError(
                    f"selection {selection!r} holds {chosen} train tokens, and only {len(subset)} of them are in the "
                    f"training cache, which ends at train_tokens = {train_tokens}: remove train_tokens, or raise it"
                )
        return CachedRows(rows.train, residuals[target].train if target else None, subset=subset)

    def _job(self, plan: _Plan, source: RowSource, d_in: int, d_out: int) -> Job:
        sae = plan.sae
        parent = sparsity = begin = None
        if sae.parent:
            parent, digest, sparsity = _parent_of(self._catalog, sae.parent, self._model)
        config = shape(sae, d_in, d_out, self._model.spec.source, parent)
        if parent is not None:
            begin = beginning(parent, digest, config)
        chosen = training(sae, config, source.rows, sparsity)

        def told(step: int, steps: int, loss: float, fve: float, l0: float, dead: int) -> None:
            self._progress(f"training {sae.name}", step, steps, f"FVE {fve:.3f}, L0 {l0:.1f}, dead {dead}")

        return Job(chosen, plan.folder, begin, told, skip=sae.skip)

    def _record(self, plan: _Plan, report: TrainReport | None, val: Any, target: Any) -> Reader:
        """Measure an SAE on val tokens and put it into the catalog, with the course of its training."""
        sae = plan.sae
        trained = SAE.load(plan.folder, self._model.device)
        config = trained.config
        held_out = evaluate(trained, val, target) if len(val) else None
        penalised = config.k is None
        row = {
            "sae": sae.name,
            "model": self._model.spec.name,
            "hookpoint": sae.hookpoint,
            "architecture": config.architecture,
            "width": config.width,
            "d": config.d_in,
            "k": config.k,
            "parent": sae.parent,
            "weights": plan.folder.name,
            "digest": file_digest(plan.folder / WEIGHTS_FILE),
            "l0": held_out and held_out.l0,
            "fve": held_out and held_out.fve,
            "dead": held_out and held_out.dead,
            "held_out": held_out.rows if held_out else 0,
            "steps": report and report.steps,
            "config": plan.config,
            "target": sae.target,
            "selection": sae.selection,
            "sparsity": report.sparsity if report and penalised else None,
            "tilt": sae.tilt if report else None,
            "seed": sae.seed if report else None,
        }
        course = [{"sae": sae.name, **metric._asdict()} for metric in (report.metrics if report else [])]
        _store(self._catalog, row, course, self._without_logits(sae.name, config.out))
        self.made.append(sae.name)
        return Reader(sae.name, sae.hookpoint, trained, str(row["digest"]))

    def _without_logits(self, name: str, width: int) -> list[dict[str, Any]]:
        """Says, of an SAE whose decoder rows are no directions of the residual stream, that they have no logits."""
        d_model = self._model.network.config.hidden_size
        reason = f"decoder rows have {width} dimensions, the model's residual stream {d_model}: they have no logits"
        return [{"stage": _LENS, "subject": name, "reason": reason, "count": 1}] if width != d_model else []


def _store(catalog: Catalog, row: dict[str, Any], course: list[dict[str, Any]], problems: list[dict[str, Any]]) -> None:
    """The SAE's row, the course of its training and what is wrong with it; other weights of its name leave nothing."""
    catalog.stage("saes", [row], "_sae")
    catalog.stage("training", course, "_course")
    catalog.stage("problems", problems, "_problems")
    mine = f"sae = {quoted(row['sae'])}"
    problem = f"stage = {quoted(_LENS)} AND subject = {quoted(row['sae'])}"

    def work(tx: Transaction) -> None:
        there = tx.connection.execute(f"SELECT {', '.join(_READS_AS)} FROM lake.saes WHERE {mine}").fetchall()
        if there and there[0] != tuple(row[name] for name in _READS_AS):
            # Ingest and measuring renew what the study names now: the rest would stand beside it as if of one SAE.
            for table in ("activations", "shards", "evaluations"):
                tx.execute(f"DELETE FROM lake.{table} WHERE {mine}")
        tx.replace("saes", "_sae", ["sae"], mine)
        tx.replace("training", "_course", ["sae", "step"], mine)
        tx.replace("problems", "_problems", ["stage", "subject", "reason"], problem)

    catalog.commit(f"SAE {row['sae']}", work)


def _selected_ranges(catalog: Catalog, selection: str) -> dict[str, Any]:
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


def _folder_digest(folder: Path) -> str:
    if not folder.is_dir():
        raise InputError(f"the checkpoint {folder} is not a directory")
    return "".join(file_digest(path) for path in sorted(folder.iterdir()) if path.is_file())
