"""TracIn against autograd's gradient of each token's loss, in float64, for every architecture that it takes."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from catalog.errors import InputError
from ingest.sae.architecture import Batch, Weights
from ingest.sae.config import SAEConfig
from ingest.sae.losses.gradient import mean_variance
from ingest.sae.model import SAE
from ingest.selection import tracin
from ingest.selection.tracin import check_supported, document_influence, row_influence, seed_gradient

D, WIDTH, K, SPARSITY = 12, 60, 5, 0.7
CONFIGS: dict[str, dict[str, Any]] = {
    "topk": {"architecture": "topk", "k": K},
    "topk uncentred": {"architecture": "topk", "k": K, "centred": False},
    "batchtopk": {"architecture": "batchtopk", "k": K},
    "matryoshka": {"architecture": "matryoshka", "k": K, "groups": (15, 30, WIDTH)},
    "relu": {"architecture": "relu", "k": None},
    "jumprelu": {"architecture": "jumprelu", "k": None},
}


def made(name: str) -> SAE:
    generator = torch.Generator().manual_seed(len(name))
    rows = [torch.randn(WIDTH, D, generator=generator, dtype=torch.float64) for _ in range(2)]
    bias, decoder_bias = (torch.randn(n, generator=generator, dtype=torch.float64) * 0.3 for n in (WIDTH, D))
    thresholds = {"batchtopk": torch.tensor(1.5).double(), "matryoshka": torch.tensor(1.5).double()}
    thresholds["jumprelu"] = torch.full((WIDTH,), 0.8, dtype=torch.float64)
    given = CONFIGS[name]
    config = SAEConfig(d_in=D, width=WIDTH, model_name="", hookpoint="h", **given)
    weights = Weights(rows[0], bias, rows[1], decoder_bias, threshold=thresholds.get(given["architecture"]))
    return SAE(config, weights)


def batch(n: int, seed: int) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def token_loss(sae: SAE, parameters: tuple[Tensor, ...], x: Tensor) -> Tensor:
    """The loss of one row [d], written out densely."""
    encoder, bias, decoder, decoder_bias = parameters
    config = sae.config
    pre = encoder @ (x - decoder_bias if config.centred else x) + bias
    if config.architecture == "topk":
        floor = pre.detach().topk(K).values[-1].clamp(min=0)
        z = torch.where((pre >= floor) & (pre > 0), pre, 0.0)
    elif config.architecture == "relu":
        z = pre.relu()
    else:
        z = torch.where(pre > sae.weights.threshold, pre, 0.0)
    groups = config.groups or (WIDTH,)
    error = sum((x - z[:size] @ decoder[:size] - decoder_bias).square().sum() for size in groups) / len(groups)
    return error + (SPARSITY * z.sum() if config.architecture == "relu" else 0)


def per_example(sae: SAE, x: Tensor) -> Tensor:
    """Each row's gradient by all weights, flat: [n, parameters]."""
    w = sae.weights
    parameters = (w.encoder, w.encoder_bias, w.decoder, w.decoder_bias)
    found = vmap(grad(lambda p, row: token_loss(sae, p, row)), (None, 0))(parameters, x)
    return torch.cat([one.flatten(1) for one in found], 1)


@pytest.mark.parametrize("name", CONFIGS)
def test_products_are_those_of_autograds_gradients(name: str) -> None:
    sae, seed, x = made(name), batch(70, 1), batch(90, 2)
    mean = per_example(sae, seed).mean(0)
    gradient = seed_gradient(sae, seed.split(32), SPARSITY)
    w = (gradient.encoder, gradient.encoder_bias, gradient.decoder, gradient.decoder_bias)
    torch.testing.assert_close(torch.cat([t.flatten() for t in w]), mean, rtol=1e-9, atol=1e-9)
    found = row_influence(sae, gradient, x, SPARSITY)
    expected = per_example(sae, x) @ mean
    assert float(expected.abs().max()) > 1
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_the_seed_gradient_is_that_of_the_parents_own_training_loss() -> None:
    for name, scaled in (("topk", True), ("relu", False)):
        sae, x = made(name), batch(50, 3)
        given = Batch(x, x, torch.zeros(WIDTH, dtype=torch.bool), sparsity=SPARSITY)
        trained = sae.architecture.loss(sae.weights, given).gradient
        factor = mean_variance(x) if scaled else 1
        found = seed_gradient(sae, [x], SPARSITY)
        for mine, theirs in zip(found.named().values(), trained.named().values(), strict=True):
            torch.testing.assert_close(mine, theirs * factor, rtol=1e-9, atol=1e-9)


def test_a_documents_score_is_the_mean_over_its_tokens_wherever_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    sae, x = made("topk"), batch(40, 4)
    gradient = seed_gradient(sae, [batch(30, 5)])
    rows = row_influence(sae, gradient, x).numpy()
    place = np.arange(40) % 3
    place[7] = 4
    monkeypatch.setattr(tracin, "CHUNK", 7)
    parts = [(x[:25], place[:25]), (x[25:], place[25:])]
    done: list[int] = []
    found = document_influence(sae, gradient, parts, 5, progress=done.append)
    for document in (0, 1, 2, 4):
        assert found[document] == pytest.approx(rows[place == document].mean(), rel=1e-9)
    assert found[3] == -np.inf
    assert done == [25, 40]


def test_a_step_on_an_influential_token_lowers_the_seeds_loss() -> None:
    """What TracIn means: loss(w - e grad(z)) - loss(w) = -e TracIn(z, seed) to first order."""
    sae, seed, x = made("relu"), batch(60, 6), batch(20, 7)
    w = sae.weights
    parameters = (w.encoder, w.encoder_bias, w.decoder, w.decoder_bias)
    gradient = seed_gradient(sae, [seed], SPARSITY)
    influence = row_influence(sae, gradient, x, SPARSITY)

    def loss(parameters: tuple[Tensor, ...]) -> Tensor:
        return torch.stack([token_loss(sae, parameters, row) for row in seed]).mean()

    before, rate = loss(parameters), 1e-8
    for at in range(5):
        step = grad(lambda p, row=x[at]: token_loss(sae, p, row))(parameters)
        after = loss(tuple(p - rate * g for p, g in zip(parameters, step, strict=True)))
        assert float((before - after) / rate) == pytest.approx(float(influence[at]), rel=1e-3, abs=1e-2)


def test_what_has_no_pairwise_loss_is_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match="'gated': its loss has terms beside the active pairs"):
        check_supported(SAEConfig(D, WIDTH, None, "", "h", "gated"))
    with pytest.raises(InputError, match="a transcoder's loss needs those of two"):
        check_supported(SAEConfig(D, WIDTH, K, "", "h", centred=False, target_hookpoint="t", d_out=D))
    with pytest.raises(InputError, match="no token to take a gradient of"):
        seed_gradient(made("topk"), [])
