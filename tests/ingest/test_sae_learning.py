"""What training reaches on rows of known directions: FVE and L0, an L0 that is held, latents that are resampled."""

import pytest
import torch

from ingest.sae.architecture import Batch
from ingest.sae.config import Objective, SAEConfig
from ingest.sae.losses.topk_family import decoder_target, encoder_input
from ingest.sae.registry import architecture_of
from ingest.sae.training.adam import UnitDecoderAdam
from ingest.sae.training.initial_weights import initial_weights, row_scale
from ingest.sae.training.l0_control import SparsityControl
from ingest.sae.training.resample import resample
from tests.ingest.test_sae_elementwise import some_batch, some_weights
from tests.ingest.test_sae_train import sparse_rows


class Trained:
    """A short run on rows that are sums of 4 of 24 directions, without a folder."""

    def __init__(
        self,
        name: str,
        *,
        objective: Objective,
        steps: int = 600,
        rate: float = 3e-3,
        l0_range: tuple[float, float] | None = None,
        width: int = 64,
    ) -> None:
        config = SAEConfig(24, width, None, "toy", "layers.1", architecture=name)
        rows = torch.from_numpy(sparse_rows(20_000)).float()
        rows *= row_scale(rows[:4096])
        self.weights = initial_weights(config, 0, rows[:4096], rows[:4096])
        self.optimiser = UnitDecoderAdam(self.weights)
        self.architecture = architecture_of(config, objective)
        self.control = SparsityControl(objective.sparsity, l0_range, steps)
        self.l0s: list[float] = []
        g = torch.Generator().manual_seed(1)
        dead = torch.zeros(width, dtype=torch.bool)
        for step in range(steps):
            x = rows[torch.randint(len(rows), (512,), generator=g)]
            batch = Batch(x, x, dead, self.control.sparsity, objective.tilt)
            outcome = self.architecture.loss(self.weights, batch)
            self.optimiser.step(outcome.gradient, rate * min(1.0, 3 * (steps - step) / steps))
            self.l0s.append(float(outcome.fired.sum()) / len(x))
            self.control.seen(self.l0s[-1])
        self.outcome, self.x = outcome, x
        self.fve, self.l0 = float(outcome.fve), self.l0s[-1]


@pytest.mark.parametrize(
    ("name", "objective"),
    [
        ("relu", Objective(k_aux=0, sparsity=1.0)),
        ("jumprelu", Objective(k_aux=0, sparsity=0.5, bandwidth=0.5)),
        ("jumprelu", Objective(k_aux=0, sparsity=0.5, bandwidth=0.5, penalty="tanh")),
        ("gated", Objective(k_aux=0, sparsity=3.0)),
    ],
    ids=lambda value: value if isinstance(value, str) else value.penalty,
)
def test_rows_of_four_directions_are_learned(name: str, objective: Objective) -> None:
    run = Trained(name, objective=objective)
    assert run.fve > 0.9
    assert run.l0 < 10


@pytest.mark.parametrize(("tilt", "rate"), [(0.0, 3e-3), (0.05, 3e-3), (0.5, 3e-3), (0.5, 1e-3)])
def test_the_l0_is_held_in_its_range(tilt: float, rate: float) -> None:
    objective = Objective(k_aux=0, sparsity=0.3, tilt=tilt)
    run = Trained("relu", objective=objective, l0_range=(5.0, 7.0), steps=1200, rate=rate)
    assert all(4.7 < l0 < 7.3 for l0 in run.l0s[-100:])
    assert run.control.sparsity < 10
    if rate == 3e-3:
        assert run.fve > 0.95


def test_the_coefficient_falls_the_faster_the_lower_the_l0() -> None:
    changes = []
    for l0 in (130.0, 111.0, 110.0, 109.0, 100.0, 91.0, 90.0, 89.0, 70.0):
        control = SparsityControl(1.0, (90.0, 110.0), steps=10_000)
        control.seen(l0)
        changes.append(control.sparsity)
    assert changes == sorted(changes, reverse=True)
    assert changes[0] > changes[1] > 1
    assert changes[2] == pytest.approx(1)
    assert len(set(changes[2:])) == len(changes[2:])
    # Twice the same L0 foresees no other.
    control.seen(70.0)
    assert control.sparsity == pytest.approx(changes[-1] ** 2)


def test_a_held_l0_costs_little_at_a_low_rate() -> None:
    free = Trained("relu", objective=Objective(k_aux=0, sparsity=0.3, tilt=0.5), steps=1200, rate=1e-3)
    objective = Objective(k_aux=0, sparsity=0.3, tilt=0.5)
    held = Trained("relu", objective=objective, l0_range=(5.0, 7.0), steps=1200, rate=1e-3)
    assert 5 < free.l0 < 7
    assert held.fve > free.fve - 0.1


def test_resampled_latents_fire_again() -> None:
    run = Trained("relu", objective=Objective(k_aux=0, sparsity=0.3), steps=100)
    run.weights.encoder_bias[:30] = -1e3
    outcome = run.architecture.loss(run.weights, Batch(run.x, run.x, torch.zeros(64, dtype=torch.bool), 0.3))
    dead = outcome.fired == 0
    assert int(dead.sum()) >= 30
    x_in = run.x - run.weights.decoder_bias
    assert resample(run.weights, run.optimiser, dead, x_in, x_in, outcome.row_losses, seed=0) == int(dead.sum())
    again = run.architecture.loss(run.weights, Batch(run.x, run.x, dead, 0.3))
    assert bool((again.fired[dead] > 0).all())


def test_a_resampled_latent_of_a_transcoder_reads_one_module_and_writes_the_other() -> None:
    weights, batch = some_weights("relu", True), some_batch(True, 0.0)
    dead = torch.zeros(len(weights.encoder), dtype=torch.bool)
    dead[3:9] = True
    x_in, target = encoder_input(weights, batch.x, False), decoder_target(weights, batch.x, batch.target)
    losses = torch.zeros(len(batch.x), dtype=torch.float64)
    losses[17] = 1.0
    assert resample(weights, UnitDecoderAdam(weights), dead, x_in, target, losses, seed=0) == 6
    assert weights.skip is not None
    wanted = batch.target[17] - weights.decoder_bias - weights.skip @ batch.x[17]
    # All but one row have a chance of next to nothing; each row serves once, where there are enough.
    cosines = torch.nn.functional.cosine_similarity
    nearest = int(cosines(weights.decoder[dead], wanted, dim=1).argmax())
    torch.testing.assert_close(weights.decoder[dead][nearest], wanted / wanted.norm())
    torch.testing.assert_close(cosines(weights.encoder[dead], batch.x[17], dim=1)[nearest], torch.ones(()).double())
