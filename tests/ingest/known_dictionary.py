"""Rows made of a dictionary that is known, so that what an SAE recovers can be counted.

256 unit atoms in 64 dimensions, each in a row with probability 5/256, amplitudes 1 + 0.25 |N|, noise of 0.05 in every
coordinate, around a mean of norm 2.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

ATOMS, D, SUPPORT = 256, 64, 5
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Known:
    """One dictionary, and rows of it; a source of batches for `train_saes`."""

    seed: int

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.seed, 0])
        atoms = rng.standard_normal((ATOMS, D))
        mean = rng.standard_normal(D)
        object.__setattr__(self, "atoms", (atoms / np.linalg.norm(atoms, axis=1, keepdims=True)).astype(np.float32))
        object.__setattr__(self, "mean", (2 * mean / np.linalg.norm(mean)).astype(np.float32))

    atoms = mean = None  # type: ignore[assignment]

    def draw(self, n: int, *stream: int) -> tuple[Floats, Floats]:
        """(rows [n, D], the amplitudes [n, ATOMS] that they were made of)."""
        rng = np.random.default_rng([self.seed, 1, *stream])
        amplitudes = np.zeros((n, ATOMS), dtype=np.float32)
        # The gaps between successes of independent trials are geometric: a few thousand draws instead of n * ATOMS.
        gaps = rng.geometric(SUPPORT / ATOMS, int(1.5 * n * SUPPORT) + 100)
        present = np.cumsum(gaps) - 1
        assert present[-1] >= n * ATOMS
        present = present[present < n * ATOMS]
        amplitudes.flat[present] = 1 + 0.25 * np.abs(rng.standard_normal(len(present), dtype=np.float32))
        noise = 0.05 * rng.standard_normal((n, D), dtype=np.float32)
        return amplitudes @ self.atoms + noise + self.mean, amplitudes

    rows, widths = 1 << 40, (D, D)

    @property
    def digest(self) -> str:
        return f"known dictionary {self.seed}"

    def check(self, d_in: int, d_out: int, batch: int) -> None:
        assert (d_in, d_out) == self.widths

    def sample(self) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(self.draw(8192, 2)[0])
        return x, x

    def sampler(self, batch: int, seed: int) -> "_Fresh":
        return _Fresh(self, batch, seed)


@dataclass(frozen=True)
class _Fresh:
    """Rows that were never drawn before, at every step."""

    source: Known
    size: int
    seed: int

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(self.source.draw(self.size, 3, self.seed, step)[0])
        return x, x

    def row_numbers(self, step: int) -> npt.NDArray[np.int64]:
        return np.arange(self.size) + step * self.size


def recovered(decoder: Tensor, atoms: Floats) -> float:
    """Mean cosine between the atoms and the decoder rows [latents, D] that they are matched with, one to one."""
    cosines = atoms @ torch.nn.functional.normalize(decoder, dim=1).numpy().T
    rows, columns = linear_sum_assignment(-cosines)
    return float(cosines[rows, columns].mean())


def oracle_fve(known: Known, rows: Floats, amplitudes: Floats) -> float:
    """FVE of the true atoms of each row's SUPPORT largest amplitudes, fitted by least squares around the true mean."""
    missed = 0.0
    centred = rows - known.mean
    for row, amplitude in zip(centred, amplitudes, strict=True):
        chosen = np.argsort(-amplitude)[: min(SUPPORT, int((amplitude > 0).sum()))]
        if not len(chosen):
            missed += float((row**2).sum())
            continue
        fitted, *_ = np.linalg.lstsq(known.atoms[chosen].T, row, rcond=None)
        missed += float(((row - fitted @ known.atoms[chosen]) ** 2).sum())
    return 1 - missed / float(((rows - rows.mean(0)) ** 2).sum())
