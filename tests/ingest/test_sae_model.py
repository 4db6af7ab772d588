"""The SAE on disk and its measures, against hand-made files and plain numpy."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from catalog.errors import InputError
from ingest.sae.architecture import Weights
from ingest.sae.config import Objective, SAEConfig
from ingest.sae.evaluate import evaluate
from ingest.sae.model import SAE

CONFIG = SAEConfig(d_in=6, width=20, k=3, model_name="toy", hookpoint="layers.1")


def some_sae(seed: int = 0) -> SAE:
    g = torch.Generator().manual_seed(seed)
    return SAE(
        CONFIG,
        Weights(
            torch.randn(20, 6, generator=g),
            torch.randn(20, generator=g),
            torch.nn.functional.normalize(torch.randn(20, 6, generator=g), dim=1),
            torch.randn(6, generator=g),
        ),
    )


def test_a_saved_sae_loads_with_the_same_bits(tmp_path: Path) -> None:
    sae = some_sae()
    sae.save(tmp_path)
    loaded = SAE.load(tmp_path)
    assert loaded.config == CONFIG
    for name, tensor in sae.weights.named().items():
        assert torch.equal(loaded.weights.named()[name], tensor)


def test_files_have_the_saelens_layout(tmp_path: Path) -> None:
    sae = some_sae()
    sae.save(tmp_path)
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {
        "W_enc": (6, 20), "b_enc": (20,), "W_dec": (20, 6), "b_dec": (6,),
    }  # fmt: skip
    settings = json.loads((tmp_path / "cfg.json").read_text())
    assert (settings["architecture"], settings["d_in"], settings["d_sae"], settings["k"]) == ("topk", 6, 20, 3)
    assert settings["apply_b_dec_to_input"] is True
    assert settings["normalize_activations"] == "none"
    assert settings["rescale_acts_by_decoder_norm"] is False
    assert (settings["metadata"]["model_name"], settings["metadata"]["hook_name"]) == (
        "toy",
        "blocks.1.hook_resid_post",
    )
    # The documented formula on the stored tensors gives what the SAE gives.
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(1))
    pre = torch.relu((x - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"])
    kept = torch.topk(pre, 3)
    z = torch.zeros(9, 20).scatter(1, kept.indices, kept.values)
    torch.testing.assert_close(sae.decode(sae.encode(x)), z @ tensors["W_dec"] + tensors["b_dec"])


def rewrite(folder: Path, changed: dict[str, torch.Tensor | None]) -> None:
    """Replace or drop tensors, as another tool would: without a checksum."""
    path = folder / "sae_weights.safetensors"
    tensors = {**load_file(path), **changed}
    save_file({name: t for name, t in tensors.items() if t is not None}, path)
    settings = json.loads((folder / "cfg.json").read_text())
    del settings["metadata"]["weights_blake2b"]
    (folder / "cfg.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"W_dec": None}, r"lacks the tensors \['W_dec'\]"),
        ({"W_enc": torch.zeros(20, 6)}, r"W_enc .* shape \(20, 6\), but d_in 6 and width 20"),
        ({"b_enc": torch.full((20,), torch.nan)}, "20 of 20 values of b_enc"),
    ],
)
def test_damaged_weights_are_refused(tmp_path: Path, changed: dict[str, torch.Tensor | None], message: str) -> None:
    some_sae().save(tmp_path)
    rewrite(tmp_path, changed)
    with pytest.raises(InputError, match=message):
        SAE.load(tmp_path)


def test_half_precision_weights_load_as_float32(tmp_path: Path) -> None:
    some_sae().save(tmp_path)
    rewrite(tmp_path, {name: t.half() for name, t in load_file(tmp_path / "sae_weights.safetensors").items()})
    assert SAE.load(tmp_path).weights.encoder.dtype == torch.float32


def test_weights_of_another_sae_are_noticed(tmp_path: Path) -> None:
    some_sae(0).save(tmp_path / "a")
    some_sae(1).save(tmp_path / "b")
    (tmp_path / "b" / "sae_weights.safetensors").replace(tmp_path / "a" / "sae_weights.safetensors")
    with pytest.raises(InputError, match="checksums differ"):
        SAE.load(tmp_path / "a")


def test_missing_or_cut_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no SAE in .*cfg\.json"):
        SAE.load(tmp_path)
    some_sae().save(tmp_path)
    weights = tmp_path / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    with pytest.raises(InputError, match="cut short"):
        SAE.load(tmp_path)
    weights.unlink()
    with pytest.raises(InputError, match="No such file"):
        SAE.load(tmp_path)
    (tmp_path / "cfg.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        SAE.load(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("normalize_activations", "expected_average_only_in", "normalize_activations is 'expected_average_only_in'"),
        ("apply_b_dec_to_input", False, "apply_b_dec_to_input is False"),
        ("architecture", "jumprelu", "architecture is 'jumprelu' .* asks for 'topk'"),
        ("k", 4, "k is 4 .* asks for 3"),
        ("input_gain", 2.0, "input_gain = 2.0"),
    ],
)
def test_settings_that_contradict_the_saeql_block_are_refused(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    some_sae().save(tmp_path)
    settings = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps({**settings, key: value}))
    with pytest.raises(InputError, match=message):
        SAE.load(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("k", 21, "k 21 is above the width 20"),
        ("hookpoint", 7, "hookpoint is 7 .* type int"),
        ("centred", "yes", "centred is 'yes' .* type str"),
        ("groups", [2.5], "list of whole numbers"),
        ("scale", -1, "scale is -1"),
        ("tuning", 3, r"unknown \['tuning'\]"),
    ],
)
def test_a_damaged_saeql_block_is_refused(tmp_path: Path, key: str, value: object, message: str) -> None:
    some_sae().save(tmp_path)
    settings = json.loads((tmp_path / "cfg.json").read_text())
    settings["metadata"]["saeql"][key] = value
    (tmp_path / "cfg.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match=message):
        SAE.load(tmp_path)


@pytest.mark.parametrize("scale", [None, 0.1])
def test_the_scale_of_training_is_kept(tmp_path: Path, scale: float | None) -> None:
    SAE(CONFIG, some_sae().weights, scale).save(tmp_path)
    assert SAE.load(tmp_path).scale == scale
    assert SAE.load(tmp_path).to("cpu").scale == scale


def test_a_folder_without_the_saeql_block_loads_as_before(tmp_path: Path) -> None:
    sae = some_sae()
    sae.save(tmp_path)
    settings = json.loads((tmp_path / "cfg.json").read_text())
    del settings["metadata"]["saeql"]
    (tmp_path / "cfg.json").write_text(json.dumps(settings))
    loaded = SAE.load(tmp_path)
    assert loaded.config == CONFIG
    assert torch.equal(loaded.weights.encoder, sae.weights.encoder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 21}, "k 21 is above the width 20"),
        ({"d_in": 0}, "d_in of an SAE is 0"),
        ({"width": 2.5}, "width of an SAE is 2.5"),
        ({"hookpoint": " "}, "hookpoint of an SAE is empty"),
    ],
)
def test_contradictory_settings_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(CONFIG, **change)  # type: ignore[arg-type]


def test_measures_are_those_of_plain_numpy() -> None:
    sae = some_sae()
    # More rows than a chunk, and a mean far from zero.
    rows = (np.random.default_rng(0).standard_normal((9000, 6)) + 30).astype(np.float16)
    x = rows.astype(np.float64)
    w = {name: tensor.double().numpy() for name, tensor in sae.weights.named().items()}
    pre = np.maximum((x - w["decoder_bias"]) @ w["encoder"].T + w["encoder_bias"], 0)
    threshold = np.sort(pre, 1)[:, -3:-2]
    z = np.where(pre >= threshold, pre, 0)
    x_hat = z @ w["decoder"] + w["decoder_bias"]
    result = evaluate(sae, rows)
    error = ((x - x_hat) ** 2).sum()
    assert result.rows == 9000
    assert result.l0 == pytest.approx((z > 0).sum() / 9000)
    assert result.fve == pytest.approx(1 - error / ((x - x.mean(0)) ** 2).sum(), rel=1e-4)
    assert result.mse == pytest.approx(error / x.size, rel=1e-4)
    cosine = (x * x_hat).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(x_hat, axis=1)
    assert result.cosine == pytest.approx(cosine.mean(), rel=1e-4)
    assert result.dead == ((z > 0).sum(0) == 0).sum()
    assert result.dead_share == result.dead / 20


def test_rows_that_cannot_be_measured_are_refused() -> None:
    rows = np.ones((10, 6), np.float16)
    with pytest.raises(InputError, match="no rows to evaluate on"):
        evaluate(some_sae(), rows, subset=np.empty(0, np.int64))
    rows[4, 2] = np.nan
    with pytest.raises(InputError, match="row 4 "):
        evaluate(some_sae(), rows)


def test_an_unknown_penalty_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"^penalty 'l0' is not known; known are: step, tanh$"):
        Objective(penalty="l0")  # type: ignore[arg-type]
