"""ReLU, JumpReLU and Gated SAEs, BatchTopK, the tilted loss: each against autograd or a naive second implementation."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ingest.sae import penalised
from ingest.sae.architecture import Architecture, Batch, Outcome, Weights
from ingest.sae.batch_topk import BatchTopK, batch_code
from ingest.sae.codes import SparseCode
from ingest.sae.config import Objective, SAEConfig
from ingest.sae.control import SparsityControl
from ingest.sae.gated import Gated
from ingest.sae.initial import initial_weights, row_scale
from ingest.sae.jumprelu import SMALLEST_THRESHOLD, JumpReLU
from ingest.sae.optimiser import UnitDecoderAdam
from ingest.sae.registry import architecture_of
from ingest.sae.relu import ReLU
from ingest.sae.resample import resample
from ingest.sae.risk import tilted
from ingest.sae.select import above
from ingest.sae.topcode import code_above
from tests.ingest.test_sae_train import sparse_rows

LATENTS, D_IN, D_OUT, N = 90, 12, 10, 150
KINDS = ("relu", "jumprelu step", "jumprelu tanh", "gated")
PATHS = {"dense": 0.0, "sparse": 2.0}


def architecture(kind: str, centred: bool = True, bandwidth: float = 0.7) -> Architecture:
    match kind.split():
        case ["relu"]:
            return ReLU(centred)
        case ["gated"]:
            return Gated(centred)
        case [_, "step"]:
            return JumpReLU(centred, "step", bandwidth)
    return JumpReLU(centred, "tanh", bandwidth)


def some_weights(kind: str, transcoder: bool = False, seed: int = 0) -> Weights:
    """Float64 weights in which nothing is zero or tied; thresholds on both sides of half the bandwidth, one at 0."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    decoder = torch.nn.functional.normalize(draw(LATENTS, D_OUT if transcoder else D_IN), dim=1)
    weights = Weights(draw(LATENTS, D_IN) / 3, draw(LATENTS) / 3, decoder, draw(decoder.shape[1]) / 3)
    if transcoder:
        weights = replace(weights, skip=draw(D_OUT, D_IN) / 3)
    if kind.startswith("jumprelu"):
        threshold = draw(LATENTS).abs()
        threshold[:2] = torch.tensor([0.0, SMALLEST_THRESHOLD / 3])
        weights = replace(weights, threshold=threshold)
    if kind == "gated":
        weights = replace(weights, magnitude=draw(LATENTS) / 3, magnitude_bias=draw(LATENTS) / 3)
    return weights


def some_batch(transcoder: bool, tilt: float = 0.0, sparsity: float = 0.3) -> Batch:
    g = torch.Generator().manual_seed(7)
    x = torch.randn(N, D_IN, generator=g, dtype=torch.float64) + 0.5
    target = torch.randn(N, D_OUT, generator=g, dtype=torch.float64) if transcoder else x
    return Batch(x, target, torch.zeros(LATENTS, dtype=torch.bool), sparsity, tilt)


class Step(torch.autograd.Function):
    """H(p - threshold) with the derivative of a ramp of the given width by the threshold, none by p."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, threshold: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(p, threshold)
        ctx.width = width
        return (p > threshold).to(p.dtype)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[None, Tensor, None]:  # type: ignore[override]
        p, threshold = ctx.saved_tensors
        near = (p > 0) & ((p - threshold).abs() < ctx.width / 2)
        return None, -(slope * near).sum(0) / ctx.width, None


class Jump(torch.autograd.Function):
    """p H(p - threshold), likewise."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, threshold: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(p, threshold)
        ctx.width = width
        return p * (p > threshold)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        p, threshold = ctx.saved_tensors
        near = (p > 0) & ((p - threshold).abs() < ctx.width / 2)
        return slope * (p > threshold), -(slope * near * threshold).sum(0) / ctx.width, None


def naive(kind: str, weights: Weights, batch: Batch, centred: bool, width: float = 0.7) -> tuple[Tensor, Tensor]:
    """(the code [n, latents], the loss of each row), densely and for autograd."""
    x_in = batch.x - weights.decoder_bias if centred else batch.x
    g = x_in @ weights.encoder.T
    pre = g + weights.encoder_bias
    auxiliary = None
    if kind == "relu":
        z = torch.relu(pre)
        penalty = z
    elif kind == "gated":
        assert weights.magnitude is not None
        assert weights.magnitude_bias is not None
        z = (pre > 0) * torch.relu(weights.magnitude.exp() * g + weights.magnitude_bias)
        penalty = auxiliary = torch.relu(pre)
    else:
        assert weights.threshold is not None
        z = Jump.apply(torch.relu(pre), weights.threshold, width)
        if kind == "jumprelu step":
            penalty = Step.apply(torch.relu(pre), weights.threshold, width)
        else:
            penalty = torch.tanh(4 * z / weights.threshold.clamp(min=SMALLEST_THRESHOLD))
    beside = 0 if weights.skip is None else batch.x @ weights.skip.T
    found = z @ weights.decoder + weights.decoder_bias + beside
    losses = (found - batch.target).square().sum(1) + batch.sparsity * penalty.sum(1)
    if auxiliary is not None:
        frozen = auxiliary @ weights.decoder.detach() + weights.decoder_bias.detach()
        frozen = frozen if weights.skip is None else frozen + batch.x @ weights.skip.detach().T
        losses = losses + (frozen - batch.target).square().sum(1)
    return z, losses


def naive_tilted(losses: Tensor, tilt: float) -> Tensor:
    return losses.mean() if tilt == 0 else (torch.logsumexp(tilt * losses, 0) - math.log(len(losses))) / tilt


def leaves_of(weights: Weights) -> Weights:
    return Weights(**{name: t.clone().requires_grad_() for name, t in weights.named().items()})


def assert_gradients(outcome: Outcome, leaves: Weights) -> None:
    assert outcome.gradient.named().keys() == leaves.named().keys()
    for name, leaf in leaves.named().items():
        expected = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        torch.testing.assert_close(outcome.gradient.named()[name], expected, rtol=1e-6, atol=1e-10, msg=name)


def dense(code: SparseCode, latents: int) -> Tensor:
    z = torch.zeros(len(code.offsets) - 1, latents, dtype=code.values.dtype)
    z[code.rows(), code.indices] = code.values
    return z


@pytest.mark.parametrize("transcoder", [False, True], ids=["sae", "transcoder"])
@pytest.mark.parametrize("tilt", [0.0, 3.0, -1.0])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_equals_autograd(
    kind: str, path: str, tilt: float, transcoder: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(penalised, "SPARSE_BELOW", PATHS[path])
    # Blocks of 14, 14, ... rows, the last of them shorter.
    monkeypatch.setattr("ingest.sae.blockwise.block_rows", lambda latents, device: 28)
    weights, batch = some_weights(kind, transcoder), some_batch(transcoder, tilt)
    outcome = architecture(kind, not transcoder).loss(weights, batch)
    leaves = leaves_of(weights)
    z, losses = naive(kind, leaves, batch, not transcoder)
    loss = naive_tilted(losses, tilt)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(outcome.loss, loss.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(outcome.row_losses, losses.detach())
    assert torch.equal(outcome.fired, (z > 0).sum(0))
    assert_gradients(outcome, leaves)
    found = z @ weights.decoder + weights.decoder_bias + (batch.x @ weights.skip.T if weights.skip is not None else 0)
    error, spread = (found - batch.target).square().sum(), (batch.target - batch.target.mean(0)).square().sum()
    torch.testing.assert_close(outcome.fve, (1 - error / spread).detach())


@pytest.mark.parametrize("kind", KINDS)
def test_both_paths_agree_in_single_precision(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = Weights(**{name: t.float() for name, t in some_weights(kind).named().items()})
    x = some_batch(False).x.float()
    outcomes = []
    for below in PATHS.values():
        monkeypatch.setattr(penalised, "SPARSE_BELOW", below)
        batch = Batch(x, x, torch.zeros(LATENTS, dtype=torch.bool), 0.3, 0.5)
        outcomes.append(architecture(kind).loss(weights, batch))
    by_blocks, by_pairs = outcomes
    torch.testing.assert_close(by_blocks.loss, by_pairs.loss)
    torch.testing.assert_close(by_blocks.row_losses, by_pairs.row_losses, rtol=1e-4, atol=1e-4)
    assert torch.equal(by_blocks.fired, by_pairs.fired)
    for name, slope in by_blocks.gradient.named().items():
        torch.testing.assert_close(slope, by_pairs.gradient.named()[name], rtol=1e-3, atol=1e-3, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_the_code_is_that_of_the_naive_formula(kind: str) -> None:
    weights, batch = some_weights(kind), some_batch(False)
    code = architecture(kind).encode(weights, batch.x)
    assert bool((code.values > 0).all())
    torch.testing.assert_close(dense(code, LATENTS), naive(kind, weights, batch, True)[0])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_an_active_latent_gives_a_finite_gradient(
    kind: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(penalised, "SPARSE_BELOW", PATHS[path])
    weights, batch = some_weights(kind), some_batch(False, tilt=2.0)
    weights.encoder_bias.fill_(-1e3)
    outcome = architecture(kind).loss(weights, batch)
    assert int(outcome.fired.sum()) == 0
    assert bool(outcome.loss.isfinite())
    assert all(bool(t.isfinite().all()) for t in outcome.gradient.named().values())
    assert not len(architecture(kind).encode(weights, batch.x).values)


@pytest.mark.parametrize(("share", "path"), [(0.5, "by_blocks"), (0.01, "by_pairs")])
def test_the_path_follows_from_the_density(share: float, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    for name in ("by_blocks", "by_pairs"):
        usual = getattr(penalised, name)
        monkeypatch.setattr(penalised, name, lambda *a, name=name, usual=usual: (taken.append(name), usual(*a))[1])
    weights, batch = some_weights("relu"), some_batch(False)
    pre = (batch.x - weights.decoder_bias) @ weights.encoder.T + weights.encoder_bias
    weights.encoder_bias.sub_(pre.flatten().quantile(1 - share))
    ReLU().loss(weights, batch)
    assert taken == [path]


@pytest.mark.parametrize("name", ["jumprelu", "gated"])
def test_missing_weights_are_named(name: str) -> None:
    config = SAEConfig(D_IN, LATENTS, None, "toy", "layers.0", architecture=name)
    with pytest.raises(ValueError, match=r"threshold|magnitude"):
        architecture_of(config).encode(some_weights("relu"), some_batch(False).x)


def test_the_registry_passes_the_objective_on() -> None:
    config = SAEConfig(8, 32, None, "toy", "layers.0", architecture="jumprelu", centred=False)
    assert architecture_of(config, Objective(penalty="tanh", bandwidth=0.3)) == JumpReLU(False, "tanh", 0.3)
    assert architecture_of(replace(config, architecture="relu")) == ReLU(False)
    assert architecture_of(replace(config, architecture="gated")) == Gated(False)


# The tilted loss.

LOSSES = st.lists(st.floats(-50, 1e4), min_size=1, max_size=40).map(lambda v: torch.tensor(v, dtype=torch.float64))


@settings(deadline=None, max_examples=200)
@given(LOSSES, st.floats(1e-9, 1e4))
def test_a_tilted_loss_lies_between_mean_and_largest(losses: Tensor, tilt: float) -> None:
    near = 1e-9 * (1 + float(losses.abs().max()))
    loss, by_row = tilted(losses, tilt)
    assert float(losses.mean()) - near <= float(loss) <= float(losses.max()) + near
    lower, _ = tilted(losses, -tilt)
    assert float(losses.min()) - near <= float(lower) <= float(losses.mean()) + near
    assert float(by_row.sum()) == pytest.approx(1)
    assert bool((by_row >= 0).all())


@settings(deadline=None, max_examples=100)
@given(LOSSES)
def test_a_tilted_loss_is_the_mean_at_no_tilt_and_the_largest_at_a_large_one(losses: Tensor) -> None:
    size = 1 + float(losses.abs().max())
    # Its slope by t at 0 is half the variance.
    at_most = 1e-9 * (float(losses.var(correction=0)) + size)
    assert abs(float(tilted(losses, 1e-9)[0] - losses.mean())) <= at_most
    assert abs(float(tilted(losses, 0.0)[0] - losses.mean())) <= 1e-12 * size
    # At most log(n) / t below it.
    assert abs(float(tilted(losses, 1e4)[0] - losses.max())) <= math.log(len(losses)) / 1e4 + 1e-9 * size


@settings(deadline=None, max_examples=100)
@given(LOSSES, st.floats(-3, 3).filter(lambda t: abs(t) > 1e-6))
def test_the_weights_of_a_tilted_loss_equal_autograd(losses: Tensor, tilt: float) -> None:
    leaf = losses.clone().requires_grad_()
    naive_tilted(leaf, tilt).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(tilted(losses, tilt)[1], leaf.grad, rtol=1e-6, atol=1e-12)


# BatchTopK and Matryoshka.


@pytest.mark.parametrize("n_dead", [0, 7])
@pytest.mark.parametrize("groups", [(), (8, 20, 40)])
@pytest.mark.parametrize("tilt", [0.0, 2.0])
@pytest.mark.parametrize("transcoder", [False, True], ids=["sae", "transcoder"])
def test_batch_topk_gradient_equals_autograd_on_the_same_selection(
    transcoder: bool, tilt: float, groups: tuple[int, ...], n_dead: int
) -> None:
    latents, k, k_aux = 40, 5, 3
    full = some_weights("relu", transcoder)
    weights = replace(
        full, encoder=full.encoder[:latents], encoder_bias=full.encoder_bias[:latents], decoder=full.decoder[:latents]
    )
    dead = torch.arange(latents) >= latents - n_dead
    batch = some_batch(transcoder, tilt)._replace(dead=dead)
    sae = BatchTopK(k, centred=not transcoder, k_aux=k_aux, groups=groups)
    outcome = sae.loss(weights, batch)

    leaves = leaves_of(weights)
    x_in = batch.x if transcoder else batch.x - leaves.decoder_bias
    relu = torch.relu(x_in @ leaves.encoder.T + leaves.encoder_bias)
    boundary = relu.detach().flatten().sort(descending=True).values[N * k - 1]
    z = relu * (relu >= boundary)
    base = leaves.decoder_bias + (0 if leaves.skip is None else batch.x @ leaves.skip.T)
    variance = (batch.target - batch.target.mean(0)).square().sum(1).mean()
    parts = [z[:, :high] @ leaves.decoder[:high] + base for high in groups or (latents,)]
    losses = torch.stack([(part - batch.target).square().sum(1) / variance for part in parts]).mean(0)
    loss = naive_tilted(losses, tilt)
    if n_dead:
        error = (batch.target - parts[-1]).detach()
        kept = relu[:, dead].topk(k_aux)
        z_dead = torch.zeros_like(relu[:, dead]).scatter(1, kept.indices, kept.values)
        missed = (z_dead @ leaves.decoder[dead] - error).square().sum()
        loss = loss + missed / (error - error.mean(0)).square().sum() / 32
    loss.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(outcome.loss, loss.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(outcome.row_losses, losses.detach())
    assert outcome.smallest is not None
    torch.testing.assert_close(outcome.smallest, boundary)
    assert_gradients(outcome, leaves)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.integers(2, 50), st.integers(1, 12), st.integers(0, 10**6))
def test_batch_code_keeps_the_largest_of_a_full_sort(n: int, latents: int, k: int, seed: int) -> None:
    k = min(k, latents)
    g = torch.Generator().manual_seed(seed)
    # Rows of very different size: a sample of them misjudges the boundary now and then.
    x = torch.randn(n, 6, generator=g, dtype=torch.float64) * torch.randn(n, 1, generator=g, dtype=torch.float64).exp()
    encoder, bias = torch.randn(2, latents, 6, generator=g, dtype=torch.float64)[0], torch.zeros(latents).double()
    code, smallest = batch_code(x, encoder, bias, k)
    relu = torch.relu(x @ encoder.T + bias)
    ordered = relu[relu > 0].sort(descending=True).values[: n * k]
    assert len(code.values) == min(n * k, int((relu > 0).sum()))
    torch.testing.assert_close(code.values.sort(descending=True).values, ordered)
    torch.testing.assert_close(dense(code, latents), relu * (relu >= smallest))


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 40), st.integers(1, 70), st.floats(0, 2), st.integers(0, 10**6))
def test_code_above_equals_the_naive_mask(n: int, width: int, floor: float, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    x, encoder = torch.randn(n, 5, generator=g).double(), torch.randn(width, 5, generator=g).double()
    bias = torch.randn(width, generator=g).double()
    pre = x @ encoder.T + bias
    code = code_above(x, encoder, bias, floor)
    torch.testing.assert_close(dense(code, width), pre * (pre > floor))
    assert torch.equal(code.offsets.diff(), (pre > floor).sum(1))
    values, columns, counts = above(pre, floor)
    assert torch.equal(counts, (pre > floor).sum(1))
    # Row after row: the first pairs are the first row's.
    assert set(columns[: int(counts[0])].tolist()) == set((pre[0] > floor).nonzero().flatten().tolist())
    assert len(values) == int(counts.sum())


# Learning.


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
    assert resample(run.weights, run.optimiser, dead, x_in, outcome.row_losses, seed=0) == int(dead.sum())
    again = run.architecture.loss(run.weights, Batch(run.x, run.x, dead, 0.3))
    assert bool((again.fired[dead] > 0).all())
