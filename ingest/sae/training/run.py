"""Trains one SAE: a step that reads top to bottom, its checkpoint, its report.

A run can be killed at any moment. Its checkpoint is replaced atomically, its order of rows follows from seed
and step, so the resumed run ends in the same bits (on a CPU with the same number of threads). Under `torchrun` every
process takes its part of each batch, and rank 0 writes.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from catalog.errors import InputError
from catalog.store.atomic_files import remove_partials, write_whole
from ingest.sae import collectives
from ingest.sae.architecture import Batch, Outcome, Weights
from ingest.sae.losses.topk_family import decoder_target, encoder_input
from ingest.sae.model import SAE
from ingest.sae.products.precision import products_in
from ingest.sae.registry import architecture_of
from ingest.sae.training.adam import UnitDecoderAdam
from ingest.sae.training.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint, save_checkpoint
from ingest.sae.training.initial_weights import FIRST_THRESHOLD, initial_weights, row_scale, scaled, unscaled
from ingest.sae.training.job import Job, Parent
from ingest.sae.training.l0_control import SparsityControl
from ingest.sae.training.resample import resample
from ingest.sae.training.rows import RowSource, check_finite
from ingest.sae.training.settings import Metric, TrainReport, learning_rate, run_digest

REPORT_FILE = "training.json"
THRESHOLD_RATE = 0.01
"""Share of a new batch in the running mean of BatchTopK's boundary, in the long run."""
THRESHOLD_MEMORY = 4
"""Before that, the mean reaches back over a quarter of the steps so far: early boundaries are of other weights."""
_IDLE, _FIGURES, _CONTROL = "idle_tokens", "figures", "control"
_ADAM = "adam."


def check_share(batch: int, processes: int) -> None:
    """Raises InputError if a batch does not divide among the processes."""
    if batch % processes:
        raise InputError(
            f"a batch of {batch} rows does not divide among {processes} processes: choose a multiple of {processes}"
        )


class Diverged(InputError):
    """A run whose loss or weights are not finite any more; those beside it can go on."""

    def __init__(self, message: str, finished: list[TrainReport | None] | None = None) -> None:
        super().__init__(message)
        self.finished = finished or []
        """The report of each job of the pass, None for one that diverged."""


class Run:
    """The state of one job between two steps; what is on disk is either a checkpoint or a finished run."""

    def __init__(self, job: Job, source: RowSource, resume: bool, device: str | torch.device) -> None:
        self.config, self.out_dir, self._progress, self._device = job.config, job.out_dir, job.progress, device
        config = self.config
        source.check(config.sae.d_in, config.sae.out, config.batch)
        check_share(config.batch, collectives.processes())
        self.draws = (config.batch, config.seed)
        self.digest = run_digest(
            config, source.digest, job.parent.digest if job.parent else "", "skip" if job.skip else ""
        )
        self._started_over = ""
        self._report: TrainReport | None = None
        self._resumed_at = 0
        if collectives.rank() == 0:
            self.out_dir.mkdir(parents=True, exist_ok=True)
            remove_partials(self.out_dir)
        if resume and (done := _finished(self.out_dir, self.digest)):
            self._report, self.step = done, config.steps
            # Killed between the report and this, the run before left it.
            (self.out_dir / CHECKPOINT_FILE).unlink(missing_ok=True)
            return
        if collectives.rank() == 0:
            (self.out_dir / REPORT_FILE).unlink(missing_ok=True)
        self._architecture = architecture_of(config.sae, config.objective)
        self._begin(source, job.parent, job.skip)
        if resume:
            self._restore()
        # A process that restored the last step drops the checkpoint at once, so each waits until all have read it.
        collectives.wait()
        self._time, self._tokens = time.perf_counter(), 0
        if self.step == config.steps:
            self._finish()

    @property
    def finished(self) -> bool:
        """Whether the report stands."""
        return self._report is not None

    def _begin(self, source: RowSource, parent: Parent | None, skip: bool) -> None:
        """The state before the first step."""
        config = self.config
        x, target = source.sample()
        scale, target_scale = (parent.scale, parent.target_scale) if parent else (None, None)
        self._scale = row_scale(x) if scale is None else scale
        if config.sae.target_hookpoint is None:
            self._target_scale = self._scale
        else:
            self._target_scale = row_scale(target) if target_scale is None else target_scale
        if parent:
            weights = scaled(parent.weights, self._scale, self._target_scale)
            if config.sae.architecture == "jumprelu" and weights.threshold is None:
                weights = replace(weights, threshold=torch.full((config.sae.width,), FIRST_THRESHOLD))
        else:
            weights = initial_weights(config.sae, config.seed, x * self._scale, target * self._target_scale)
        if skip and weights.skip is None:
            weights = replace(weights, skip=torch.zeros(config.sae.out, config.sae.d_in))
        self._weights = _placed(weights, self._device)
        self._optimiser = UnitDecoderAdam(self._weights)
        self._control = SparsityControl(config.objective.sparsity, config.l0_range, config.steps)
        self._idle = torch.zeros(config.sae.width, dtype=torch.int64, device=self._device)
        self._loss = self._fve = self._l0 = math.nan
        self._metrics: list[Metric] = []
        self.step = self._kept_at = 0

    def _restore(self) -> None:
        """Go on from the folder's checkpoint, if it is this run's."""
        found = load_checkpoint(self.out_dir)
        if isinstance(found, str) or found.digest != self.digest:
            self._started_over = (
                found
                if isinstance(found, str)
                else f"the checkpoint in {self.out_dir} (step {found.step}) was made with another configuration or on "
                "other rows"
            )
            return
        tensors = {name: tensor.to(self._device) for name, tensor in found.tensors.items()}
        adam = {name: tensors.pop(name) for name in list(tensors) if name.startswith(_ADAM)}
        self._idle = tensors.pop(_IDLE)
        self._loss, self._fve, self._l0 = tensors.pop(_FIGURES).tolist()
        self._control.sparsity, self._control.l0 = tensors.pop(_CONTROL).tolist()
        self._weights = Weights(**tensors)
        self._optimiser = UnitDecoderAdam(self._weights)
        self._optimiser.restore(adam, _ADAM)
        self._metrics = [Metric.of(row) for row in found.metrics]
        self.step = self._resumed_at = self._kept_at = found.step

    def advance(self, x: Tensor, target: Tensor, numbers: Callable[[int], object]) -> None:
        """One step on a drawn batch: x [batch, d_in] and target [batch, d_out], as they stand on disk."""
        config, step = self.config, self.step
        share = config.batch // collectives.processes()
        mine = slice(collectives.rank() * share, (collectives.rank() + 1) * share)
        same = target is x
        x = self._moved(x[mine], self._scale)
        target = x if same else self._moved(target[mine], self._target_scale)
        dead = self._idle >= config.dead_after
        rise = min((step + 1) / max(config.sparsity_warmup, 1), 1.0)
        sparsity, rate = self._control.sparsity * rise, learning_rate(config, step)
        with products_in(config.precision):
            outcome = self._architecture.loss(self._weights, Batch(x, target, dead, sparsity, config.objective.tilt))
        fired = collectives.total(outcome.fired)
        self._loss, self._fve, self._l0 = torch.stack(
            [outcome.loss.double(), outcome.fve.double(), fired.sum() / config.batch]
        ).tolist()
        if not math.isfinite(self._loss):
            for rows in (x, target):
                check_finite(rows, numbers(step)[mine])  # type: ignore[index]
            raise self._diverged(f"the loss became {self._loss}", step + 1)
        for slope in outcome.gradient.named().values():
            collectives.total(slope)
        self._optimiser.step(outcome.gradient, rate)
        self._follow_threshold(outcome)
        self._control.seen(self._l0)
        self._idle = torch.where(fired > 0, 0, self._idle + config.batch)
        self.step += 1
        self._resample(x, target, outcome)
        self._measure(rate, sparsity)
        if self.step % config.checkpoint_every == 0 or self.step == config.steps:
            self._save_checkpoint()
        if self._progress:
            self._progress(self.step, config.steps, self._loss, self._fve, self._l0, self._dead())
        if self.step == config.steps:
            self._finish()

    def _moved(self, rows: Tensor, scale: float) -> Tensor:
        return rows.to(self._device, non_blocking=True).to(torch.float32) * scale

    def _follow_threshold(self, outcome: Outcome) -> None:
        """BatchTopK: the running mean of the smallest activation that batches kept; the first batch sets it."""
        if outcome.smallest is None or self._weights.threshold is None:
            return
        rate = max(THRESHOLD_RATE, THRESHOLD_MEMORY / (self.step + THRESHOLD_MEMORY))
        self._weights.threshold.lerp_(outcome.smallest.to(self._weights.threshold.dtype), rate)

    def _resample(self, x: Tensor, target: Tensor, outcome: Outcome) -> None:
        config = self.config
        due = config.resample_every and self.step % config.resample_every == 0
        if not due or self.step > config.steps - config.decay:
            return
        dead = self._idle >= config.dead_after
        x_in = encoder_input(self._weights, x, config.sae.centred)
        wanted = decoder_target(self._weights, x, target)
        if resample(self._weights, self._optimiser, dead, x_in, wanted, outcome.row_losses, config.seed + self.step):
            self._idle = torch.where(dead, 0, self._idle)

    def _measure(self, rate: float, sparsity: float) -> None:
        self._tokens += self.config.batch
        if self.step % self.config.metrics_every and self.step != self.config.steps:
            return
        now = time.perf_counter()
        speed = self._tokens / (now - self._time)
        self._metrics.append(
            Metric(self.step, self._loss, self._fve, self._l0, self._dead(), rate, sparsity, round(speed, 1))
        )
        self._time, self._tokens = now, 0

    def _dead(self) -> int:
        return int((self._idle >= self.config.dead_after).sum())

    def _save_checkpoint(self) -> None:
        # A step can overflow although its loss was finite: such weights must not replace a good checkpoint.
        if not all(bool(tensor.isfinite().all()) for tensor in self._weights.named().values()):
            raise self._diverged("weights overflowed", self.step)
        if collectives.rank():
            return
        kept = {
            **self._weights.named(),
            _IDLE: self._idle,
            _FIGURES: torch.tensor([self._loss, self._fve, self._l0], dtype=torch.float64),
            _CONTROL: torch.tensor([self._control.sparsity, self._control.l0], dtype=torch.float64),
            **self._optimiser.state(_ADAM),
        }
        save_checkpoint(self.out_dir, Checkpoint(self.digest, self.step, kept, [list(m) for m in self._metrics]))
        self._kept_at = self.step

    def _finish(self) -> None:
        """Leave the SAE and the report, and drop the checkpoint."""
        config = self.config
        self._report = TrainReport(
            config.steps,
            config.steps * config.batch,
            self._loss,
            self._fve,
            self._l0,
            self._dead(),
            self._scale,
            self._control.sparsity,
            self._resumed_at,
            self._started_over,
            self._metrics,
        )
        if collectives.rank():
            return
        weights = unscaled(self._weights, self._scale, self._target_scale)
        own = None if config.sae.target_hookpoint is None else self._target_scale
        trained = {}
        if config.sae.architecture == "jumprelu":
            trained = {"penalty": config.objective.penalty, "bandwidth": float(config.objective.bandwidth)}
        SAE(config.sae, weights, self._scale, own, trained).save(self.out_dir)
        stored = {"digest": self.digest, "report": asdict(self._report)}
        write_whole(self.out_dir / REPORT_FILE, json.dumps(stored, indent=2).encode())
        (self.out_dir / CHECKPOINT_FILE).unlink(missing_ok=True)

    def report(self) -> TrainReport:
        """The finished run."""
        if self._report is None:
            raise RuntimeError("the run has not finished")
        return self._report

    def _diverged(self, what: str, step: int) -> Diverged:
        """The error for a run that cannot go on after `step` steps, with what to change."""
        config = self.config
        kept = "there is no checkpoint yet"
        if self._kept_at:
            kept = f"the last good checkpoint, of step {self._kept_at}, is kept in {self.out_dir}"
        return Diverged(
            f"{what} at step {step} of {config.steps}: lower learning_rate (now {config.learning_rate}) or "
            f"lengthen the warm-up (now {config.warmup} steps); {kept}"
        )


def _placed(weights: Weights, device: str | torch.device) -> Weights:
    """Copies on `device`, row after row, that training may change."""
    copies = {name: tensor.to(device, torch.float32) for name, tensor in weights.named().items()}
    return Weights(**{name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in copies.items()})


def _finished(out_dir: Path, digest: str) -> TrainReport | None:
    try:
        stored = json.loads((out_dir / REPORT_FILE).read_text())
        if stored["digest"] != digest:
            return None
        fields = {**stored["report"], "metrics": [Metric.of(row) for row in stored["report"]["metrics"]]}
        report = TrainReport(**fields)
        SAE.load(out_dir)
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return None
    return TrainReport(**{**vars(report), "resumed_at": report.steps, "restarted_because": ""})
