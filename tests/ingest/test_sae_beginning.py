"""A child of a checkpoint on disk begins with what its parent has not, and can change what its parent has."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ingest.dictionaries.configure import beginning
from ingest.sae.architecture import Weights
from ingest.sae.checkpoints.dictionary_learning import save_dictionary_learning
from ingest.sae.checkpoints.load import load_checkpoint_folder
from ingest.sae.config import Objective, SAEConfig
from ingest.sae.model import SAE
from ingest.sae.training.initial_weights import FIRST_THRESHOLD
from ingest.sae.training.loop import train_sae
from ingest.sae.training.rows import CachedRows
from ingest.sae.training.settings import TrainConfig

D, M, N = 6, 20, 200


def parent(transcoder: bool, scale: float | None, target_scale: float | None) -> SAE:
    """A relu SAE with unit decoder rows."""
    g = torch.Generator().manual_seed(0)
    d_out = 4 if transcoder else D
    decoder = torch.nn.functional.normalize(torch.randn(M, d_out, generator=g))
    place = {"target_hookpoint": "layers.1.mlp", "d_out": d_out, "centred": False} if transcoder else {}
    config = SAEConfig(D, M, None, "toy", "layers.1.mlp.input", "relu", **place)  # type: ignore[arg-type]
    weights = Weights(torch.randn(M, D, generator=g), torch.zeros(M), decoder, torch.zeros(d_out))
    return SAE(config, weights, scale, target_scale)


def trained(folder: Path, sae: SAE, config: SAEConfig, x: np.ndarray) -> SAE:
    """The child after one step at a rate of next to nothing."""
    settings = TrainConfig(config, Objective(k_aux=0), steps=1, batch=50, warmup=0, decay=0, learning_rate=1e-12)
    rows = CachedRows(x) if config.d_out is None else CachedRows(x, 3 * x[:, : config.d_out])
    train_sae(settings, rows, folder, parent=beginning(sae, "digest", config))
    return SAE.load(folder)


@pytest.mark.parametrize("size", [0.01, 30.0])
@pytest.mark.parametrize(
    ("transcoder", "scale", "target_scale"),
    [(False, None, None), (False, 2.5, None), (True, None, None), (True, 2.5, 0.2), (True, None, 0.2)],
)
def test_a_first_threshold_is_one_of_scaled_activations(
    tmp_path: Path, transcoder: bool, scale: float | None, target_scale: float | None, size: float
) -> None:
    sae = parent(transcoder, scale, target_scale)
    x = (size * np.random.default_rng(0).standard_normal((N, D))).astype(np.float16)
    child = trained(tmp_path, sae, replace(sae.config, architecture="jumprelu"), x)
    # What is left is for rows as they are: activations count in units of the target.
    of_activations = child.target_scale if transcoder else child.scale
    assert child.weights.threshold is not None
    assert of_activations is not None
    expected = torch.full((M,), FIRST_THRESHOLD)
    torch.testing.assert_close(child.weights.threshold * of_activations, expected, rtol=1e-4, atol=0)


def test_parameters_in_a_state_dict_can_be_trained(tmp_path: Path) -> None:
    sae = parent(False, None, None)
    save_dictionary_learning(tmp_path / "theirs", sae)
    tensors = torch.load(tmp_path / "theirs" / "ae.pt", weights_only=True)
    torch.save({name: torch.nn.Parameter(tensor) for name, tensor in tensors.items()}, tmp_path / "theirs" / "ae.pt")
    loaded = load_checkpoint_folder(tmp_path / "theirs")
    assert not any(tensor.requires_grad for tensor in loaded.weights.named().values())
    x = np.random.default_rng(0).standard_normal((N, D)).astype(np.float16)
    child = trained(tmp_path / "child", loaded, loaded.config, x)
    torch.testing.assert_close(child.weights.encoder, sae.weights.encoder)
