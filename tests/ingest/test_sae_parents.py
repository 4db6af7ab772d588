"""What a child has from its parent, by name or from its folder, and how little of the parent is read for it."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from catalog.errors import InputError
from catalog.study.sae import Sae
from ingest.dictionaries.configure import shape
from ingest.sae.architecture import Weights
from ingest.sae.checkpoints.saelens import save_saelens
from ingest.sae.config import Objective, SAEConfig
from ingest.sae.model import SAE
from ingest.stored import parent
from ingest.stored.parent import FolderDigests
from tests.ingest.test_saes import QUICK, ingest, rows, section
from tests.ingest.tiny import D

ALONE = {"harvest": [], "evaluate": []}
"""Keys of an SAE that is neither harvested nor measured."""
STILL = QUICK.replace("width = 48\n", "")


def test_a_jumprelu_child_keeps_penalty_and_bandwidth(
    tmp_path: Path, neox_folder: Path, trained: dict[str, Objective]
) -> None:
    own = {"architecture": "jumprelu", "penalty": "tanh", "bandwidth": 0.5}
    sections = section("general", **own, **ALONE) + QUICK
    for name, keys in {
        "c": {"parent": "general"},
        "g": {"parent": "c"},
        "o": {"parent": "c", "penalty": "step"},
    }.items():
        sections += section(name, **keys, **ALONE) + STILL
    sections += section("relu", parent="general", architecture="relu", **ALONE) + STILL
    ingest(tmp_path, neox_folder, sections)
    said = {name: (objective.penalty, objective.bandwidth) for name, objective in trained.items()}
    assert said == {
        "general": ("tanh", 0.5),
        "c": ("tanh", 0.5),
        "g": ("tanh", 0.5),
        "o": ("step", 0.5),
        "relu": ("step", 0.05),
    }
    assert ingest(tmp_path, neox_folder, sections).trained == []


def saelens_jumprelu(folder: Path, **settings: object) -> Path:
    """A checkpoint in the midst of a training with SAELens, which keeps the training's settings."""
    g = torch.Generator().manual_seed(0)
    decoder = torch.nn.functional.normalize(torch.randn(48, D, generator=g))
    config = SAEConfig(D, 48, None, "tiny", "layers.1", architecture="jumprelu")
    weights = Weights(decoder.clone(), torch.zeros(48), decoder, torch.zeros(D), threshold=torch.full((48,), 0.1))
    save_saelens(folder, SAE(config, weights))
    said = json.loads((folder / "cfg.json").read_text())
    said["metadata"].pop("saeql")
    (folder / "cfg.json").write_text(json.dumps({**said, **settings}))
    return folder


@pytest.mark.parametrize(("normalised", "bandwidth"), [("none", 0.05), ("expected_average_only_in", 0.5)])
def test_a_folder_of_saelens_says_how_its_sae_was_trained(
    tmp_path: Path, neox_folder: Path, trained: dict[str, Objective], normalised: str, bandwidth: float
) -> None:
    settings = {"jumprelu_sparsity_loss_mode": "tanh", "jumprelu_bandwidth": 0.5, "normalize_activations": normalised}
    folder = saelens_jumprelu(tmp_path / "theirs", **settings)
    scale = {} if normalised == "none" else {"scale": 1.5}
    sections = section("c", parent=str(folder), **scale, **ALONE) + STILL
    sections += section("loaded", checkpoint=str(folder), **scale, **ALONE)
    sections += section("d", parent="loaded", **ALONE) + STILL
    ingest(tmp_path / "catalog", neox_folder, sections)
    for child in ("c", "d"):
        assert (trained[child].penalty, trained[child].bandwidth) == ("tanh", bandwidth)
    shutil.rmtree(folder)
    assert ingest(tmp_path / "catalog", neox_folder, sections).trained == []


@pytest.fixture
def general(tmp_path: Path, neox_folder: Path) -> Path:
    """The folder of a trained topk SAE."""
    ingest(tmp_path / "a", neox_folder, section("s", k=4, **ALONE) + QUICK)
    return Path(shutil.copytree(next((tmp_path / "a" / "weights").iterdir()), tmp_path / "general"))


def test_a_child_stays_when_its_parents_folder_is_gone(tmp_path: Path, neox_folder: Path, general: Path) -> None:
    child = section("t", parent=str(general), **ALONE) + STILL
    grandchild = section("g", parent="t", **ALONE) + STILL
    assert ingest(tmp_path / "b", neox_folder, child + grandchild).trained == ["t", "g"]
    shutil.rmtree(general)
    assert ingest(tmp_path / "b", neox_folder, child + grandchild).trained == []
    # Another key would make it another SAE, for which the folder is needed.
    with pytest.raises(InputError, match=f"{general} is not a directory"):
        ingest(tmp_path / "b", neox_folder, child.replace("steps = 40", "steps = 41"))


def test_runs_of_one_parent_read_its_folder_once(
    tmp_path: Path, neox_folder: Path, general: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = '\n[[sweep]]\nname = "t"\nsaes = ["t"]\nsetting = "tilt"\nvalues = [0, 1, 2]\n'
    sections = section("t", parent=str(general), template=True, **ALONE) + STILL + sweep
    hashed: list[Path] = []
    loads: list[str] = []
    digest, load = parent.file_digest, SAE.load
    monkeypatch.setattr(parent, "file_digest", lambda path: (hashed.append(path), digest(path))[1])
    monkeypatch.setattr(SAE, "load", lambda folder, *a, **k: (loads.append(str(folder)), load(folder, *a, **k))[1])
    assert len(ingest(tmp_path / "b", neox_folder, sections).trained) == 3
    assert len(hashed) == len(set(hashed))
    assert loads.count(str(general)) == 1
    hashed.clear()
    loads.clear()
    assert ingest(tmp_path / "b", neox_folder, sections).trained == []
    assert len(hashed) == len(set(hashed))
    assert loads.count(str(general)) == 0


def test_a_digest_changes_with_a_file_that_is_as_long_as_before(tmp_path: Path) -> None:
    digests = FolderDigests()
    (tmp_path / "cfg.json").write_text("1")
    before = digests.of(tmp_path)
    assert digests.of(tmp_path) == before
    (tmp_path / "other").write_text("2")
    (tmp_path / "other").replace(tmp_path / "cfg.json")
    assert digests.of(tmp_path) == FolderDigests().of(tmp_path) != before


@pytest.mark.parametrize("deep", [False, True])
def test_a_key_that_the_folders_architecture_does_not_read_is_refused_before_any_training(
    tmp_path: Path, neox_folder: Path, general: Path, deep: bool
) -> None:
    keys = {"sparsity": 2.0, **ALONE}
    if deep:
        child = section("t", parent=str(general), **ALONE) + STILL + section("g", parent="t", **keys) + STILL
    else:
        child = section("g", parent=str(general), **keys) + STILL
    with pytest.raises(InputError, match=rf"SAE 'g': sparsity is not read by architecture 'topk', .* in {general}"):
        ingest(tmp_path / "b", neox_folder, section("first", k=4, **ALONE) + QUICK + child)
    assert rows(tmp_path / "b", "FROM saes") == []


def test_a_shape_refuses_what_does_not_go_with_its_parent() -> None:
    parent = SAE(SAEConfig(D, 48, 4, "tiny", "layers.1"), Weights(*(torch.zeros(1) for _ in range(4))))
    with pytest.raises(InputError, match="'c': bandwidth is not read by architecture 'topk', only by jumprelu"):
        shape(Sae(name="c", parent="general", bandwidth=0.5), D, D, "tiny", parent)
    with pytest.raises(InputError, match="'c' asks for 50 latents, and its parent has 48: leave width out"):
        shape(Sae(name="c", parent="./general", width=50), D, D, "tiny", parent)
