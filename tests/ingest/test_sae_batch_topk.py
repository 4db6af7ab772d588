"""BatchTopK and Matryoshka: the gradient against autograd, the pairs kept against a full sort, the threshold."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.dictionaries.configure import beginning
from ingest.sae.architectures import batch_topk
from ingest.sae.architectures.batch_topk import BatchTopK, batch_code
from ingest.sae.config import Objective, SAEConfig
from ingest.sae.evaluate import evaluate
from ingest.sae.model import SAE
from ingest.sae.products.exact_topk import above
from ingest.sae.products.top_codes import code_above
from ingest.sae.training.loop import train_sae
from ingest.sae.training.settings import TrainConfig
from tests.ingest.test_sae_elementwise import (
    N,
    assert_gradients,
    dense,
    leaves_of,
    naive_tilted,
    some_batch,
    some_weights,
)
from tests.ingest.test_sae_train import sparse_rows


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


def test_rows_of_huge_norm_in_the_sample_do_not_have_all_pairs_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(0)
    x, encoder = torch.randn(2048, 64, generator=g), torch.randn(512, 64, generator=g)
    # Every 16th row is in the sample: 24 of its 128 rows have more above the rough boundary than all rows should.
    x[: 24 * 16 : 16] *= 100
    floors, real = [], batch_topk.code_above

    def counted(*args: object) -> object:
        floors.append(args[-1])
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(batch_topk, "code_above", counted)
    code, smallest = batch_code(x, encoder, torch.zeros(512), k=16)
    assert len(floors) > 1
    assert all(floor > 0 for floor in floors)
    relu = torch.relu(x @ encoder.T)
    ordered = relu.flatten().sort(descending=True).values[: 2048 * 16]
    torch.testing.assert_close(code.values.sort(descending=True).values, ordered)
    assert float(smallest) == float(ordered[-1])


@pytest.mark.parametrize("steps", [40, 120])
def test_the_threshold_of_a_short_run_keeps_k_a_row_whatever_its_parents_was(tmp_path: Path, steps: int) -> None:
    rows = sparse_rows(6000)
    config = TrainConfig(
        SAEConfig(24, 64, 12, "toy", "layers.1", "batchtopk"),
        Objective(k_aux=0),
        steps=120,
        batch=256,
        warmup=5,
        decay=5,
    )
    train_sae(config, rows[:5000], tmp_path / "parent")
    parent = beginning(SAE.load(tmp_path / "parent"), "parent", replace(config.sae, k=4))
    child = replace(config, sae=replace(config.sae, k=4), steps=steps, learning_rate=1e-3)
    for name, begun in (("child", parent), ("alone", None)):
        train_sae(child, rows[:5000], tmp_path / name, parent=begun)
        assert evaluate(SAE.load(tmp_path / name), rows[5000:]).l0 == pytest.approx(4, rel=0.15), name
