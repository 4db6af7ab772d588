"""Holds the number of active latents in a range by adjusting the sparsity coefficient.

Under a tilted loss the same coefficient gives an L0 that nobody can foresee (Specialized SAEs, section 3.4). Here the
coefficient follows the measured L0: it grows while the L0 is above the range, falls while it is below, and within the
range falls slowly, since the smallest coefficient that holds the L0 leaves the most of the input.
"""

import math
from dataclasses import dataclass

MEMORY = 0.8
"""Weight of the past in the running mean of the L0: batches differ by some percent."""
FORESIGHT = 100
"""Steps by which the trend of the L0 is continued: weights answer slowly, so the L0 of today comes too late. Without it
the coefficient went on growing, to 1e9, while the L0 was already falling, and no latent was left."""
GAIN = 0.01
"""Change of the coefficient's logarithm per step, per unit of log(foreseen L0 / border)."""
LARGEST = 0.01
"""Largest such change in a step."""
SLOWEST_RISE = 0.003
"""Largest rise in a step of a long run: a coefficient that grows faster than latents find their directions shrinks
the activations instead, and is held there by an L0 within the range. In a toy task a rise of 0.01 ended at a
coefficient of 4.6 and an FVE of 0.24, one of 0.003 at 0.9 and 0.94, with the same L0."""
RISE_OF_A_RUN = 3.6
"""What the logarithm can rise by in a whole run, if that needs more than `SLOWEST_RISE` in each step."""
DRIFT = 0.003
"""Fall in a step at the lower border, less within the range, none at its upper border."""


@dataclass
class SparsityControl:
    """The coefficient of one training run, step by step."""

    sparsity: float
    l0_range: tuple[float, float] | None
    steps: int
    """Of the whole run."""
    l0: float = math.nan
    """Running mean."""

    def seen(self, l0: float) -> None:
        """Take a batch's L0 into account for the next step."""
        before = self.l0
        self.l0 = l0 if math.isnan(before) else MEMORY * before + (1 - MEMORY) * l0
        if self.l0_range is None:
            return
        now = _log(self.l0)
        foreseen = now if math.isnan(before) else now + FORESIGHT * (now - _log(before))
        low, high = map(_log, self.l0_range)
        if foreseen >= high:
            wanted = GAIN * (foreseen - high)
        elif foreseen > low:
            wanted = -DRIFT * (high - foreseen) / (high - low)
        else:
            wanted = GAIN * (foreseen - low) - DRIFT
        rise = min(max(SLOWEST_RISE, RISE_OF_A_RUN / self.steps), LARGEST)
        self.sparsity *= math.exp(min(max(wanted, -LARGEST), rise))


def _log(l0: float) -> float:
    return math.log(max(l0, 1e-6))
