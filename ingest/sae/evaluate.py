"""How well an SAE reconstructs held-out rows, and how sparsely."""

from dataclasses import dataclass

import torch

from catalog.errors import InputError
from ingest.sae.model import SAE
from ingest.sae.rows import Rows, as_tensor, check_finite, check_rows

CHUNK = 8192


@dataclass(frozen=True)
class Evaluation:
    """Measures over all rows that were given; sums are in float64."""

    rows: int
    l0: float
    """Mean number of active latents per row."""
    fve: float
    """Fraction of variance explained: 1 - sum |x - x_hat|^2 / sum |x - mean(x)|^2."""
    mse: float
    """Mean over rows of |x - x_hat|^2 / d."""
    cosine: float
    """Mean over rows of the cosine between x and x_hat; 0 for a row that is zero."""
    dead: int
    """Latents that fired on none of the rows."""
    dead_share: float
    """dead / width."""


@torch.inference_mode()
def evaluate(sae: SAE, rows: Rows) -> Evaluation:
    """Measure `sae` on `rows` [n, d_in], held out from training, in chunks.

    Raises InputError for rows that do not fit the SAE, naming the first one that is not finite, and for rows that
    are all equal, of which no variance can be explained.
    """
    check_rows(rows, sae.config.d_in, 1)
    device = sae.weights.decoder.device
    total = torch.zeros(sae.config.d_in, dtype=torch.float64, device=device)
    origin = as_tensor(rows[:CHUNK]).to(device).mean(0)
    fired = torch.zeros(sae.config.width, dtype=torch.int64, device=device)
    power = error = cosine = 0.0
    for start in range(0, len(rows), CHUNK):
        x = as_tensor(rows[start : start + CHUNK]).to(device)
        check_finite(x, range(start, start + len(x)))
        code = sae.encode(x)
        x_hat = sae.decode(code, x)
        shifted = (x - origin).double()
        total += shifted.sum(0)
        power += float(shifted.square().sum())
        error += float((x - x_hat).double().square().sum())
        cosine += float(torch.cosine_similarity(x.double(), x_hat.double(), dim=1).sum())
        fired += code.fired(sae.config.width)
    n = len(rows)
    # sum |x - mean|^2 = sum |x - o|^2 - |sum (x - o)|^2 / n for any o; one near the mean keeps the digits.
    variance = power - float(total.square().sum()) / n
    if not variance > 0:
        raise InputError(f"the {n} rows to evaluate on are all equal: give held-out rows of several tokens")
    dead = int((fired == 0).sum())
    return Evaluation(
        rows=n,
        l0=int(fired.sum()) / n,
        fve=1 - error / variance,
        mse=error / (n * sae.config.d_in),
        cosine=cosine / n,
        dead=dead,
        dead_share=dead / sae.config.width,
    )
