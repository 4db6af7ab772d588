"""Hookpoints that are a module's input, in other libraries' formats: translated where it is sure, else refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from catalog.errors import InputError
from ingest.sae.architecture import Weights
from ingest.sae.checkpoints.dictionary_learning import save_dictionary_learning
from ingest.sae.checkpoints.load import load_checkpoint_folder
from ingest.sae.checkpoints.saelens import save_saelens
from ingest.sae.checkpoints.sparsify import save_sparsify
from ingest.sae.config import SAEConfig
from ingest.sae.layout.hookpoint_names import from_transformer_lens, to_transformer_lens
from ingest.sae.model import SAE

D, M = 4, 10


def made(hookpoint: str, architecture: str = "relu", **given: Any) -> SAE:
    k = 3 if architecture == "topk" else None
    config = SAEConfig(d_in=D, width=M, k=k, model_name="toy", hookpoint=hookpoint, architecture=architecture, **given)
    return SAE(config, Weights(torch.ones(M, D), torch.zeros(M), torch.ones(M, D), torch.zeros(D)))


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    settings = json.loads(path.read_text())
    change(settings)
    path.write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("layers.12", "blocks.12.hook_resid_post"),
        ("layers.12.input", "blocks.12.hook_resid_pre"),
        ("layers.12.mlp.input", "blocks.12.mlp.hook_in"),
    ],
)
def test_sure_names_are_translated_both_ways(tmp_path: Path, ours: str, theirs: str) -> None:
    assert (from_transformer_lens(theirs), to_transformer_lens(ours)) == (ours, theirs)
    save_saelens(tmp_path, made(ours))
    assert json.loads((tmp_path / "cfg.json").read_text())["metadata"]["hook_name"] == theirs
    changed(tmp_path / "cfg.json", lambda settings: settings["metadata"].pop("saeql"))
    assert load_checkpoint_folder(tmp_path).config.hookpoint == ours


@pytest.mark.parametrize("name", ["hook_mlp_in", "hook_resid_mid", "ln2.hook_normalized", "attn.hook_z", "hook_in"])
def test_names_that_are_not_sure_stay_as_they_are(name: str) -> None:
    assert from_transformer_lens(f"blocks.1.{name}") == f"blocks.1.{name}"


@pytest.mark.parametrize(
    ("metadata", "hookpoint"),
    [
        (("blocks.1.attn.hook_z", "model.layers.1.self_attn.o_proj.input"), "model.layers.1.self_attn.o_proj.input"),
        (("blocks.1.hook_mlp_in", "model.layers.1.mlp_norm.output"), "model.layers.1.mlp_norm"),
        (("blocks.1.hook_resid_post", "model.layers.1.output"), "layers.1"),
        ((None, "model.layers.1.mlp.input"), "model.layers.1.mlp.input"),
    ],
)
def test_the_modules_name_beside_it_is_taken_where_it_is_needed(
    tmp_path: Path, metadata: tuple[str | None, str], hookpoint: str
) -> None:
    save_saelens(tmp_path, made("layers.1"))
    given = {"model_name": "toy", "hook_name": metadata[0], "hf_hook_name": metadata[1]}
    changed(tmp_path / "cfg.json", lambda settings: settings.update(metadata=given))
    assert load_checkpoint_folder(tmp_path).config.hookpoint == hookpoint


@pytest.mark.parametrize(("folded", "hookpoint"), [(True, "blocks.1.mlp.hook_in"), (False, "layers.1.mlp.input")])
def test_a_folded_gain_leaves_the_name_as_it_is(tmp_path: Path, folded: bool, hookpoint: str) -> None:
    save_saelens(tmp_path, made("layers.1"))
    loading = {"hook_name": "blocks.1.mlp.hook_in", "model_from_pretrained_kwargs": {"fold_ln": folded}}
    changed(tmp_path / "cfg.json", lambda settings: settings.update(metadata=loading))
    assert load_checkpoint_folder(tmp_path).config.hookpoint == hookpoint


def test_saelens_and_sparsify_refuse_inputs_that_they_have_no_name_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot hold hookpoint 'layers\.1\.self_attn\.o_proj\.input'"):
        save_saelens(tmp_path, made("layers.1.self_attn.o_proj.input"))
    with pytest.raises(InputError, match=r"cannot hold hookpoint 'layers\.1\.mlp\.input': its SAEs reconstruct"):
        save_sparsify(tmp_path, made("layers.1.mlp.input", "topk"))
    assert not list(tmp_path.iterdir())


def test_a_transcoder_of_sparsify_keeps_its_names(tmp_path: Path) -> None:
    given = {"target_hookpoint": "layers.1.mlp", "d_out": D, "centred": False}
    save_sparsify(tmp_path, made("layers.1.mlp.input", "topk", **given))
    config = load_checkpoint_folder(tmp_path).config
    assert (config.hookpoint, config.target_hookpoint) == ("layers.1.mlp.input", "layers.1.mlp")


@pytest.mark.parametrize("hookpoint", ["layers.1.mlp.input", "layers.1.input", "layers.1", "layers.1.mlp"])
def test_dictionary_learning_says_the_side_in_the_buffers_settings(tmp_path: Path, hookpoint: str) -> None:
    save_dictionary_learning(tmp_path, made(hookpoint))
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["buffer"] == ({"io": "in"} if hookpoint.endswith("input") else {})
    assert not settings["trainer"]["submodule_name"].endswith("input")
    assert load_checkpoint_folder(tmp_path).config.hookpoint == hookpoint


def test_dictionary_learning_trained_on_both_sides_is_refused(tmp_path: Path) -> None:
    save_dictionary_learning(tmp_path, made("layers.1.mlp"))
    changed(tmp_path / "config.json", lambda settings: settings.update(buffer={"io": "in_and_out"}))
    with pytest.raises(InputError, match=r"buffer\.io is 'in_and_out' in .*config\.json; known are: in, out"):
        load_checkpoint_folder(tmp_path)
