"""ReLU, JumpReLU and Gated SAEs, the tilted loss: each against autograd or a naive second implementation."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ingest.sae.architecture import Architecture, Batch, Outcome, Weights
from ingest.sae.architectures.gated import Gated
from ingest.sae.architectures.jumprelu import SMALLEST_THRESHOLD, JumpReLU
from ingest.sae.architectures.relu import ReLU
from ingest.sae.codes import SparseCode
from ingest.sae.config import Objective, SAEConfig
from ingest.sae.losses import penalty_family
from ingest.sae.losses.tilted import tilted
from ingest.sae.registry import architecture_of

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
    monkeypatch.setattr(penalty_family, "SPARSE_BELOW", PATHS[path])
    # Blocks of 14, 14, ... rows, the last of them shorter.
    monkeypatch.setattr("ingest.sae.losses.by_blocks.block_rows", lambda latents, device: 14)
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
        monkeypatch.setattr(penalty_family, "SPARSE_BELOW", below)
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
    monkeypatch.setattr(penalty_family, "SPARSE_BELOW", PATHS[path])
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
        usual = getattr(penalty_family, name)
        monkeypatch.setattr(penalty_family, name, lambda *a, name=name, usual=usual: (taken.append(name), usual(*a))[1])
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
