"""Studies whose SAEs read a module's input: transcoders trained from it, checkpoints of it taken in or refused."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from catalog import Catalog
from catalog.errors import InputError
from catalog.study.file import Study
from catalog.study.sae import Sae
from ingest.pipeline import ingest_study
from ingest.sae.architecture import Weights
from ingest.sae.checkpoints.saelens import save_saelens
from ingest.sae.config import SAEConfig
from ingest.sae.model import SAE
from ingest.stored.adopt import check_asked, named
from tests.empty import make_empty
from tests.ingest.test_saes import HEAD
from tests.ingest.tiny import D, texts, write_lines

STUDY = (
    HEAD
    + """
[[sae]]
name = "t"
hookpoint = "{hookpoint}"
target = "{target}"
"""
)
QUICK = "k = 16\nbatch = 128\nsteps = 120\nwidth = 96\nwarmup = 4\ndecay = 20\n"


def ingest(root: Path, model: Path, hookpoint: str, keys: str = QUICK, target: str = "layers.1.mlp") -> Catalog:
    root.mkdir(exist_ok=True)
    write_lines(root / "docs.jsonl", texts(40))
    (root / "study.toml").write_text(STUDY.format(model=model, hookpoint=hookpoint, target=target) + keys)
    catalog = make_empty(root / "catalog")
    ingest_study(catalog, Study.load(root / "study.toml"))
    return catalog


def test_a_transcoder_learns_a_module_from_its_input(tmp_path: Path, llama_folder: Path) -> None:
    # In a Llama the MLP takes what its norm gives: the twin trains on the same rows, read as an output.
    twin = '\n[[sae]]\nname = "twin"\nhookpoint = "layers.1.post_attention_layernorm"\ntarget = "layers.1.mlp"\n'
    with ingest(tmp_path, llama_folder, "layers.1.mlp.input", QUICK + twin + QUICK) as catalog:
        weights = str(catalog.value("SELECT weights FROM saes WHERE sae = 't'"))
        config = SAE.load(catalog.weights / weights).config
        assert (config.hookpoint, config.target_hookpoint) == ("layers.1.mlp.input", "layers.1.mlp")
        measured = "SELECT fve, ce_spliced, ce_ablated FROM evaluations WHERE sae = ? ORDER BY split"
        assert all(fve > 0.3 for fve, *_ in catalog.rows(measured, ["t"]))
        assert catalog.rows(measured, ["t"]) == catalog.rows(measured, ["twin"])
        assert len(catalog.rows("SELECT DISTINCT digest FROM saes")) == 1
        fired = "SELECT feature, position, activation FROM activations WHERE sae = ? ORDER BY ALL"
        assert catalog.rows(fired, ["t"]) == catalog.rows(fired, ["twin"])


def test_a_checkpoint_of_saelens_is_measured_under_the_studys_names(tmp_path: Path, llama_folder: Path) -> None:
    said = {"hookpoint": "layers.1.mlp.input", "target_hookpoint": "layers.1.mlp", "d_out": D, "centred": False}
    config = SAEConfig(d_in=D, width=20, k=None, model_name="tiny", architecture="relu", **said)
    generator = torch.Generator().manual_seed(0)
    encoder, decoder = (torch.randn(20, D, generator=generator) for _ in range(2))
    save_saelens(tmp_path / "sae", SAE(config, Weights(encoder, torch.zeros(20), decoder / 10, torch.zeros(D))))
    path = tmp_path / "sae" / "cfg.json"
    settings = json.loads(path.read_text())
    assert settings["metadata"]["hook_name"] == "blocks.1.mlp.hook_in"
    del settings["metadata"]["saeql"]
    settings["metadata"]["hook_name_out"] = "blocks.1.hook_mlp_out"
    path.write_text(json.dumps(settings))
    keys = f'checkpoint = "{path.parent}"'
    with ingest(tmp_path / "catalog", llama_folder, "layers.1.mlp.input", keys) as catalog:
        loaded = SAE.load(catalog.weights / str(catalog.value("SELECT weights FROM saes"))).config
        assert (loaded.hookpoint, loaded.target_hookpoint) == ("layers.1.mlp.input", "layers.1.mlp")
        assert catalog.value("SELECT count(*) FROM evaluations") == 2


def test_a_checkpoint_of_other_widths_names_both() -> None:
    section = Sae(name="s", hookpoint="layers.1.mlp.input", target="layers.1.mlp.up_proj", checkpoint="folder")
    with pytest.raises(InputError, match=rf"writes rows of width {D}, and layers\.1\.mlp\.up_proj of m gives 24"):
        named(section, some_sae("layers.1"), "m", (D, 24))
    with pytest.raises(InputError, match=rf"reads rows of width {D}, and layers\.1\.mlp\.input of m gives 24"):
        named(section, some_sae("layers.1"), "m", (24, 24))


def some_sae(hookpoint: str) -> SAE:
    config = SAEConfig(d_in=D, width=20, k=4, model_name="tiny", hookpoint=hookpoint)
    return SAE(config, Weights(torch.ones(20, D), torch.zeros(20), torch.ones(20, D), torch.zeros(D)))


@pytest.mark.parametrize(
    ("trained", "asked", "said"),
    [
        ("layers.1.mlp.input", "layers.2.mlp.input", "name the block"),
        ("layers.1.mlp.input", "model.layers.1.mlp", "name the side of the module"),
        ("layers.1.input", "layers.1", "name the block"),
        ("layers.1", "h.1.input", "name the block"),
        ("blocks.1.ln2.hook_normalized", "layers.1.mlp.input", "before its gain"),
        ("layers.1.mlp.input", "h.1.mlp.input", None),
        # What goes into a block is what the block before gave.
        ("layers.1.input", "layers.0", None),
        ("h.1", "layers.2.input", None),
        ("layers.1.mlp.input", "layers.1.post_attention_layernorm", None),
        ("blocks.1.hook_resid_mid", "layers.1.post_attention_layernorm.input", None),
    ],
)
def test_a_checkpoint_of_another_place_is_refused(trained: str, asked: str, said: str | None) -> None:
    section = Sae(name="s", hookpoint=asked, checkpoint="folder")
    with pytest.raises(InputError, match=said) if said else nullcontext():
        check_asked(section, some_sae(trained))
