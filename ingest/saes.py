"""The study's SAEs: loaded, trained or fine-tuned, those that share rows on one pass over them.

An SAE that the catalog has as the study says is left alone. A parent comes before its children; the residuals that
a generation needs are read first, all hookpoints of the same text in one pass of the model.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from catalog import Catalog
from catalog.errors import InputError
from catalog.sae_section import Sae
from catalog.study import Study
from ingest.checkpoint import check_asked, named
from ingest.harvest import Reader
from ingest.models import LanguageModel
from ingest.planned import Plan, parent_of, plan_of, ready, selected_ranges
from ingest.recipe import beginning, shape, training
from ingest.recorded import record
from ingest.residuals import Residuals, cache_residuals
from ingest.sae.job import Job
from ingest.sae.parallel import train_in_processes
from ingest.sae.rows import CachedRows, RowSource
from ingest.sae.run import Diverged
from ingest.sae.settings import TrainReport
from ingest.sae.train import train_saes
from ingest.select.run import select_documents
from ingest.streaming import ModelRows, held_out_rows

Progress = Callable[[str, int, int | None, str], None]
"""Called with (what is being done, done, total, figures so far)."""


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
        parent = parent_of(catalog, spec.parent, model)[0] if spec.parent else None
        told = partial(_tell, progress, f"selecting {spec.name}")
        select_documents(catalog, model, spec, parent=parent, progress=told)
    return done | {spec.name for spec in now}


def _tell(progress: Progress, what: str, done: int, total: int | None) -> None:
    progress(what, done, total, "")


class _Generation:
    """SAEs whose parents are all there."""

    def __init__(self, catalog: Catalog, study: Study, model: LanguageModel, progress: Progress) -> None:
        self._catalog, self._study, self._model, self._progress = catalog, study, model, progress
        self.made: list[str] = []

    def readers(self, saes: list[Sae]) -> dict[str, Reader]:
        """Make what is missing; every SAE by name."""
        found: dict[str, Reader] = {}
        texts: dict[tuple[tuple[str, ...], int | None], list[Plan]] = {}
        for sae in saes:
            plan = plan_of(self._catalog, self._study, self._model, sae)
            there = ready(self._catalog, self._model, plan)
            if there is not None:
                found[sae.name] = there
            elif sae.checkpoint:
                found[sae.name] = self._load(plan)
            else:
                texts.setdefault((self._study.corpora_of(sae), sae.train_tokens), []).append(plan)
        for (corpora, train_tokens), plans in texts.items():
            for reader in self._train(corpora, train_tokens, plans):
                found[reader.name] = reader
        return found

    def _load(self, plan: Plan) -> Reader:
        """Take a checkpoint into the catalog, measured on val tokens."""
        from ingest.sae.formats.detect import load_checkpoint_folder

        sae = plan.sae
        loaded = load_checkpoint_folder(Path(str(sae.checkpoint)), sae.scale)
        check_asked(sae, loaded)
        wanted = [name for name in (sae.hookpoint, sae.target) if name]
        corpora = list(self._study.corpora_of(sae))
        told = partial(_tell, self._progress, f"reading {', '.join(wanted)}")
        residuals = cache_residuals(self._catalog, self._model, wanted, corpora, sae.train_tokens, told)
        d_in, d_out = (residuals[name].train.shape[1] for name in (wanted[0], wanted[-1]))
        named(sae, loaded, self._model.spec.name, (d_in, d_out)).save(plan.folder)
        target = residuals[sae.target].val if sae.target else None
        return self._record(plan, None, residuals[sae.hookpoint].val, target)

    def _train(self, corpora: tuple[str, ...], train_tokens: int | None, plans: list[Plan]) -> list[Reader]:
        """Train SAEs on the same text, those with the same rows on one pass over them."""
        cached = [plan.sae for plan in plans if not plan.sae.stream]
        wanted = list(dict.fromkeys(n for sae in cached for n in (sae.hookpoint, sae.target) if n))
        residuals: dict[str, Residuals] = {}
        if wanted:
            told = partial(_tell, self._progress, f"reading {', '.join(wanted)}")
            residuals = cache_residuals(self._catalog, self._model, wanted, list(corpora), train_tokens, told)
        groups: dict[tuple[Any, ...], list[Plan]] = {}
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
            diverged: Diverged | None = None
            try:
                reports: Sequence[TrainReport | None] = train_saes(jobs, source, device=self._model.device)
            except Diverged as error:
                diverged, reports = error, error.finished
            val = (
                held_out_rows(self._catalog, self._model, hookpoint, list(corpora))
                if stream
                else residuals[hookpoint].val
            )
            val_target = residuals[target].val if target else None
            found += [self._record(p, r, val, val_target) for p, r in zip(ours, reports, strict=True) if r]
            if diverged:
                raise diverged
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
            ranges = selected_ranges(self._catalog, selection)
            subset = rows.rows_of(ranges)
            chosen = sum(int((found[:, 1] - found[:, 0]).sum()) for found in ranges.values())
            if len(subset) < chosen:
                raise InputError(
                    f"selection {selection!r} holds {chosen} train tokens, and only {len(subset)} of them are in the "
                    f"training cache, which ends at train_tokens = {train_tokens}: remove train_tokens, or raise it"
                )
        return CachedRows(rows.train, residuals[target].train if target else None, subset=subset)

    def _job(self, plan: Plan, source: RowSource, d_in: int, d_out: int) -> Job:
        sae = plan.sae
        parent = sparsity = begin = None
        if sae.parent:
            parent, digest, sparsity = parent_of(self._catalog, sae.parent, self._model, sae.scale)
        config = shape(sae, d_in, d_out, self._model.spec.source, parent)
        if parent is not None:
            begin = beginning(parent, digest, config)
        chosen = training(sae, config, source.rows, sparsity)

        def told(step: int, steps: int, loss: float, fve: float, l0: float, dead: int) -> None:
            self._progress(f"training {sae.name}", step, steps, f"FVE {fve:.3f}, L0 {l0:.1f}, dead {dead}")

        return Job(chosen, plan.folder, begin, told, skip=sae.skip)

    def _record(self, plan: Plan, report: TrainReport | None, val: Any, target: Any) -> Reader:
        reader = record(self._catalog, self._model, plan, report, val, target)
        self.made.append(plan.sae.name)
        return reader
