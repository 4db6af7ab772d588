"""The encoder's product in bfloat16: what is rounded, and what is not."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ingest.sae.architecture import Architecture, Batch, Outcome, Weights
from ingest.sae.config import Objective, SAEConfig
from ingest.sae.model import SAE
from ingest.sae.products.precision import products_in
from ingest.sae.products.top_codes import code_above, pre_activations, top_code
from ingest.sae.registry import architecture_of
from ingest.sae.training.loop import train_sae
from ingest.sae.training.settings import TrainConfig

D, WIDTH, ROWS, K = 24, 96, 64, 6


@pytest.fixture
def rows() -> Tensor:
    return torch.randn(ROWS, D, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def weights() -> Weights:
    g = torch.Generator().manual_seed(1)
    decoder = torch.nn.functional.normalize(torch.randn(WIDTH, D, generator=g), dim=1)
    return Weights(decoder.clone(), 0.1 * torch.randn(WIDTH, generator=g), decoder, 0.1 * torch.randn(D, generator=g))


def rounded(tensor: Tensor) -> Tensor:
    return tensor.to(torch.bfloat16).double()


def test_the_product_is_that_of_the_rounded_factors(rows: Tensor, weights: Weights) -> None:
    with products_in("bfloat16"):
        found = torch.cat([block.clone() for _, block in pre_activations(rows, weights.encoder, weights.encoder_bias)])
    assert found.dtype == torch.bfloat16
    exact = rounded(rows) @ rounded(weights.encoder).T + rounded(weights.encoder_bias)
    # Half a unit in the last of 8 bits, of the sum and of the result.
    torch.testing.assert_close(found.double(), exact, rtol=2**-7, atol=2**-7)
    assert float((found.double() - exact).abs().max()) > 0
    (_, outside), *_ = pre_activations(rows, weights.encoder, weights.encoder_bias)
    assert outside.dtype == torch.float32


def test_codes_have_the_format_of_the_rows(rows: Tensor, weights: Weights) -> None:
    with products_in("bfloat16"):
        kept = top_code(rows, weights.encoder, weights.encoder_bias, K)
        floor = code_above(rows, weights.encoder, weights.encoder_bias, 0.5)
    for code in (kept, floor):
        assert code.values.dtype == torch.float32
        assert torch.equal(code.values.to(torch.bfloat16).float(), code.values)


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "matryoshka"])
def test_the_gradient_is_near_that_of_float32(rows: Tensor, weights: Weights, architecture: str) -> None:
    groups = (24, WIDTH) if architecture == "matryoshka" else ()
    config = SAEConfig(D, WIDTH, K, "none", "none", architecture, groups=groups)
    made: Architecture = architecture_of(config, Objective(k_aux=8))
    dead = torch.zeros(WIDTH, dtype=torch.bool)
    dead[:10] = True
    if architecture != "topk":
        weights = replace(weights, threshold=torch.tensor(-1.0))

    def outcome(format: str) -> Outcome:
        with products_in(format):
            return made.loss(weights, Batch(rows, rows, dead))

    exact, near = outcome("float32"), outcome("bfloat16")
    assert float(near.loss) == pytest.approx(float(exact.loss), rel=0.02)
    for name, slope in near.gradient.named().items():
        assert slope.dtype == torch.float32
        other = exact.gradient.named()[name]
        # A pair at the boundary may be another one: directions are compared, not entries.
        assert float(torch.nn.functional.cosine_similarity(slope.flatten(), other.flatten(), 0)) > 0.98, name


@pytest.mark.parametrize("architecture", ["relu", "jumprelu", "gated"])
@pytest.mark.parametrize("path", ["dense", "sparse"])
def test_the_gradient_of_a_penalised_loss_is_near_that_of_float32(
    rows: Tensor, weights: Weights, architecture: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.sae.losses.penalty_family.SPARSE_BELOW", 0.0 if path == "dense" else 2.0)
    # Blocks of which the last is not whole.
    monkeypatch.setattr("ingest.sae.losses.by_blocks.block_rows", lambda latents, device: 50)
    made = architecture_of(SAEConfig(D, WIDTH, None, "none", "none", architecture), Objective())
    if architecture == "jumprelu":
        weights = replace(weights, threshold=torch.full((WIDTH,), 0.3))
    if architecture == "gated":
        weights = replace(weights, magnitude=torch.full((WIDTH,), 0.2), magnitude_bias=torch.full((WIDTH,), 0.1))

    def outcome(format: str) -> Outcome:
        with products_in(format):
            return made.loss(weights, Batch(rows, rows, torch.zeros(WIDTH, dtype=torch.bool), 0.1, 0.5))

    exact, near = outcome("float32"), outcome("bfloat16")
    assert float(near.loss) == pytest.approx(float(exact.loss), rel=0.02)
    assert float(near.loss) != float(exact.loss)
    for name, slope in near.gradient.named().items():
        assert slope.dtype == torch.float32
        other = exact.gradient.named()[name]
        assert float(torch.nn.functional.cosine_similarity(slope.flatten(), other.flatten(), 0)) > 0.98, name


def test_a_run_in_bfloat16_keeps_float32_weights_and_comes_as_far(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(2)
    atoms = torch.nn.functional.normalize(torch.randn(32, D, generator=g), dim=1)
    amounts = (torch.rand(4000, 32, generator=g) < 0.1) * (1 + torch.rand(4000, 32, generator=g))
    rows = (amounts @ atoms).half().numpy()
    shape = SAEConfig(D, 64, 4, "none", "none")
    one = TrainConfig(shape, Objective(k_aux=16), steps=150, batch=128, warmup=10, decay=50, dead_after=5000)
    reports = {
        name: train_sae(replace(one, precision=name), rows, tmp_path / name)  # type: ignore[arg-type]
        for name in ("float32", "bfloat16")
    }
    assert reports["bfloat16"].fve == pytest.approx(reports["float32"].fve, abs=0.02)
    assert reports["bfloat16"].loss != reports["float32"].loss
    for tensor in SAE.load(tmp_path / "bfloat16").weights.named().values():
        assert tensor.dtype == torch.float32
    # Neither run is taken for the other.
    again = train_sae(one, rows, tmp_path / "bfloat16")
    assert again.resumed_at == 0
    assert again.loss == reports["float32"].loss
