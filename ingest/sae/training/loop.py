"""Trains SAEs on rows of the residual stream, several on one pass over them."""

from contextlib import ExitStack, closing
from pathlib import Path

import torch
from torch import Tensor

from ingest.sae.training.job import Job, Parent, Progress
from ingest.sae.training.prefetch import Ahead
from ingest.sae.training.rows import CachedRows, RowSource
from ingest.sae.training.run import Diverged, Run
from ingest.sae.training.scaled_rows import Rows
from ingest.sae.training.settings import TrainConfig, TrainReport


def train_sae(
    config: TrainConfig,
    rows: Rows | RowSource,
    out_dir: Path,
    *,
    parent: Parent | None = None,
    resume: bool = True,
    progress: Progress | None = None,
    device: str | torch.device = "cpu",
) -> TrainReport:
    """Train one SAE on `rows`, [n, d_in] float16 or a source of batches; as `train_saes`."""
    return train_saes([Job(config, out_dir, parent, progress)], rows, resume=resume, device=device)[0]


def train_saes(
    jobs: list[Job], rows: Rows | RowSource, *, resume: bool = True, device: str | torch.device = "cpu"
) -> list[TrainReport]:
    """Train SAEs on one pass over the same rows and leave each in its `out_dir`, for `SAE.load`.

    Jobs with the same seed and batch share every batch. Each multiplies by itself: one product with the encoders of
    all jobs side by side takes 1.0 to 1.2 times as long on a CPU (d 256, 3 to 6 jobs of 1,024 to 8,192 latents).
    With `resume`, a run of the same configuration on the same rows goes on from its checkpoint, or returns its report
    if it is finished; anything else there is trained over, and the report says why.

    Raises InputError for rows that do not fit a configuration, naming the first row that is not finite, and Diverged,
    when all others are trained, for a loss that is not finite, naming the step; the last checkpoint stays.
    """
    source = rows if isinstance(rows, RowSource) else CachedRows(rows)
    runs = [Run(job, source, resume, device) for job in jobs]
    first = min((run.step for run in runs if not run.finished), default=0)
    steps = max((run.config.steps for run in runs), default=0)
    diverged: dict[Run, Diverged] = {}
    with ExitStack() as stack:
        samplers = {run.draws: source.sampler(*run.draws) for run in runs if not run.finished}
        if torch.device(device).type != "cpu" and isinstance(source, CachedRows):
            samplers = {key: stack.enter_context(closing(Ahead(one, steps - 1))) for key, one in samplers.items()}
        for step in range(first, steps):
            drawn: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
            for run in runs:
                if run.finished or run.step != step or run in diverged:
                    continue
                if run.draws not in drawn:
                    drawn[run.draws] = samplers[run.draws].batch(step)
                try:
                    run.advance(*drawn[run.draws], samplers[run.draws].row_numbers)
                except Diverged as error:
                    diverged[run] = error
    if diverged:
        said = "; ".join(str(error) for error in diverged.values())
        raise Diverged(said, [None if run in diverged else run.report() for run in runs])
    return [run.report() for run in runs]
