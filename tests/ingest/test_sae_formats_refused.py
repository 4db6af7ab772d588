"""What a checkpoint leaves unsaid, or holds in a form that would be misread: read where it is sure, else refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from catalog.errors import InputError
from catalog.study.sae import Sae
from ingest.sae.checkpoints.load import load_checkpoint_folder
from ingest.stored.adopt import check_asked
from ingest.stored.parent import FolderDigests
from tests.ingest.test_sae_formats import (
    M,
    dense,
    dictionary_folder,
    flat_folder,
    made,
    naive,
    rows,
    saelens_folder,
    same,
)

BEFORE = {"model_from_pretrained_kwargs": None}
"""Keys of the flat layout as SAELens wrote it before it wrote down how it loads the model."""


@pytest.mark.parametrize("place", ["resid_pre", "resid_post", "mlp_out", "attn_out"])
@pytest.mark.parametrize("changes", [{}, {"model_from_pretrained_kwargs": {"n_devices": 2}}, {"model_name": "mine"}])
def test_a_flat_cfg_that_does_not_say_whether_rows_are_centred_is_refused(
    tmp_path: Path, place: str, changes: dict[str, object]
) -> None:
    flat_folder(tmp_path, **{**BEFORE, "hook_point": f"blocks.7.hook_{place}", **changes})
    said = rf"cfg\.json does not say whether the rows at blocks\.7\.hook_{place} are less their mean.*false for one on"
    with pytest.raises(InputError, match=said):
        load_checkpoint_folder(tmp_path)


@pytest.mark.parametrize("version", ["3.19.1", "2.1.3", None, "unknown"])
def test_a_version_before_the_change_does_not_say_it(tmp_path: Path, version: str | None) -> None:
    flat_folder(tmp_path, **BEFORE, sae_lens_training_version=version)
    with pytest.raises(InputError, match="does not say whether the rows"):
        load_checkpoint_folder(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_from_pretrained_kwargs": {"center_writing_weights": False}},
        {"sae_lens_training_version": "3.19.2"},
        {"sae_lens_training_version": "5.10.0"},
        {"model_name": "google/gemma-2b"},
        {"model_name": "mistral-7b"},
        {"hook_point": "blocks.5.attn.hook_z"},
        {"hook_point": "blocks.5.hook_mlp_in"},
    ],
)
def test_rows_that_cannot_be_centred_are_read_as_they_are(tmp_path: Path, changes: dict[str, object]) -> None:
    t = flat_folder(tmp_path, **{**BEFORE, **changes})
    x = rows()
    same(dense(load_checkpoint_folder(tmp_path), x), *naive("standard", t, x.numpy(), centred=True))


@pytest.mark.parametrize("name", ["fold_value_biases", "refactor_factored_attn_matrices"])
def test_a_model_changed_between_its_heads_is_refused_there_alone(tmp_path: Path, name: str) -> None:
    def at(place: str, changed: bool) -> dict[str, object]:
        return {"model_name": "gpt2", "hook_name": f"blocks.1.{place}", "model_from_pretrained_kwargs": {name: changed}}

    saelens_folder(tmp_path, "standard", metadata=at("attn.hook_z", True))
    with pytest.raises(InputError, match=rf"{name} is True in .*cfg\.json: at blocks\.1\.attn\.hook_z the rows"):
        load_checkpoint_folder(tmp_path)
    for place, changed in (("attn.hook_z", False), ("hook_resid_post", True)):
        saelens_folder(tmp_path, "standard", metadata=at(place, changed))
        load_checkpoint_folder(tmp_path)


@pytest.mark.parametrize("architecture", ["transcoder", "skip_transcoder", "jumprelu_transcoder"])
def test_a_scale_is_refused_for_a_transcoder_of_saelens(tmp_path: Path, architecture: str) -> None:
    saelens_folder(tmp_path, architecture)
    with pytest.raises(InputError, match=r"scale 2\.0 is given for the transcoder in .* its own: leave it out"):
        load_checkpoint_folder(tmp_path, scale=2.0)


def test_a_factor_of_ones_is_dropped_and_any_other_refused(tmp_path: Path) -> None:
    t = flat_folder(tmp_path)
    path, x = tmp_path / "sae_weights.safetensors", rows()
    tensors = load_file(path)
    save_file({**tensors, "scaling_factor": torch.ones(M)}, path)
    same(dense(load_checkpoint_folder(tmp_path), x), *naive("standard", t, x.numpy(), centred=True))
    for value in (1.01, torch.nan):
        save_file({**tensors, "scaling_factor": torch.ones(M).index_fill(0, torch.tensor([3]), value)}, path)
        with pytest.raises(InputError, match=r"scaling_factor, which is not 1 everywhere.*finetuning_scaling_factor"):
            load_checkpoint_folder(tmp_path)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("batchtopk", "'batchtopk' in .* its save_inference_model, which writes it as jumprelu"),
        ("matryoshka_batchtopk", "'matryoshka_batchtopk' in .* its save_inference_model"),
        ("matching_pursuit", "'matching_pursuit' in .* is not known; known are: standard"),
    ],
)
def test_an_architecture_of_training_is_named_before_its_settings(
    tmp_path: Path, architecture: str, message: str
) -> None:
    settings = {"architecture": architecture, "topk_threshold_lr": 0.01, "residual_threshold": 0.1, "k": 3}
    saelens_folder(tmp_path, "topk", **settings)
    with pytest.raises(InputError, match=f"architecture {message}"):
        load_checkpoint_folder(tmp_path)
    flat_folder(tmp_path, **settings)
    with pytest.raises(InputError, match=f"architecture {message}"):
        load_checkpoint_folder(tmp_path)


def ours(folder: Path, **changes: object) -> None:
    """A matryoshka SAE of ours, its block changed."""
    made("matryoshka").save(folder)
    settings = json.loads((folder / "cfg.json").read_text())
    settings["metadata"]["saeql"] |= changes
    (folder / "cfg.json").write_text(json.dumps(settings))


@pytest.mark.parametrize("groups", [[0, 4, M], [-3, 4, M], [4, 4, M], [4, 9]])
def test_nested_dictionaries_have_latents(tmp_path: Path, groups: list[int]) -> None:
    ours(tmp_path, groups=groups)
    with pytest.raises(InputError, match="must ascend from at least 1 to the width 20"):
        load_checkpoint_folder(tmp_path)


@pytest.mark.parametrize("scale", [10**400, 0, -1, True, "2"])
def test_a_scale_that_is_no_positive_float_is_refused(tmp_path: Path, scale: object) -> None:
    ours(tmp_path, scale=scale)
    with pytest.raises(InputError, match=r"scale is .* for metadata\.saeql of .*, but must be a positive number"):
        load_checkpoint_folder(tmp_path)


def test_json_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    saelens_folder(tmp_path, "standard")
    (tmp_path / "cfg.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    with pytest.raises(InputError, match=r"cfg\.json is nested too deeply"):
        load_checkpoint_folder(tmp_path)


ODD: dict[str, tuple[Any, str]] = {
    "meta": (lambda t: t.to("meta"), "a meta tensor"),
    "quantised": (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), r"quantised \(torch\.qint8\)"),
    "sparse": (lambda t: t.to_sparse(), r"not dense \(torch\.sparse_coo\)"),
    "nested": (lambda t: torch.nested.nested_tensor([t, t]), "a nested tensor"),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_not_plain_are_refused(tmp_path: Path, kind: str) -> None:
    change, message = ODD[kind]
    tensors = dictionary_folder(tmp_path, "AutoEncoder")
    torch.save({**tensors, "bias": change(tensors["bias"])}, tmp_path / "ae.pt")
    with pytest.raises(InputError, match=rf"bias in .*ae\.pt is {message}"):
        load_checkpoint_folder(tmp_path)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int16, torch.uint32, torch.int64])
def test_sizes_of_nested_dictionaries_may_be_of_any_whole_type(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"group_sizes": torch.tensor([4, 5, 11]).to(dtype), "k": torch.tensor(3).to(dtype)}
    dictionary_folder(tmp_path, "MatryoshkaBatchTopKSAE", tensors=tensors)
    config = load_checkpoint_folder(tmp_path).config
    assert (config.groups, config.k) == ((4, 9, M), 3)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"group_sizes": torch.ones(M, dtype=torch.bool)}, "needs group_sizes, a list of whole numbers"),
        ({"k": torch.tensor(True)}, r"k in .* is torch\.bool of shape \(\), but must be one whole number"),
    ],
)
def test_truth_values_are_no_sizes(tmp_path: Path, tensors: dict[str, torch.Tensor], message: str) -> None:
    dictionary_folder(tmp_path, "MatryoshkaBatchTopKSAE", tensors=tensors)
    with pytest.raises(InputError, match=message):
        load_checkpoint_folder(tmp_path)


def test_groups_and_a_skip_path_beside_a_checkpoint_are_checked(tmp_path: Path) -> None:
    said: dict[str, Any] = {"name": "a", "hookpoint": "layers.1", "checkpoint": str(tmp_path)}
    nested = made("matryoshka")
    check_asked(Sae(**said, architecture="matryoshka", groups=(4, 9, M)), nested)
    check_asked(Sae(**said), nested)
    with pytest.raises(InputError, match=r"has groups \(4, 9, 20\), and the study says \(5, 20\)"):
        check_asked(Sae(**said, architecture="matryoshka", groups=(5, M)), nested)
    said |= {"target": "layers.2.mlp", "skip": True}
    check_asked(Sae(**said), made("relu-skip-transcoder"))
    with pytest.raises(InputError, match="has no skip path: leave skip out"):
        check_asked(Sae(**said), made("relu-transcoder"))


def test_digests_take_files_alone(tmp_path: Path) -> None:
    (tmp_path / "cfg.json").write_text("1")
    before = FolderDigests().of(tmp_path)
    (tmp_path / "notes.json").mkdir()
    (tmp_path / "old.safetensors").symlink_to(tmp_path / "gone")
    assert FolderDigests().of(tmp_path) == before


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_path: Path) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("ingest.stored.parent.file_digest", failing)
    (tmp_path / "cfg.json").write_text("1")
    with pytest.raises(InputError, match=r"cfg\.json cannot be read \(Input/output error\): it counts as part of"):
        FolderDigests().of(tmp_path)
