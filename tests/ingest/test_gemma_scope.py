"""What the path of a Gemma Scope file tells, and which rows of Gemma 2 its SAEs are for."""

from dataclasses import replace
from pathlib import Path

import pytest

from catalog.errors import InputError
from catalog.study.sae import Sae
from ingest.sae.checkpoints.load import load_checkpoint_folder
from ingest.sae.model import SAE
from ingest.stored.adopt import check_asked
from tests.ingest.test_sae_formats import gemma_folder

BEHIND = "layers.3.post_feedforward_layernorm"


@pytest.fixture
def mlp(tmp_path: Path) -> SAE:
    folder = tmp_path / "gemma-scope-2b-pt-mlp" / "layer_3" / "width_16k" / "average_l0_82"
    gemma_folder(folder)
    return load_checkpoint_folder(folder)


def asked(hookpoint: str) -> Sae:
    return Sae(name="a", hookpoint=hookpoint, checkpoint="/some/folder")


def test_rows_behind_the_second_norm_are_not_the_mlps_output(mlp: SAE) -> None:
    assert mlp.config.hookpoint == BEHIND
    for name in (BEHIND, f"model.{BEHIND}"):
        check_asked(asked(name), mlp)
    said = rf"trained on {BEHIND}, and the study reads layers\.3\.mlp: .* a norm behind the MLP\. Name {BEHIND}"
    with pytest.raises(InputError, match=said):
        check_asked(asked("layers.3.mlp"), mlp)


@pytest.mark.parametrize(
    ("model", "refused"), [("google/gemma-2-2b", True), ("gemma-3-1b-it", True), ("gemma-2b", False), ("gpt2", False)]
)
def test_an_mlps_output_by_its_name_in_transformer_lens(mlp: SAE, model: str, refused: bool) -> None:
    config = replace(mlp.config, model_name=model, hookpoint="blocks.3.hook_mlp_out")
    theirs = SAE(config, mlp.weights)
    check_asked(asked(BEHIND), theirs)
    if refused:
        with pytest.raises(InputError, match=rf"Name {BEHIND}"):
            check_asked(asked("layers.3.mlp"), theirs)
    else:
        check_asked(asked("layers.3.mlp"), theirs)


def test_what_a_transcoder_writes_is_not_the_mlps_output(mlp: SAE) -> None:
    # As after the gain was folded into the encoder.
    config = replace(mlp.config, hookpoint="layers.3.mlp.input", target_hookpoint=BEHIND, d_out=mlp.config.d_in)
    section = Sae(name="a", hookpoint="layers.3.mlp.input", target="layers.3.mlp", checkpoint="/some/folder")
    with pytest.raises(InputError, match=rf"the study writes layers\.3\.mlp: .*Name {BEHIND}"):
        check_asked(section, SAE(config, mlp.weights))
    check_asked(section.model_copy(update={"target": BEHIND}), SAE(config, mlp.weights))


@pytest.mark.parametrize(
    ("place", "hookpoint"),
    [
        ("embedding/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82", "layers.12"),
        ("layer_3/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82", "layers.12"),
        ("gemma-scope-2b-pt-res/embedding/layer_12", "layers.12"),
        ("embedding/mine", "unknown"),
        ("embedding/layer_3/width_16k/average_l0_82", "layer_3"),
        ("gemma-scope-2b-pt-res/embeddings/mine", "unknown"),
        ("my-embedding/width_4k", "unknown"),
        ("embedding/gemma-scope-2b-pt-mlp/mine", "unknown"),
    ],
)
def test_a_folder_called_embedding_may_be_anyones(tmp_path: Path, place: str, hookpoint: str) -> None:
    gemma_folder(tmp_path / place)
    assert load_checkpoint_folder(tmp_path / place).config.hookpoint == hookpoint


@pytest.mark.parametrize(
    "place",
    [
        "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6",
        "models--google--gemma-scope-2b-pt-res/snapshots/0a1b/embedding/width_4k/average_l0_6",
        "mine/embedding/width_4k/average_l0_6",
        "embedding/width_4k",
        "embedding",
    ],
)
def test_the_layouts_folder_for_embeddings_is_found(tmp_path: Path, place: str) -> None:
    gemma_folder(tmp_path / place)
    with pytest.raises(InputError, match="is an SAE on embeddings"):
        load_checkpoint_folder(tmp_path / place)
    assert load_checkpoint_folder(tmp_path / place, scale=1).config.hookpoint == "embedding"


def test_a_link_in_a_folder_of_another_layer_leads_to_the_releases_own(tmp_path: Path) -> None:
    release = tmp_path / "gemma-scope-9b-pt-att" / "layer_12" / "width_16k"
    gemma_folder(release)
    (tmp_path / "layer_3").mkdir()
    (tmp_path / "layer_3" / "mine").symlink_to(release)
    config = load_checkpoint_folder(tmp_path / "layer_3" / "mine").config
    assert (config.model_name, config.hookpoint) == ("google/gemma-2-9b", "layers.12.self_attn.o_proj.input")
