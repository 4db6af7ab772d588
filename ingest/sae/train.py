"""Train an SAE on rows of the residual stream: one function that reads top to bottom.

A run can be killed at any moment. Its checkpoint is replaced atomically, its order of rows follows from seed
and step, so the resumed run ends in the same bits (on a CPU with the same number of threads).
"""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from catalog.errors import InputError
from ingest.sae.architecture import Weights
from ingest.sae.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint, save_checkpoint
from ingest.sae.files import remove_partials, write_whole
from ingest.sae.model import SAE, SAEConfig
from ingest.sae.optimiser import UnitDecoderAdam
from ingest.sae.rows import Rows, RowSampler, check_finite, check_rows, fingerprint, sample_rows
from ingest.sae.topk import TopK

Progress = Callable[[int, int, float, float, float, int], None]
"""Called with (steps done, steps, loss, FVE, L0, dead latents) of the batch just seen."""

REPORT_FILE = "training.json"
_IDLE, _FIGURES = "idle_tokens", "figures"
_ADAM = "adam."


@dataclass(frozen=True)
class TrainConfig:
    """How an SAE is trained. Raises InputError if the fields contradict each other."""

    sae: SAEConfig
    steps: int = 1000
    """Optimiser steps."""
    batch: int = 2048
    """Rows (tokens) per step."""
    learning_rate: float = 3e-3
    """Peak rate of Adam, on rows scaled to a mean norm of sqrt(d)."""
    warmup: int = 50
    """Steps over which the rate rises from 0."""
    decay: int = 300
    """Last steps, over which the rate falls to 0."""
    k_aux: int = 64
    """Dead latents per row that reconstruct the error; 0 turns AuxK off."""
    aux_coefficient: float = 1 / 32
    """Weight of the AuxK term (Gao et al. 2024, appendix A.2)."""
    dead_after: int = 200_000
    """Tokens without firing after which a latent counts as dead."""
    seed: int = 0
    """Decides the initial decoder and the order of rows."""
    checkpoint_every: int = 200
    """Steps between two checkpoints."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "dead_after", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} of a training run is {getattr(self, name)}, but must be at least 1")
        for name in ("warmup", "decay", "k_aux", "seed"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} of a training run is {getattr(self, name)}, but must not be negative")
        if self.warmup + self.decay > self.steps:
            raise InputError(
                f"a warm-up of {self.warmup} and a decay of {self.decay} steps do not fit in {self.steps} steps"
            )
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"learning_rate is {self.learning_rate}, but must be a positive number")
        if not (math.isfinite(self.aux_coefficient) and self.aux_coefficient >= 0):
            raise InputError(f"aux_coefficient is {self.aux_coefficient}, but must not be negative")
        if self.k_aux > self.sae.width:
            raise InputError(f"k_aux {self.k_aux} is above the width {self.sae.width}")


@dataclass(frozen=True)
class TrainReport:
    """A finished run."""

    steps: int
    tokens: int
    """Rows seen, repetitions included."""
    loss: float
    """Of the last batch, as are fve and l0."""
    fve: float
    l0: float
    dead: int
    """Latents that had not fired for `dead_after` tokens at the end."""
    scale: float
    """Rows were multiplied by it for training; it is folded into the saved weights."""
    resumed_at: int = 0
    """Step from which this call went on; equal to `steps` if the run had been finished before."""
    restarted_because: str = ""
    """Why an existing checkpoint was not continued; empty if there was none, or it was."""


def train_sae(
    config: TrainConfig,
    rows: Rows,
    out_dir: Path,
    *,
    resume: bool = True,
    progress: Progress | None = None,
    device: str | torch.device = "cpu",
) -> TrainReport:
    """Train on `rows` [n, d_in] float16 and leave the SAE in `out_dir`, for `SAE.load`.

    With `resume`, a run of the same configuration on the same rows goes on from its checkpoint, or returns its
    report if it is finished; anything else there is trained over, and the report says why. `out_dir` belongs to one
    run at a time.

    Raises InputError for rows that do not fit the configuration, naming the first row that is not finite, and
    for a loss that is not finite, naming the step; the last checkpoint stays.
    """
    check_rows(rows, config.sae.d_in, config.batch)
    out_dir.mkdir(parents=True, exist_ok=True)
    remove_partials(out_dir)
    digest = run_digest(config, rows)
    if resume and (finished := _finished(out_dir, digest)):
        return finished
    (out_dir / REPORT_FILE).unlink(missing_ok=True)

    sample = sample_rows(rows)
    scale = math.sqrt(config.sae.d_in) / max(float(sample.norm(dim=1).mean()), 1e-12)
    architecture = TopK(config.sae.k, config.k_aux, config.aux_coefficient)
    sampler = RowSampler(rows, config.batch, config.seed)
    checkpoint, refused = _usable_checkpoint(out_dir, digest) if resume else (None, "")
    if checkpoint:
        start, weights, idle, optimiser, (loss, fve, l0) = _restored(checkpoint, device)
    else:
        start, weights = 0, initial_weights(config, sample * scale, device)
        idle = torch.zeros(config.sae.width, dtype=torch.int64, device=device)
        optimiser = UnitDecoderAdam(weights)
        loss = fve = l0 = math.nan
    del sample

    for step in range(start, config.steps):
        x = sampler.batch(step).to(device).mul_(scale)
        outcome = architecture.loss(weights, x, idle >= config.dead_after)
        active = outcome.fired.sum() / config.batch
        loss, fve, l0 = torch.stack([outcome.loss, outcome.fve, active]).tolist()
        if not math.isfinite(loss):
            check_finite(x, sampler.row_numbers(step))
            raise diverged(config, step, out_dir, f"the loss became {loss}")
        optimiser.step(outcome.gradient, learning_rate(config, step))
        idle = torch.where(outcome.fired > 0, 0, idle + config.batch)
        done = step + 1
        if done % config.checkpoint_every == 0 or done == config.steps:
            # A step can overflow although its loss was finite: such weights must not replace a good checkpoint.
            if not all(bool(tensor.isfinite().all()) for tensor in weights.named().values()):
                raise diverged(config, step, out_dir, "weights overflowed")
            figures = torch.tensor([loss, fve, l0], dtype=torch.float64)
            kept = {**weights.named(), _IDLE: idle, _FIGURES: figures, **optimiser.state(_ADAM)}
            save_checkpoint(out_dir, Checkpoint(digest, done, kept))
        if progress:
            progress(done, config.steps, loss, fve, l0, int((idle >= config.dead_after).sum()))

    SAE(config.sae, unscaled(weights, scale)).save(out_dir)
    dead = int((idle >= config.dead_after).sum())
    report = TrainReport(
        config.steps, config.steps * config.batch, loss, fve, l0, dead, scale, start if checkpoint else 0, refused
    )
    write_whole(out_dir / REPORT_FILE, json.dumps({"digest": digest, "report": asdict(report)}, indent=2).encode())
    (out_dir / CHECKPOINT_FILE).unlink(missing_ok=True)
    return report


def diverged(config: TrainConfig, step: int, out_dir: Path, what: str) -> InputError:
    """The error for a run that cannot go on, with what to change."""
    return InputError(
        f"{what} at step {step + 1} of {config.steps}: lower learning_rate (now {config.learning_rate}) or lengthen "
        f"the warm-up (now {config.warmup} steps); the last good checkpoint in {out_dir} is kept"
    )


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of a step counted from 0: linear warm-up, constant, linear decay to 0 behind the last step."""
    rise = min((step + 1) / max(config.warmup, 1), 1.0)
    fall = min((config.steps - step) / max(config.decay, 1), 1.0)
    return config.learning_rate * min(rise, fall)


def initial_weights(config: TrainConfig, sample: Tensor, device: str | torch.device) -> Weights:
    """Random unit decoder rows, the encoder their copy, no encoder bias, the decoder bias the mean of `sample`.

    `sample` [rows, d] is scaled as the rows will be. A copy of the decoder as encoder leaves few latents dead (Gao et
    al. 2024, section 2.4).
    """
    seeded = torch.Generator().manual_seed(config.seed)
    decoder = torch.randn(config.sae.width, config.sae.d_in, generator=seeded)
    decoder /= decoder.norm(dim=1, keepdim=True)
    mean = sample.mean(0)
    weights = Weights(decoder.clone(), torch.zeros(config.sae.width), decoder, mean)
    return Weights(**{name: tensor.to(device) for name, tensor in weights.named().items()})


def unscaled(weights: Weights, scale: float) -> Weights:
    """The weights for x, given those for scale * x, with the decoder rows as they are.

    From x_hat = (z W_dec + b_dec) / s follow z' = z / s and b_dec' = b_dec / s. Since top-k and relu commute with a
    positive factor, z' = topk((s x - b_dec) W_enc + b_enc) / s = topk((x - b_dec') W_enc + b_enc / s).
    """
    return Weights(weights.encoder, weights.encoder_bias / scale, weights.decoder, weights.decoder_bias / scale)


def run_digest(config: TrainConfig, rows: Rows) -> str:
    """BLAKE2b-128 of the configuration and of the rows' fingerprint; how often to save does not matter."""
    settings = {name: value for name, value in asdict(config).items() if name != "checkpoint_every"}
    text = json.dumps([settings, fingerprint(rows)], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _finished(out_dir: Path, digest: str) -> TrainReport | None:
    try:
        stored = json.loads((out_dir / REPORT_FILE).read_text())
        if stored["digest"] != digest:
            return None
        report = TrainReport(**stored["report"])
        SAE.load(out_dir)
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return None
    return TrainReport(**{**asdict(report), "resumed_at": report.steps, "restarted_because": ""})


def _usable_checkpoint(out_dir: Path, digest: str) -> tuple[Checkpoint | None, str]:
    found = load_checkpoint(out_dir)
    if isinstance(found, str):
        return None, found
    if found.digest != digest:
        return None, (
            f"the checkpoint in {out_dir} (step {found.step}) was made with another configuration or on other rows"
        )
    return found, ""


def _restored(
    checkpoint: Checkpoint, device: str | torch.device
) -> tuple[int, Weights, Tensor, UnitDecoderAdam, list[float]]:
    """Step, weights, idle tokens, optimiser, and the last batch's loss, FVE and L0."""
    tensors = {name: tensor.to(device) for name, tensor in checkpoint.tensors.items()}
    adam = {name: tensors.pop(name) for name in list(tensors) if name.startswith(_ADAM)}
    idle, figures = tensors.pop(_IDLE), tensors.pop(_FIGURES)
    weights = Weights(**tensors)
    optimiser = UnitDecoderAdam(weights)
    optimiser.restore(adam, _ADAM)
    return checkpoint.step, weights, idle, optimiser, figures.tolist()
