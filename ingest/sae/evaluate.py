"""Measures how well an SAE reconstructs held-out rows, and how sparsely."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from catalog.errors import InputError
from ingest.sae.model import SAE
from ingest.sae.training.rows import RowNumbers, as_tensor, check_finite, check_rows
from ingest.sae.training.scaled_rows import Rows

CHUNK = 8192
DENSE_ONE_IN = 10
"""A latent that fires on more than one row in so many is called dense."""
ROUNDING = 1e-12
"""A share of the power that is no variance: what the sums may be off by."""


@dataclass(frozen=True)
class Evaluation:
    """Measures over all rows that were given; sums are in float64. `t` is `x`, but for a transcoder its target."""

    rows: int
    l0: float
    """Mean number of active latents per row."""
    fve: float | None
    """Fraction of variance explained: 1 - sum |t - x_hat|^2 / sum |t - mean(t)|^2, the mean over the same rows; None
    where they are all equal."""
    mse: float
    """Mean over rows of |t - x_hat|^2 / d."""
    cosine: float
    """Mean over rows of the cosine between t and x_hat; 0 for a row that is zero."""
    dead: int
    """Latents that fired on none of the rows."""
    dead_share: float
    """dead / width."""
    dense: int
    """Latents that fired on more than a tenth of the rows."""

    @property
    def unexplained(self) -> str | None:
        """Why there is no FVE; None if there is one."""
        if self.fve is not None:
            return None
        rows = "1 row has" if self.rows == 1 else f"the {self.rows} rows are all equal and have"
        return f"{rows} no variance that could be explained: no FVE; give held-out text of several different tokens"


class Tally:
    """The sums that the measures of one SAE follow from, over rows that come in parts."""

    def __init__(self, sae: SAE) -> None:
        self._sae = sae
        device = sae.weights.decoder.device
        self._origin: Tensor | None = None
        self._total = torch.zeros(sae.config.out, dtype=torch.float64, device=device)
        self._fired = torch.zeros(sae.config.width, dtype=torch.int64, device=device)
        self._rows = 0
        self._power = self._error = self._cosine = 0.0

    @property
    def rows(self) -> int:
        """Rows so far."""
        return self._rows

    @torch.inference_mode()
    def add(self, x: Tensor, target: Tensor | None = None) -> Tensor:
        """Count rows `x` [n, d_in] and return their reconstructions [n, d_out], float32, on the SAE's device.

        `target` [n, d_out] is what a transcoder reconstructs.
        """
        target = x if target is None else target
        code = self._sae.encode(x)
        x_hat = self._sae.decode(code, x)
        if self._origin is None:
            self._origin = target.mean(0)
        shifted = (target - self._origin).double()
        self._rows += len(x)
        self._total += shifted.sum(0)
        self._power += float(shifted.square().sum())
        self._error += float((target - x_hat).double().square().sum())
        self._cosine += float(torch.cosine_similarity(target.double(), x_hat.double(), dim=1).sum())
        self._fired += code.fired(self._sae.config.width)
        return x_hat

    def result(self) -> Evaluation:
        """The measures of all rows so far. Raises InputError if there were none."""
        n, width = self._rows, self._sae.config.width
        if not n:
            raise InputError("no rows to evaluate on: give held-out text")
        # sum |t - mean|^2 = sum |t - o|^2 - |sum (t - o)|^2 / n for any o; one near the mean keeps the digits.
        variance = self._power - float(self._total.square().sum()) / n
        dead = int((self._fired == 0).sum())
        return Evaluation(
            rows=n,
            l0=int(self._fired.sum()) / n,
            fve=1 - self._error / variance if variance > ROUNDING * self._power else None,
            mse=self._error / (n * self._sae.config.out),
            cosine=self._cosine / n,
            dead=dead,
            dead_share=dead / width,
            dense=int((self._fired * DENSE_ONE_IN > n).sum()),
        )


def evaluate(sae: SAE, rows: Rows, target: Rows | None = None, *, subset: RowNumbers | None = None) -> Evaluation:
    """Measure `sae` on `rows` [n, d_in], held out from training, in chunks; a transcoder against `target` [n, d_out].

    `subset` [m], ascending, measures those rows alone. Raises InputError for rows that do not fit the SAE, naming the
    first one that is not finite, and where there are none.
    """
    check_rows(rows, sae.config.d_in, 1)
    if target is not None:
        check_rows(target, sae.config.out, len(rows))
    numbers = np.arange(len(rows)) if subset is None else subset
    tally = Tally(sae)
    for start in range(0, len(numbers), CHUNK):
        part = numbers[start : start + CHUNK]
        tally.add(_chunk(rows, part, sae), None if target is None else _chunk(target, part, sae))
    return tally.result()


def _chunk(rows: Rows, part: RowNumbers, sae: SAE) -> Tensor:
    x = as_tensor(rows[part]).to(sae.weights.decoder.device)
    check_finite(x, part)
    return x
