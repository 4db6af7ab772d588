"""A child begins as its parent, whatever norms the parent's decoder rows have, or is refused with the reason."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from catalog.errors import InputError
from catalog.study.terms import KEEPS_K
from ingest.dictionaries.configure import beginning
from ingest.sae.architecture import Weights
from ingest.sae.config import Objective, SAEConfig
from ingest.sae.model import SAE
from ingest.sae.training.loop import train_sae
from ingest.sae.training.rows import CachedRows
from ingest.sae.training.settings import TrainConfig

D, M, K, N, THRESHOLD = 6, 20, 3, 64, 0.7
Arrays = dict[str, np.ndarray]


def config(architecture: str) -> SAEConfig:
    k, groups = (K if architecture in KEEPS_K else None), ((8, M) if architecture == "matryoshka" else ())
    return SAEConfig(D, M, k, "toy", "layers.1", architecture=architecture, groups=groups)


def parent(architecture: str, norms: torch.Tensor | float) -> SAE:
    """A random SAE whose decoder rows have these norms."""
    g = torch.Generator().manual_seed(0)
    encoder, bias, decoder = (torch.randn(*shape, generator=g) for shape in ((M, D), (M,), (M, D)))
    decoder *= (torch.ones(M) * norms / decoder.norm(dim=1)).unsqueeze(1)
    weights = Weights(encoder, bias, decoder, torch.randn(D, generator=g))
    if architecture in ("batchtopk", "matryoshka"):
        weights = replace(weights, threshold=torch.tensor(THRESHOLD))
    if architecture == "jumprelu":
        weights = replace(weights, threshold=torch.rand(M, generator=g))
    if architecture == "gated":
        weights = replace(weights, magnitude=encoder[:, 0] / 2, magnitude_bias=bias.flip(0))
    return SAE(config(architecture), weights)


def spread() -> torch.Tensor:
    """Norms between 1/5 and 5."""
    return torch.empty(M).uniform_(-1.6, 1.6, generator=torch.Generator().manual_seed(1)).exp()


def rows() -> torch.Tensor:
    return 2 * torch.randn(N, D, generator=torch.Generator().manual_seed(2))


def plain(sae: SAE, x: np.ndarray) -> np.ndarray:
    """What it reconstructs, [n, D], in NumPy."""
    w: Arrays = {name: tensor.double().numpy() for name, tensor in sae.weights.named().items()}
    pre = (x - w["decoder_bias"]) @ w["encoder"].T + w["encoder_bias"]
    keep: dict[str, Callable[[], np.ndarray]] = {
        "relu": lambda: np.maximum(pre, 0),
        "topk": lambda: np.where(pre >= np.sort(pre, 1)[:, [-K]], np.maximum(pre, 0), 0),
        "batchtopk": lambda: np.where(pre > w["threshold"], np.maximum(pre, 0), 0),
        "jumprelu": lambda: np.where(pre > w["threshold"], np.maximum(pre, 0), 0),
        "gated": lambda: np.where(
            pre > 0,
            np.maximum(np.exp(w["magnitude"]) * (pre - w["encoder_bias"]) + w["magnitude_bias"], 0),
            0,
        ),
    }
    z = keep["batchtopk" if sae.config.architecture == "matryoshka" else sae.config.architecture]()
    return z @ w["decoder"] + w["decoder_bias"]


def after_a_step(tmp_path: Path, sae: SAE, architecture: str) -> SAE:
    """The child after one step at a rate of next to nothing, with its threshold as it began."""
    begun = beginning(sae, "digest", config(architecture))
    settings = TrainConfig(
        config(architecture), steps=1, batch=32, warmup=0, decay=0, learning_rate=1e-12, objective=Objective(k_aux=0)
    )
    train_sae(settings, rows().numpy().astype(np.float16), tmp_path, parent=begun)
    return SAE.load(tmp_path)


@pytest.mark.parametrize(
    ("architecture", "norms"),
    [
        *((architecture, 2.5) for architecture in ("topk", "relu", "jumprelu", "gated")),
        *((architecture, spread()) for architecture in ("relu", "jumprelu", "gated")),
    ],
)
def test_a_child_begins_as_its_parent(tmp_path: Path, architecture: str, norms: torch.Tensor | float) -> None:
    sae, x = parent(architecture, norms), rows()
    child = after_a_step(tmp_path, sae, architecture)
    expected = plain(sae, x.numpy())
    torch.testing.assert_close(child.weights.decoder.norm(dim=1), torch.ones(M))
    np.testing.assert_allclose(child.decode(child.encode(x)).numpy(), expected, atol=2e-4)


@pytest.mark.parametrize(
    ("old", "new", "norms"),
    [
        # Under one norm the threshold is multiplied by it.
        ("batchtopk", "batchtopk", 2.5),
        ("matryoshka", "matryoshka", 0.3),
        # Under many, each latent of the child has a threshold of its own.
        ("batchtopk", "jumprelu", spread()),
    ],
)
def test_a_threshold_takes_the_norms_in(old: str, new: str, norms: torch.Tensor | float) -> None:
    sae, x = parent(old, norms), rows()
    begun = SAE(config(new), beginning(sae, "digest", config(new)).weights)
    expected = plain(sae, x.numpy())
    assert (expected != sae.weights.decoder_bias.numpy()).any()
    np.testing.assert_allclose(begun.decode(begun.encode(x)).numpy(), expected, atol=1e-5)


def test_a_row_of_zero_keeps_its_place_among_the_k() -> None:
    norms = torch.full((M,), 4.0)
    norms[::3] = 0
    sae, x = parent("topk", norms), rows()
    begun = SAE(sae.config, beginning(sae, "digest", sae.config).weights)
    np.testing.assert_allclose(begun.decode(begun.encode(x)).numpy(), plain(sae, x.numpy()), atol=1e-5)


@pytest.mark.parametrize(("old", "new"), [(a, a) for a in KEEPS_K] + [("topk", "batchtopk")])
def test_a_parent_that_keeps_k_with_many_norms_is_refused(old: str, new: str) -> None:
    norms = torch.ones(M)
    norms[3], norms[7] = 0.25, 4
    with pytest.raises(InputError, match=rf"\(W_dec\) have norms from 0\.25 to 4, and '{new}' .* without k \(relu"):
        beginning(parent(old, norms), "digest", config(new))


@pytest.mark.parametrize("off", [1e-6, 1e-4])
def test_norms_that_are_off_by_rounding_are_one_norm(off: float) -> None:
    sae = parent("topk", 1 + off * torch.linspace(-1, 1, M))
    begun = beginning(sae, "digest", sae.config).weights
    torch.testing.assert_close(begun.encoder, sae.weights.encoder, atol=2 * off * 5, rtol=0)


def test_a_transcoders_child_keeps_both_scales_whatever_its_own_rows(tmp_path: Path) -> None:
    d_out = 4
    read = np.random.default_rng(0).standard_normal((200, D)).astype(np.float16)
    written = np.abs(read[:, :d_out])
    shape = SAEConfig(
        D, M, None, "toy", "mlp.input", "relu", centred=False, target_hookpoint="layers.1.mlp", d_out=d_out
    )
    settings = TrainConfig(
        shape, Objective(k_aux=0), steps=3, batch=50, warmup=0, decay=0, learning_rate=1e-3, dead_after=10**6
    )
    train_sae(settings, CachedRows(read, written), tmp_path / "parent")
    parent = SAE.load(tmp_path / "parent")
    assert parent.target_scale == pytest.approx(np.sqrt(d_out) / np.linalg.norm(written, axis=1).mean(), rel=1e-3)
    begun = beginning(parent, "digest", shape)
    train_sae(settings, CachedRows(read * 2, written / 2), tmp_path / "child", parent=begun)
    child = SAE.load(tmp_path / "child")
    assert (child.scale, child.target_scale) == (parent.scale, parent.target_scale)
