"""What a JumpReLU was trained by stays with its folder, also outside of a catalog."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catalog.errors import InputError
from ingest.sae.checkpoints.load import load_checkpoint_folder
from ingest.sae.checkpoints.saelens import save_saelens
from ingest.sae.config import Objective, SAEConfig
from ingest.sae.training.loop import train_sae
from ingest.sae.training.settings import TrainConfig
from tests.ingest.test_saes import QUICK, ingest, section
from tests.ingest.tiny import D

BY: dict[str, Any] = {"penalty": "tanh", "bandwidth": 0.5}
ALONE = {"harvest": [], "evaluate": []}
STILL = QUICK.replace("width = 48\n", "")


def folder(place: Path, architecture: str = "jumprelu") -> Path:
    """An SAE trained by BY."""
    config = SAEConfig(D, 48, None, "tiny", "layers.1", architecture=architecture)
    x = np.random.default_rng(0).standard_normal((200, D)).astype(np.float16)
    train_sae(TrainConfig(config, Objective(k_aux=0, **BY), steps=2, batch=50, warmup=1, decay=1), x, place)
    return place


def test_it_is_kept_when_an_sae_is_saved_again(tmp_path: Path) -> None:
    loaded = load_checkpoint_folder(folder(tmp_path / "a")).to("cpu")
    save_saelens(tmp_path / "b", loaded)
    assert load_checkpoint_folder(tmp_path / "b").trained == BY
    assert load_checkpoint_folder(folder(tmp_path / "c", "relu")).trained == {}


@pytest.mark.parametrize(("key", "value"), [("penalty", "l1"), ("penalty", 3), ("bandwidth", -1.0), ("bandwidth", "x")])
def test_what_no_training_has_is_refused(tmp_path: Path, key: str, value: object) -> None:
    path = folder(tmp_path) / "cfg.json"
    settings = json.loads(path.read_text())
    settings["metadata"]["saeql"][key] = value
    path.write_text(json.dumps(settings))
    with pytest.raises(InputError, match=rf"{key} .*{value}.*"):
        load_checkpoint_folder(tmp_path)


def test_a_child_of_a_folder_goes_on_as_its_parent(
    tmp_path: Path, neox_folder: Path, trained: dict[str, Objective]
) -> None:
    parent = folder(tmp_path / "parent")
    sections = section("c", parent=str(parent), **ALONE) + STILL
    sections += section("own", parent=str(parent), penalty="step", **ALONE) + STILL
    sections += section("loaded", checkpoint=str(parent), **ALONE)
    sections += section("d", parent="loaded", **ALONE) + STILL
    ingest(tmp_path / "catalog", neox_folder, sections)
    said = {name: (objective.penalty, objective.bandwidth) for name, objective in trained.items()}
    assert said == {"c": ("tanh", 0.5), "own": ("step", 0.5), "d": ("tanh", 0.5)}
    shutil.rmtree(parent)
    assert ingest(tmp_path / "catalog", neox_folder, sections).trained == []
