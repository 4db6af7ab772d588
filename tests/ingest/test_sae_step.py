"""The exact top-k against torch.topk, and the hand-written gradient against autograd."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ingest.sae.architecture import Batch, Weights
from ingest.sae.architectures.topk import TopK
from ingest.sae.codes import SparseCode, by_latent, decode, transposed_product
from ingest.sae.products.exact_topk import exact_topk
from ingest.sae.products.top_codes import top_code


def some_weights(latents: int, d: int, seed: int = 0) -> Weights:
    """Float64 weights in which nothing is zero or tied."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    decoder = draw(latents, d)
    return Weights(draw(latents, d), draw(latents), decoder / decoder.norm(dim=1, keepdim=True), draw(d))


def dense(code: SparseCode, latents: int) -> Tensor:
    z = torch.zeros(len(code.offsets) - 1, latents, dtype=code.values.dtype)
    z[code.rows(), code.indices] = code.values
    return z


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 6), st.integers(1, 700), st.data())
def test_topk_takes_the_same_values_as_a_full_sort(rows: int, width: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, width))
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    # Few distinct values: ties everywhere, also at the boundary.
    x = torch.randint(-9, data.draw(st.sampled_from([-5, 10, 10**6])), (rows, width), generator=g).float()
    values, columns = exact_topk(x, k)
    assert torch.equal(values.sort(1).values, x.sort(1).values[:, width - k :])
    assert torch.equal(x.gather(1, columns), values)
    assert all(len(set(row)) == k for row in columns.tolist())


@pytest.mark.parametrize(("width", "k"), [(8192, 32), (8191, 32), (2048, 1), (1000, 999), (16387, 64)])
def test_topk_is_exact_at_real_widths(width: int, k: int) -> None:
    x = torch.randn(40, width, generator=torch.Generator().manual_seed(width))
    values, columns = exact_topk(x, k)
    assert torch.equal(values.sort(1).values, torch.topk(x, k).values.flip(1))
    assert torch.equal(x.gather(1, columns), values)


def test_latents_below_zero_are_not_active() -> None:
    weights = Weights(torch.eye(3), torch.tensor([0.0, -10.0, 0.0]), torch.eye(3), torch.tensor([1.0, 0.0, 0.0]))
    code = TopK(k=2).encode(weights, torch.tensor([[5.0, 9.0, -1.0]]))
    # Pre-activations by hand: 5 - 1 = 4, 9 - 10 = -1, -1.
    assert sorted(code.values.tolist()) == [0.0, 4.0]
    assert code.indices[int(code.values.argmax())] == 0


def test_a_block_boundary_does_not_show_in_the_code() -> None:
    weights = some_weights(4096, 8)
    x = torch.randn(1100, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    whole = top_code(x, weights.encoder, weights.encoder_bias, 5)
    pre = torch.relu(x @ weights.encoder.T + weights.encoder_bias)
    expected = torch.topk(pre, 5).values
    torch.testing.assert_close(whole.values.view(1100, 5).sort(1, descending=True).values, expected)


def test_decoding_and_its_transpose_are_the_dense_products() -> None:
    weights = some_weights(50, 7)
    x = torch.randn(30, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    code = TopK(k=4).encode(weights, x)
    z = dense(code, 50)
    torch.testing.assert_close(decode(code, weights.decoder), z @ weights.decoder)
    torch.testing.assert_close(transposed_product(by_latent(code, 50), code.values, x), z.T @ x)


def autograd_loss(weights: Weights, x: Tensor, dead: Tensor, k: int, k_aux: int, coefficient: float) -> Tensor:
    """The documented loss, written densely, for autograd."""
    pre = torch.relu((x - weights.decoder_bias) @ weights.encoder.T + weights.encoder_bias)
    top = torch.topk(pre, k)
    z = torch.zeros_like(pre).scatter(1, top.indices, top.values)
    error = x - (z @ weights.decoder + weights.decoder_bias)
    loss = error.square().sum() / (x - x.mean(0)).square().sum()
    if k_aux and dead.any():
        error = error.detach()
        masked = torch.where(dead, pre, 0)
        top = torch.topk(masked, min(k_aux, int(dead.sum())))
        z = torch.zeros_like(pre).scatter(1, top.indices, top.values)
        missed = (error - z @ weights.decoder).square().sum()
        loss = loss + coefficient * missed / (error - error.mean(0)).square().sum()
    return loss


@pytest.mark.parametrize("k_aux", [0, 3, 20, 100], ids=["none", "few", "half", "all"])
@pytest.mark.parametrize("n_dead", [0, 1, 40])
@pytest.mark.parametrize("k", [1, 6, 120])
def test_gradient_equals_autograd(k: int, n_dead: int, k_aux: int) -> None:
    latents, d, n = 120, 12, 64
    weights = some_weights(latents, d)
    x = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) + 1
    # Some of the dead latents fire in this very batch: both terms reach their weights.
    dead = torch.arange(latents) < n_dead
    outcome = TopK(k, k_aux=k_aux).loss(weights, Batch(x, x, dead))
    leaves = Weights(**{name: t.clone().requires_grad_() for name, t in weights.named().items()})
    loss = autograd_loss(leaves, x, dead, k, k_aux, 1 / 32)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(outcome.loss, loss.detach(), rtol=1e-12, atol=1e-12)
    for name, leaf in leaves.named().items():
        assert leaf.grad is not None
        torch.testing.assert_close(outcome.gradient.named()[name], leaf.grad, rtol=1e-6, atol=1e-12, msg=name)


def test_outcome_counts_rows_on_which_each_latent_fired() -> None:
    weights = some_weights(30, 5)
    x = torch.randn(200, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    pre = torch.relu((x - weights.decoder_bias) @ weights.encoder.T + weights.encoder_bias)
    kept = torch.topk(pre, 8)
    z = torch.zeros_like(pre).scatter(1, kept.indices, kept.values)
    outcome = TopK(k=8).loss(weights, Batch(x, x, torch.zeros(30, dtype=torch.bool)))
    assert torch.equal(outcome.fired, (z > 0).sum(0))
    error = x - (z @ weights.decoder + weights.decoder_bias)
    torch.testing.assert_close(outcome.fve, 1 - error.square().sum() / (x - x.mean(0)).square().sum())


def test_a_batch_without_variance_gives_a_finite_gradient() -> None:
    weights = some_weights(30, 5)
    x = torch.ones(10, 5, dtype=torch.float64)
    outcome = TopK(k=4, k_aux=4).loss(weights, Batch(x, x, torch.ones(30).bool()))
    assert all(bool(t.isfinite().all()) for t in outcome.gradient.named().values())
