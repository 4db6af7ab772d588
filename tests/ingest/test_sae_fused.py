"""oneDNN's products against float64, and that everything works without them."""

import pytest
import torch

from ingest.sae.products.onednn import SMALLEST, fusable, fused
from ingest.sae.products.precision import product
from ingest.sae.products.top_codes import pre_activations

D, LATENTS = 64, SMALLEST // 64
needs_onednn = pytest.mark.skipif(not fusable(torch.zeros(LATENTS, D)), reason="torch is built without oneDNN")


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@needs_onednn
@pytest.mark.parametrize("n", [1, 300])
@pytest.mark.parametrize("layout", ["rows", "strided rows", "strided weights"])
def test_the_product_is_that_of_float64(n: int, layout: str) -> None:
    x, weights, bias = drawn(n, D), drawn(LATENTS, D, seed=1), drawn(LATENTS, seed=2)
    expected = x.double() @ weights.double().T + bias
    if layout == "strided rows":
        x = drawn(2 * n, D)[::2].copy_(x)
    elif layout == "strided weights":
        weights = weights.T.contiguous().T
    torch.testing.assert_close(fused(x, weights, bias).double(), expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(fused(x, weights, None).double(), expected - bias, rtol=1e-5, atol=1e-4)


@pytest.mark.filterwarnings("ignore:TF32")
@pytest.mark.parametrize("enabled", [True, False])
def test_pre_activations_and_products_are_the_same_with_and_without(enabled: bool) -> None:
    x, weights, bias = drawn(700, D), drawn(LATENTS, D, seed=1), drawn(LATENTS, seed=2)
    expected = (x.double() @ weights.double().T + bias).float()
    with torch.backends.mkldnn.flags(enabled=enabled):  # type: ignore[no-untyped-call]
        assert fusable(weights) <= enabled
        found = torch.cat([block.clone() for _, block in pre_activations(x, weights, bias)])
        shifted = product(x, weights, x.new_empty(700, LATENTS), bias)
        back = product(expected, weights.T, x.new_empty(700, D))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(shifted, expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(back, (expected.double() @ weights.double()).float(), rtol=1e-5, atol=1e-2)


def test_small_matrices_and_other_formats_are_left_to_torch() -> None:
    assert not fusable(torch.zeros(LATENTS - 1, D))
    assert not fusable(torch.zeros(LATENTS, D, dtype=torch.float64))
    assert not fusable(torch.zeros(LATENTS, D, dtype=torch.bfloat16))
