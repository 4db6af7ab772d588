"""SAEs that a study takes from a folder on disk: what of the folder decides them, and what they do without it."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from catalog.errors import InputError, StudyError
from ingest.sae.architecture import Weights
from ingest.sae.checkpoints.saelens import save_saelens
from ingest.sae.checkpoints.sparsify import save_sparsify
from ingest.sae.config import SAEConfig
from ingest.sae.model import SAE
from tests.ingest.test_saes import QUICK, ingest, loaded, rows, section
from tests.ingest.tiny import D

ALONE = {"harvest": [], "evaluate": []}
"""Keys of an SAE that is neither harvested nor measured."""
STILL = QUICK.replace("width = 48\n", "")


def some_sae(seed: int) -> SAE:
    g = torch.Generator().manual_seed(seed)
    decoder = torch.nn.functional.normalize(torch.randn(48, D, generator=g))
    weights = Weights(torch.randn(48, D, generator=g), torch.zeros(48), decoder, torch.zeros(D))
    return SAE(SAEConfig(D, 48, 4, "tiny", "layers.1"), weights)


def test_new_weights_in_a_runs_subfolder_are_loaded_and_trained_from_anew(tmp_path: Path, neox_folder: Path) -> None:
    run, root = tmp_path / "run", tmp_path / "catalog"
    sections = section("s", checkpoint=str(run), **ALONE) + section("child", parent=str(run), **ALONE) + STILL
    save_sparsify(run, some_sae(0))
    assert ingest(root, neox_folder, sections).trained == ["s", "child"]
    (run / "layers.1" / "README.md").write_text("of no importance")
    assert ingest(root, neox_folder, sections).trained == []
    shutil.rmtree(run)
    save_sparsify(run, some_sae(1))
    assert ingest(root, neox_folder, sections).trained == ["s", "child"]
    assert torch.equal(loaded(root, "s").weights.encoder, some_sae(1).weights.encoder)


def test_an_sae_stays_when_the_folder_that_it_came_from_is_gone(tmp_path: Path, neox_folder: Path) -> None:
    folder, root = tmp_path / "sae", tmp_path / "catalog"
    save_sparsify(folder, some_sae(0))
    ingest(root, neox_folder, section("s", checkpoint=str(folder), **ALONE))
    folder.rename(tmp_path / "moved")
    assert ingest(root, neox_folder, section("s", checkpoint=str(folder), **ALONE)).trained == []
    # Another key would make it another SAE, for which the folder is needed.
    with pytest.raises(InputError, match=f"the checkpoint {folder} is not a directory"):
        ingest(root, neox_folder, section("s", checkpoint=str(folder), k=4, **ALONE))


@pytest.mark.parametrize("key", ["checkpoint", "parent"])
def test_a_relative_folder_starts_at_the_study(
    tmp_path: Path, neox_folder: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_sparsify(tmp_path / "catalog" / "my sae", some_sae(0))
    monkeypatch.chdir(tmp_path)
    sections = section("s", **{key: "./my sae"}, **ALONE) + (STILL if key == "parent" else "")
    assert ingest(tmp_path / "catalog", neox_folder, sections).trained == ["s"]


def test_a_factor_that_a_checkpoint_does_not_hold_is_a_key_of_the_study(tmp_path: Path, neox_folder: Path) -> None:
    folder, root = tmp_path / "sae", tmp_path / "catalog"
    save_saelens(folder, some_sae(0))
    settings = json.loads((folder / "cfg.json").read_text())
    settings["metadata"].pop("saeql")
    settings["normalize_activations"] = "expected_average_only_in"
    (folder / "cfg.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="Give it as scale="):
        ingest(root, neox_folder, section("s", checkpoint=str(folder), **ALONE))
    assert ingest(root, neox_folder, section("s", checkpoint=str(folder), scale=1.5, **ALONE)).trained == ["s"]
    x = torch.randn(20, D, generator=torch.Generator().manual_seed(1))
    inner, outer = some_sae(0), loaded(root, "s")
    torch.testing.assert_close(outer.decode(outer.encode(x)), inner.decode(inner.encode(1.5 * x)) / 1.5)
    assert ingest(root, neox_folder, section("s", checkpoint=str(folder), scale=1.5, **ALONE)).trained == []
    child = section("c", parent=str(folder), scale=2.0, **ALONE) + STILL
    assert ingest(root, neox_folder, child).trained == ["c"]
    with pytest.raises(StudyError, match="belongs to a checkpoint on disk"):
        ingest(root, neox_folder, section("s", scale=1.5) + QUICK)


def test_an_sae_that_diverges_does_not_cost_the_others(tmp_path: Path, neox_folder: Path) -> None:
    bad = section("bad", k=4, lr=1e30, **ALONE) + QUICK.replace("warmup = 4", "warmup = 0")
    good = section("good", k=4, **ALONE) + QUICK
    with pytest.raises(InputError, match=r"the loss became .* there is no checkpoint yet"):
        ingest(tmp_path, neox_folder, bad + good)
    assert rows(tmp_path, "SELECT sae, steps FROM saes") == [("good", 40)]
    assert ingest(tmp_path, neox_folder, good).trained == []
