"""Makes the SAEs whose parents are there: loads, trains or fine-tunes them; those that share rows share one pass.

The residuals that they need are read first, all hookpoints of the same text in one pass of the model, which also makes
the activations of SAEs that are there already. One that diverges costs the others nothing.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from catalog import Catalog
from catalog.errors import InputError
from catalog.study.file import Study
from catalog.study.sae import Sae
from ingest.activations.finite import checked, default_batch
from ingest.activations.residual_cache import Riders, cache_residuals
from ingest.activations.residuals import Residuals
from ingest.activations.shard_harvest import HarvestReport
from ingest.activations.streamed_rows import ModelRows, held_out_rows, row_widths
from ingest.callbacks import Progress, tell
from ingest.dictionaries.configure import beginning, shape, training
from ingest.dictionaries.plan import Plan, plan_of, ready, selected_ranges
from ingest.dictionaries.record import HeldOut, record
from ingest.dictionaries.row_figures import RowFigures, within
from ingest.model.batches import batches, load_sequences, text_shards
from ingest.model.language_model import LanguageModel
from ingest.sae.training.job import Job
from ingest.sae.training.loop import train_saes
from ingest.sae.training.rows import CachedRows, RowNumbers, RowSource
from ingest.sae.training.run import Diverged
from ingest.sae.training.scaled_rows import Rows
from ingest.sae.training.settings import TrainReport
from ingest.sae.training.torchrun import train_in_processes
from ingest.stored.adopt import check_asked, named
from ingest.stored.parent import FolderDigests, Origin, parent_of
from ingest.stored.reader import Reader
from ingest.text.held_out import repeated_positions
from ingest.to_do import harvested


class Generation:
    """SAEs that wait for none of each other."""

    def __init__(
        self, catalog: Catalog, study: Study, model: LanguageModel, digests: FolderDigests, progress: Progress
    ) -> None:
        self._catalog, self._study, self._model = catalog, study, model
        self._digests, self._progress = digests, progress
        self.made: list[str] = []
        """Those that were trained or loaded now."""
        self.diverged: dict[str, str] = {}
        """What happened to those whose training cannot go on."""
        self.harvest = HarvestReport()
        """Activations that were made while text was read for training."""
        self._repeated: dict[str, RowNumbers] = {}
        """By corpus, positions of val tokens that repeat train text, looked up once."""
        self._figures: dict[str, RowFigures] = {}
        """By the digest of a cache."""
        self._samples: dict[tuple[str, tuple[str, ...]], Tensor | None] = {}
        """By hookpoint and corpora, rows on which the effect of rounding is measured."""
        self._val: dict[tuple[tuple[str, ...], tuple[str, ...]], dict[str, Rows]] = {}
        """By hookpoints and corpora, the rows that loaded SAEs are measured on."""

    def readers(self, saes: list[Sae]) -> dict[str, Reader]:
        """Make what is missing; by name every SAE that did not diverge."""
        found: dict[str, Reader] = {}
        texts: dict[tuple[tuple[str, ...], int | None], list[Plan]] = {}
        loading: list[Plan] = []
        for sae in saes:
            plan = plan_of(self._catalog, self._study, self._model, sae, self._digests)
            there = ready(self._catalog, self._model, plan)
            if there is not None:
                found[sae.name] = there
            elif sae.checkpoint:
                loading.append(plan)
            else:
                texts.setdefault((self._study.corpora_of(sae), sae.train_tokens), []).append(plan)
        for plan in loading:
            found[plan.sae.name] = self._load(plan, loading)
        for (corpora, train_tokens), plans in texts.items():
            for reader in self._train(corpora, train_tokens, plans, found):
                found[reader.name] = reader
        return found

    def _load(self, plan: Plan, others: list[Plan]) -> Reader:
        """Take a checkpoint into the catalog, measured on val tokens, which `others` of the same text share."""
        from ingest.sae.checkpoints.load import load_checkpoint_folder

        sae = plan.sae
        loaded = load_checkpoint_folder(Path(str(sae.checkpoint)), sae.scale)
        check_asked(sae, loaded)
        wanted = [name for name in (sae.hookpoint, sae.target) if name]
        widths = row_widths(self._model, wanted)
        named(sae, loaded, self._model.spec.name, (widths[wanted[0]], widths[wanted[-1]])).save(plan.folder)
        corpora = self._study.corpora_of(sae)
        alike = [one.sae for one in others if self._study.corpora_of(one.sae) == corpora]
        places = tuple(dict.fromkeys(name for one in alike for name in (one.hookpoint, one.target) if name))
        if (places, corpora) not in self._val:
            self._progress(f"reading {', '.join(places)}", 0, None, "")
            self._val[places, corpora] = held_out_rows(self._catalog, self._model, list(places), list(corpora))
        val = self._val[places, corpora]
        rows, target = val[sae.hookpoint], val[sae.target] if sae.target else None
        return self._record(plan, None, HeldOut(rows, target, None, RowFigures.of(rows, rows) if len(rows) else None))

    def _train(
        self, corpora: tuple[str, ...], train_tokens: int | None, plans: list[Plan], there: dict[str, Reader]
    ) -> list[Reader]:
        """Train SAEs on the same text, those with the same rows on one pass over them; harvest those that are there."""
        cached = [plan.sae for plan in plans if not plan.sae.stream]
        wanted = list(dict.fromkeys(n for sae in cached for n in (sae.hookpoint, sae.target) if n))
        residuals: dict[str, Residuals] = {}
        if wanted:
            what = f"reading {', '.join(wanted)}"
            residuals = cache_residuals(
                self._catalog,
                self._model,
                wanted,
                list(corpora),
                train_tokens,
                partial(tell, self._progress, what),
                Riders(self._harvested(there), self.harvest),
            )
            for name in wanted:
                told = f"{name}: " * (len(wanted) > 1) + self._of(residuals[name]).told
                self._progress(what, len(residuals[name].train), len(residuals[name].train), told)
        groups: dict[tuple[Any, ...], list[Plan]] = {}
        for plan in plans:
            sae = plan.sae
            key = (sae.hookpoint, sae.target, sae.selection, sae.stream, sae.outliers)
            groups.setdefault(key, []).append(plan)
        found = []
        for (hookpoint, target, selection, stream, outliers), ours in groups.items():
            dropped = None if outliers == "keep" else self._outliers(residuals, hookpoint, target)
            source = self._source(residuals, hookpoint, target, selection, corpora, train_tokens, dropped)
            reports = self._reports(ours, self._jobs(ours, source), source)
            if reports:
                held_out = self._held_out(residuals, hookpoint, target, corpora, stream)
            found += [self._record(plan, reports[plan.sae.name], held_out) for plan in ours if plan.sae.name in reports]
        return found

    def _harvested(self, there: dict[str, Reader]) -> dict[str, list[Reader]]:
        """SAEs that are there, by the corpora whose activations are kept."""
        found: dict[str, list[Reader]] = {}
        for sae in self._study.trained():
            for corpus in harvested(self._study, sae) if sae.name in there else ():
                found.setdefault(corpus, []).append(there[sae.name])
        return found

    def _of(self, residuals: Residuals) -> RowFigures:
        if residuals.digest not in self._figures:
            self._figures[residuals.digest] = RowFigures.of(residuals.train, residuals.val)
        return self._figures[residuals.digest]

    def _outliers(self, residuals: dict[str, Residuals], hookpoint: str, target: str | None) -> RowFigures | None:
        """The figures of the rows that are read, with the outliers of a transcoder's target among theirs."""
        if hookpoint not in residuals:
            return None
        figures = self._of(residuals[hookpoint])
        if target is None:
            return figures
        other = self._of(residuals[target])
        return RowFigures(figures.median_norm, figures.train | other.train, figures.val | other.val)

    def _sample(self, hookpoint: str, corpora: tuple[str, ...]) -> Tensor | None:
        """Rows `[n, d]` of one batch of val text as the model gives them, read once; None if there is no such text."""
        if (hookpoint, corpora) not in self._samples:
            self._samples[hookpoint, corpora] = self._first_batch(hookpoint, corpora)
        return self._samples[hookpoint, corpora]

    def _first_batch(self, hookpoint: str, corpora: tuple[str, ...]) -> Tensor | None:
        for shard in text_shards(self._catalog, list(corpora)):
            sequences = load_sequences(self._catalog, shard.corpus, shard.shard).of_splits("val")
            for batch in batches(sequences, self._model.bos, default_batch(self._model)):
                return checked(self._model.read(batch.ids, [hookpoint])[hookpoint], batch, sequences, hookpoint)
        return None

    def _held_out(
        self,
        residuals: dict[str, Residuals],
        hookpoint: str,
        target: str | None,
        corpora: tuple[str, ...],
        stream: bool,
    ) -> HeldOut:
        """Val rows that repeat no train text."""
        if stream:
            val = held_out_rows(self._catalog, self._model, [hookpoint], list(corpora))[hookpoint]
            return HeldOut(val, figures=RowFigures.of(val, val) if len(val) else None)
        rows = residuals[hookpoint]
        for corpus in corpora:
            if corpus not in self._repeated:
                self._repeated[corpus] = repeated_positions(self._catalog, corpus, "val")
        figures, subset = self._outliers(residuals, hookpoint, target), rows.val_without(self._repeated)
        sample = self._sample(hookpoint, corpora)
        return HeldOut(rows.val, residuals[target].val if target else None, subset, figures, True, sample)

    def _reports(self, plans: list[Plan], jobs: list[Job], source: RowSource) -> dict[str, TrainReport]:
        """Train on the same rows; by name the report of each SAE that did not diverge."""
        left: dict[str, Job] = {}
        for plan, job in zip(plans, jobs, strict=True):
            try:
                if plan.sae.processes > 1:
                    train_in_processes(job, source, plan.sae.processes)
                left[plan.sae.name] = job
            except Diverged as error:
                self.diverged[plan.sae.name] = str(error)
        reports: Sequence[TrainReport | None]
        try:
            reports = train_saes(list(left.values()), source, device=self._model.device)
        except Diverged as error:
            reports = error.finished
            self.diverged |= {name: str(error) for name, report in zip(left, reports, strict=True) if report is None}
        return {name: report for name, report in zip(left, reports, strict=True) if report is not None}

    def _source(
        self,
        residuals: dict[str, Residuals],
        hookpoint: str,
        target: str | None,
        selection: str | None,
        corpora: tuple[str, ...],
        train_tokens: int | None,
        dropped: RowFigures | None,
    ) -> RowSource:
        """The rows that a training reads, without the outliers of `dropped`."""
        if hookpoint not in residuals:
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
        subset = within(subset, dropped.train) if dropped else subset
        return CachedRows(rows.train, residuals[target].train if target else None, subset=subset)

    def _jobs(self, plans: list[Plan], source: RowSource) -> list[Job]:
        """What is to be trained; children of one parent load it once."""
        origins: dict[tuple[str, float | None], Origin] = {}
        for sae in (plan.sae for plan in plans):
            if sae.parent and (sae.parent, sae.scale) not in origins:
                origin = parent_of(self._catalog, sae.parent, self._digests, sae.scale)
                origins[sae.parent, sae.scale] = origin
        return [self._job(plan, source, origins.get((plan.sae.parent or "", plan.sae.scale))) for plan in plans]

    def _job(self, plan: Plan, source: RowSource, origin: Origin | None) -> Job:
        sae = plan.sae
        config = shape(sae, *source.widths, self._model.spec.source, origin.sae if origin else None)
        begin = beginning(origin.sae, origin.digest, config) if origin else None
        try:
            chosen = training(sae, config, source.rows, origin.sparsity if origin else None)
        except InputError as error:
            raise InputError(f"SAE {sae.name!r}: {error}") from error

        def told(step: int, steps: int, loss: float, fve: float, l0: float, dead: int) -> None:
            self._progress(f"training {sae.name}", step, steps, f"FVE {fve:.3f}, L0 {l0:.1f}, dead {dead}")

        return Job(chosen, plan.folder, begin, told, skip=sae.skip)

    def _record(self, plan: Plan, report: TrainReport | None, held_out: HeldOut) -> Reader:
        reader = record(self._catalog, self._model, plan, report, held_out)
        self.made.append(plan.sae.name)
        return reader
