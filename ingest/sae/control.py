"""Holding the number of active latents in a range by adjusting the sparsity coefficient.

Under a tilted loss the same coefficient gives an L0 that nobody can foresee (Specialized SAEs, section 3.4). Here the
coefficient follows the measured L0: it grows while the L0 is above the range, and falls while it is below.
"""

import math
from dataclasses import dataclass

MEMORY = 0.8
"""Weight of the past in the running mean of the L0: batches differ by some percent."""
GAIN = 0.1
"""Change of the coefficient's logarithm per step, per unit of log(L0 / border)."""
LARGEST = 0.05
"""Largest such change in a step: the weights need some steps to answer."""


@dataclass
class SparsityControl:
    """The coefficient of one training run, step by step."""

    sparsity: float
    l0_range: tuple[float, float] | None
    l0: float = math.nan
    """Running mean."""

    def seen(self, l0: float) -> None:
        """Take a batch's L0 into account for the next step."""
        self.l0 = l0 if math.isnan(self.l0) else MEMORY * self.l0 + (1 - MEMORY) * l0
        if self.l0_range is None:
            return
        low, high = self.l0_range
        border = high if self.l0 > high else low if self.l0 < low else self.l0
        wanted = GAIN * math.log(max(self.l0, 1e-6) / max(border, 1e-6))
        self.sparsity *= math.exp(min(max(wanted, -LARGEST), LARGEST))
