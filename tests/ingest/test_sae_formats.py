"""Checkpoints in and out: round trips, files made by hand against plain numpy, and files that must be refused."""

import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from catalog.errors import InputError
from ingest.sae.architecture import Weights
from ingest.sae.checkpoints.dictionary_learning import save_dictionary_learning
from ingest.sae.checkpoints.load import load_checkpoint_folder
from ingest.sae.checkpoints.saelens import save_saelens
from ingest.sae.checkpoints.sparsify import save_sparsify
from ingest.sae.config import SAEConfig
from ingest.sae.layout.fold import with_centring
from ingest.sae.model import SAE

D, M, N = 6, 20, 30
Arrays = dict[str, np.ndarray]
CASES = {
    "relu": {"architecture": "relu"},
    "relu-uncentred": {"architecture": "relu", "centred": False},
    "topk": {"architecture": "topk", "k": 3},
    "topk-uncentred": {"architecture": "topk", "k": 3, "centred": False},
    "batchtopk": {"architecture": "batchtopk", "k": 3},
    "batchtopk-unset": {"architecture": "batchtopk", "k": 3},
    "jumprelu": {"architecture": "jumprelu"},
    "jumprelu-uncentred": {"architecture": "jumprelu", "centred": False},
    "gated": {"architecture": "gated"},
    "gated-uncentred": {"architecture": "gated", "centred": False},
    "matryoshka": {"architecture": "matryoshka", "k": 3, "groups": (4, 9, M)},
    "relu-transcoder": {"architecture": "relu", "d_out": 5},
    "relu-skip-transcoder": {"architecture": "relu", "d_out": 5},
    "jumprelu-transcoder": {"architecture": "jumprelu", "d_out": 5},
    "batchtopk-skip-transcoder": {"architecture": "batchtopk", "k": 3, "d_out": 5},
    "topk-transcoder": {"architecture": "topk", "k": 3, "d_out": D},
    "topk-skip-transcoder": {"architecture": "topk", "k": 3, "d_out": D},
    "gated-transcoder": {"architecture": "gated", "d_out": D},
}
SAVE: dict[str, Callable[[Path, SAE], None]] = {
    "ours": lambda folder, sae: sae.save(folder),
    "saelens": save_saelens,
    "sparsify": save_sparsify,
    "dictionary_learning": save_dictionary_learning,
}
HOLDS = {
    "ours": list(CASES),
    "saelens": [c for c in CASES if c not in ("topk-transcoder", "topk-skip-transcoder", "gated-transcoder")],
    "sparsify": [c for c in CASES if c.startswith("topk")],
    "dictionary_learning": [c for c in CASES if "transcoder" not in c],
}


def made(case: str, seed: int = 0) -> SAE:
    """An SAE with random weights, whose decoder rows do not have norm 1."""
    given = dict(CASES[case])
    if "d_out" in given:
        given |= {"target_hookpoint": "layers.2.mlp", "centred": False}
    config = SAEConfig(**{"d_in": D, "width": M, "k": None, "model_name": "toy", "hookpoint": "layers.1", **given})
    g = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    weights = Weights(random(M, D), random(M), random(M, config.out), random(config.out))
    if config.architecture == "jumprelu":
        weights = replace(weights, threshold=random(M).abs())
    if config.architecture in ("batchtopk", "matryoshka"):
        weights = replace(weights, threshold=torch.tensor(-1.0 if case.endswith("unset") else 0.7))
    if config.architecture == "gated":
        weights = replace(weights, magnitude=random(M) / 2, magnitude_bias=random(M))
    if "skip" in case:
        weights = replace(weights, skip=random(config.out, D))
    return SAE(config, weights, 0.25)


def rows(seed: int = 1) -> torch.Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(seed))


def dense(sae: SAE, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(latents [n, M], reconstruction)."""
    code = sae.encode(x)
    z = torch.zeros(len(x), sae.config.width)
    z[code.rows(), code.indices] = code.values
    return z.numpy(), sae.decode(code, x).numpy()


def keep_top(pre: np.ndarray, k: int) -> np.ndarray:
    positive = np.maximum(pre, 0)
    return np.where(positive >= np.sort(positive, 1)[:, -k:][:, :1], positive, 0)


def same(found: tuple[np.ndarray, np.ndarray], latents: np.ndarray, reconstruction: np.ndarray) -> None:
    np.testing.assert_allclose(found[0], latents, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(found[1], reconstruction, atol=1e-5, rtol=1e-5)
    assert (found[0] > 0).any()


@pytest.mark.parametrize("case", CASES)
def test_our_own_folder_gives_back_the_same_bits(tmp_path: Path, case: str) -> None:
    sae = made(case)
    sae.save(tmp_path)
    for loaded in (SAE.load(tmp_path), load_checkpoint_folder(tmp_path)):
        assert (loaded.config, loaded.scale) == (sae.config, 0.25)
        found, given = loaded.weights.named(), sae.weights.named()
        assert found.keys() == given.keys()
        for name, tensor in given.items():
            assert found[name].shape == tensor.shape
            assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize(("form", "case"), [(form, case) for form, cases in HOLDS.items() for case in cases])
def test_a_round_trip_keeps_what_an_sae_computes(tmp_path: Path, form: str, case: str) -> None:
    sae, x = made(case), rows()
    SAVE[form](tmp_path / "out", sae)
    loaded = load_checkpoint_folder(tmp_path / "out")
    same(dense(loaded, x), *dense(sae, x))
    assert loaded.config.model_name == "toy"
    if form != "sparsify" or "transcoder" not in case:
        assert loaded.config.hookpoint == "layers.1"
    if form != "ours":
        assert loaded.config.k == sae.config.k
        assert loaded.config.groups == sae.config.groups


@pytest.mark.parametrize(
    ("form", "case"), [(form, case) for form, cases in HOLDS.items() for case in CASES if case not in cases]
)
def test_what_a_format_cannot_hold_is_refused_and_not_written(tmp_path: Path, form: str, case: str) -> None:
    name = {"saelens": "SAELens"}.get(form, form)
    with pytest.raises(InputError, match=f"the {name} format cannot hold"):
        SAVE[form](tmp_path / "out", made(case))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_hookpoint": "m", "d_out": 4, "centred": False}, "cannot hold d_out 4: its decoder is as wide"),
        ({"hookpoint": "a/b"}, "cannot hold hookpoint 'a/b'"),
    ],
)
def test_sparsify_refuses_other_widths_and_slashes(tmp_path: Path, change: dict[str, object], message: str) -> None:
    sae = made("topk")
    config = replace(sae.config, **change)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        save_sparsify(tmp_path, SAE(config, sae.weights))


def test_a_plain_sae_with_a_skip_path_is_ours_alone(tmp_path: Path) -> None:
    sae = made("topk")
    sae = SAE(sae.config, replace(sae.weights, skip=torch.ones(D, D)))
    for form in ("saelens", "sparsify", "dictionary_learning"):
        with pytest.raises(InputError, match="cannot hold"):
            SAVE[form](tmp_path, sae)
    sae.save(tmp_path)
    assert torch.equal(SAE.load(tmp_path).weights.skip, torch.ones(D, D))


@pytest.mark.parametrize("case", ["relu", "gated"])
def test_centring_moves_into_the_bias(case: str) -> None:
    sae, x = made(case), rows()
    moved = SAE(replace(sae.config, centred=False), with_centring(sae.weights, True, False))
    same(dense(moved, x), *dense(sae, x))
    back = with_centring(moved.weights, False, True)
    torch.testing.assert_close(back.encoder_bias, sae.weights.encoder_bias)


def arrays(seed: int = 2) -> Arrays:
    """Tensors in SAELens' orientation."""
    rng = np.random.default_rng(seed)
    shapes = {
        "W_enc": (D, M), "W_dec": (M, D), "b_enc": (M,), "b_dec": (D,), "b_gate": (M,), "r_mag": (M,), "b_mag": (M,),
        "W_skip": (D, D),
    }  # fmt: skip
    found = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return {**found, "threshold": np.abs(rng.standard_normal(M)).astype(np.float32)}


SAELENS = {
    "standard": ("W_enc", "W_dec", "b_enc", "b_dec"),
    "topk": ("W_enc", "W_dec", "b_enc", "b_dec"),
    "jumprelu": ("W_enc", "W_dec", "b_enc", "b_dec", "threshold"),
    "gated": ("W_enc", "W_dec", "b_gate", "r_mag", "b_mag", "b_dec"),
    "transcoder": ("W_enc", "W_dec", "b_enc", "b_dec"),
    "skip_transcoder": ("W_enc", "W_dec", "b_enc", "b_dec", "W_skip"),
    "jumprelu_transcoder": ("W_enc", "W_dec", "b_enc", "b_dec", "threshold"),
    "jumprelu_skip_transcoder": ("W_enc", "W_dec", "b_enc", "b_dec", "threshold", "W_skip"),
}


def saelens_folder(folder: Path, architecture: str, drop: tuple[str, ...] = (), /, **changes: object) -> Arrays:
    """A version 6 checkpoint; its tensors."""
    tensors = {name: arrays()[name] for name in SAELENS[architecture]}
    settings: dict[str, object] = {
        "architecture": architecture,
        "d_in": D,
        "d_sae": M,
        "dtype": "float32",
        "device": "cuda",
        "apply_b_dec_to_input": "transcoder" not in architecture,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": "6.54.0", "model_name": "gpt2", "hook_name": "blocks.7.hook_resid_post",
            "hook_name_out": "blocks.7.hook_mlp_out", "prepend_bos": True,
        },
    }  # fmt: skip
    if architecture == "topk":
        settings |= {"k": 3, "rescale_acts_by_decoder_norm": False}
    if "transcoder" in architecture:
        settings |= {"d_out": D}
    settings |= changes
    folder.mkdir(parents=True, exist_ok=True)
    save_file({n: torch.from_numpy(t) for n, t in tensors.items()}, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps({n: v for n, v in settings.items() if n not in drop}))
    return tensors


def naive(architecture: str, t: Arrays, x: np.ndarray, *, centred: bool, k: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """What formats.md says about SAELens' architectures, in numpy."""
    x_in = x - t["b_dec"] if centred else x
    if architecture == "gated":
        gate = x_in @ t["W_enc"] + t["b_gate"] > 0
        z = gate * np.maximum(x_in @ (t["W_enc"] * np.exp(t["r_mag"])) + t["b_mag"], 0)
    else:
        pre = x_in @ t["W_enc"] + t["b_enc"]
        z = keep_top(pre, k) if architecture == "topk" else np.maximum(pre, 0)
        if "threshold" in t:
            z = z * (pre > t["threshold"])
    y = z @ t["W_dec"] + t["b_dec"]
    return z, y + x @ t["W_skip"].T if "W_skip" in t else y


@pytest.mark.parametrize("architecture", SAELENS)
def test_saelens_6_is_read_as_documented(tmp_path: Path, architecture: str) -> None:
    tensors = saelens_folder(tmp_path, architecture)
    sae, x = load_checkpoint_folder(tmp_path), rows()
    transcoder = "transcoder" in architecture
    same(dense(sae, x), *naive(architecture, tensors, x.numpy(), centred=not transcoder))
    assert (sae.config.model_name, sae.config.hookpoint) == ("gpt2", "layers.7")
    assert sae.config.target_hookpoint == ("blocks.7.hook_mlp_out" if transcoder else None)
    assert sae.scale is None


def test_apply_b_dec_to_input_and_hook_z_are_honoured(tmp_path: Path) -> None:
    metadata = {"model_name": "gpt2", "hook_name": "blocks.3.attn.hook_z"}
    tensors = saelens_folder(
        tmp_path, "standard", apply_b_dec_to_input=False, reshape_activations="hook_z", metadata=metadata
    )
    sae, x = load_checkpoint_folder(tmp_path), rows()
    same(dense(sae, x), *naive("standard", tensors, x.numpy(), centred=False))
    assert sae.config.hookpoint == "blocks.3.attn.hook_z"


def test_saelens_decoder_norms_are_folded_into_topk(tmp_path: Path) -> None:
    t = saelens_folder(tmp_path, "topk", rescale_acts_by_decoder_norm=True)
    x, norms = rows(), np.linalg.norm(t["W_dec"], axis=1)
    z = keep_top(((x.numpy() - t["b_dec"]) @ t["W_enc"] + t["b_enc"]) * norms, 3)
    sae = load_checkpoint_folder(tmp_path)
    same(dense(sae, x), z, z / norms @ t["W_dec"] + t["b_dec"])
    torch.testing.assert_close(sae.weights.decoder.norm(dim=1), torch.ones(M))
    # A decoder row of 0 means an activation of 0.
    tensors = {name: torch.from_numpy(tensor) for name, tensor in t.items()}
    tensors["W_dec"][4] = 0
    save_file(tensors, tmp_path / "sae_weights.safetensors")
    z, y = dense(load_checkpoint_folder(tmp_path), x)
    assert np.isfinite(y).all()
    assert not z[:, 4].any()


def test_saelens_factor_of_rows_is_folded(tmp_path: Path) -> None:
    t = saelens_folder(tmp_path, "jumprelu", normalize_activations="expected_average_only_in")
    x, s = rows(), 0.3
    z, y = naive("jumprelu", t, x.numpy() * s, centred=True)
    with pytest.raises(InputError, match=r"which is not in the checkpoint\. Give it as scale="):
        load_checkpoint_folder(tmp_path)
    sae = load_checkpoint_folder(tmp_path, scale=s)
    same(dense(sae, x), z, y / s)
    assert sae.scale == s
    # In the midst of training SAELens leaves it beside the weights.
    (tmp_path / "activation_scaler.json").write_text(json.dumps({"scaling_factor": s, "has_whitening": False}))
    same(dense(load_checkpoint_folder(tmp_path), x), z, y / s)
    (tmp_path / "activation_scaler.json").write_text(json.dumps({"scaling_factor": 0.0}))
    with pytest.raises(InputError, match=r"scale is 0\.0"):
        load_checkpoint_folder(tmp_path)
    with pytest.raises(InputError, match="scale is nan"):
        load_checkpoint_folder(tmp_path, scale=float("nan"))


@pytest.mark.parametrize(
    ("architecture", "factor"),
    [(a, f) for a in ("standard", "gated", "topk") for f in (None, 0.3)] + [("skip_transcoder", None)],
)
def test_saelens_rows_of_centred_writing_weights_are_less_their_mean(
    tmp_path: Path, architecture: str, factor: float | None
) -> None:
    metadata = {
        "model_name": "gpt2",
        "hook_name": "blocks.7.hook_resid_pre",
        "model_from_pretrained_kwargs": {"center_writing_weights": True},
    }
    normalised, centred = "none" if factor is None else "expected_average_only_in", "transcoder" not in architecture
    t = saelens_folder(tmp_path, architecture, metadata=metadata, normalize_activations=normalised)
    x, s = rows(), factor or 1.0
    less = x.numpy() - x.numpy().mean(axis=1, keepdims=True)
    z, y = naive(architecture, t, less * s, centred=centred)
    same(dense(load_checkpoint_folder(tmp_path, scale=factor), x), z, y / s)
    # Between the heads and W_O nothing was written yet.
    metadata["hook_name"] = "blocks.7.attn.hook_z"
    t = saelens_folder(tmp_path, architecture, metadata=metadata, normalize_activations=normalised)
    z, y = naive(architecture, t, x.numpy() * s, centred=centred)
    same(dense(load_checkpoint_folder(tmp_path, scale=factor), x), z, y / s)


def test_writing_weights_are_centred_for_models_with_layer_norm_alone(tmp_path: Path) -> None:
    def of(model: str) -> dict[str, object]:
        loading = {"center_writing_weights": True}
        return {"model_name": model, "hook_name": "blocks.7.hook_resid_post", "model_from_pretrained_kwargs": loading}

    x = rows()
    for model in ("meta-llama/Meta-Llama-3-8B", "gemma-2b", "Qwen/Qwen2-0.5B"):
        t = saelens_folder(tmp_path, "standard", metadata=of(model))
        same(dense(load_checkpoint_folder(tmp_path), x), *naive("standard", t, x.numpy(), centred=True))
    less = x.numpy() - x.numpy().mean(axis=1, keepdims=True)
    for model in ("gpt2-small", "EleutherAI/pythia-70m"):
        t = saelens_folder(tmp_path, "standard", metadata=of(model))
        same(dense(load_checkpoint_folder(tmp_path), x), *naive("standard", t, less, centred=True))
    saelens_folder(tmp_path, "standard", metadata=of("mine"))
    with pytest.raises(InputError, match="which 'mine' has is not known here: set it to false"):
        load_checkpoint_folder(tmp_path)


def test_centred_writing_weights_are_found_in_the_flat_layout(tmp_path: Path) -> None:
    loading = {"center_writing_weights": True}
    t = flat_folder(tmp_path, hook_point="blocks.7.hook_resid_pre", model_from_pretrained_kwargs=loading)
    x = rows()
    less = x.numpy() - x.numpy().mean(axis=1, keepdims=True)
    same(dense(load_checkpoint_folder(tmp_path), x), *naive("standard", t, less, centred=True))
    flat_folder(tmp_path, model_from_pretrained_kwargs="centred")
    with pytest.raises(InputError, match="model_from_pretrained_kwargs is 'centred'"):
        load_checkpoint_folder(tmp_path)


def flat_folder(folder: Path, **changes: object) -> Arrays:
    """A checkpoint of a version before 6: the model's settings and training's stand beside the SAE's."""
    tensors = saelens_folder(folder, "standard")
    settings = {
        "model_name": "gpt2-small", "hook_point": "blocks.5.hook_resid_post", "hook_point_layer": 5,
        "hook_point_head_index": None, "d_in": D, "d_sae": M, "dtype": "torch.float32", "lr": 4e-4,
        "l1_coefficient": 8e-5, "lp_norm": 1, "use_cached_activations": True, "feature_sampling_window": 500,
        "dead_feature_threshold": 1e-6, "normalize_sae_decoder": True, "dataset_path": "text", "seed": 42,
        "model_from_pretrained_kwargs": {"center_writing_weights": False}, "finetuning_scaling_factor": False,
    }  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps({**settings, **changes}))
    return tensors


@pytest.mark.parametrize(
    ("changes", "architecture", "centred"),
    [
        ({}, "standard", True),
        ({"normalize_activations": False, "activation_fn_str": "relu"}, "standard", True),
        ({"normalize_activations": None, "apply_b_dec_to_input": False}, "standard", False),
        ({"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}}, "topk", True),
        ({"architecture": "standard", "activation_fn": "topk", "activation_fn_kwargs": {"k": 3}}, "topk", True),
    ],
)
def test_saelens_before_6_is_read_as_documented(
    tmp_path: Path, changes: dict[str, object], architecture: str, centred: bool
) -> None:
    tensors = flat_folder(tmp_path, **changes)
    sae, x = load_checkpoint_folder(tmp_path), rows()
    same(dense(sae, x), *naive(architecture, tensors, x.numpy(), centred=centred))
    assert (sae.config.model_name, sae.config.hookpoint) == ("gpt2-small", "layers.5")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalize_activations": True}, "is not in the checkpoint"),
        ({"activation_fn_str": "tanh-relu"}, "activation_fn_str is 'tanh-relu'"),
        ({"finetuning_scaling_factor": True}, "finetuning_scaling_factor = True"),
        ({"activation_fn_str": "topk", "activation_fn_kwargs": {}}, "k is None"),
        ({"d_sae": None}, "d_sae is None"),
        ({"d_sae": 21}, r"W_enc .* shape \(6, 20\), but d_in 6 and width 21"),
    ],
)
def test_flat_settings_that_cannot_be_honoured_are_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    flat_folder(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        load_checkpoint_folder(tmp_path)


@pytest.mark.parametrize(
    ("architecture", "changes", "drop", "message"),
    [
        ("standard", {"normalize_activations": "layer_norm"}, (), "layer_norm' .* its own deviation"),
        ("standard", {"normalize_activations": "constant_norm_rescale"}, (), "constant_norm_rescale' .* own norm"),
        ("standard", {"normalize_activations": "covariance_whitening"}, (), "matrix that is not in the checkpoint"),
        ("standard", {"normalize_activations": ["x"]}, (), "known are: none, expected_average_only_in"),
        ("transcoder", {"normalize_activations": "expected_average_only_in"}, (), "factor of the output"),
        ("standard", {"architecture": "temporal"}, (), "'temporal' .* known are: standard, topk, jumprelu, gated"),
        ("standard", {"architecture": ["topk"]}, (), "known are: standard"),
        ("standard", {"apply_b_dec_to_input": "no"}, (), "apply_b_dec_to_input is 'no'"),
        ("standard", {"reshape_activations": "fold"}, (), "reshape_activations is 'fold'"),
        ("standard", {"input_gain": 2.0}, (), r"may change the encoding .* input_gain = 2\.0"),
        ("standard", {"metadata": 3}, (), "metadata is 3"),
        ("topk", {"k": 21}, (), "k 21 is above the width 20"),
        ("topk", {}, ("k",), "k is None"),
        ("topk", {"k": 2.5}, (), r"k is 2\.5"),
        ("standard", {}, ("d_sae",), r"lacks \['d_sae'\]"),
        ("standard", {"d_in": 7}, (), r"W_enc .* shape \(6, 20\), but d_in 7 and width 20"),
        ("transcoder", {"d_out": 5}, (), r"W_dec .* \(20, 6\), but d_in 6 and width 20 and d_out 5"),
        ("transcoder", {"apply_b_dec_to_input": True}, (), "cannot be subtracted from its input"),
        ("gated", {"architecture": "standard"}, (), r"lacks the tensors \['b_enc'\]"),
        ("jumprelu", {"architecture": "standard"}, (), r"tensors \['threshold'\], of which it is not known"),
    ],
)
def test_saelens_settings_that_cannot_be_honoured_are_refused(
    tmp_path: Path, architecture: str, changes: dict[str, object], drop: tuple[str, ...], message: str
) -> None:
    saelens_folder(tmp_path, architecture, drop, **changes)
    with pytest.raises(InputError, match=message) as refused:
        load_checkpoint_folder(tmp_path)
    assert str(tmp_path) in str(refused.value)


def test_batchtopk_is_stored_as_saelens_exports_it(tmp_path: Path) -> None:
    sae, x = made("matryoshka"), rows()
    save_saelens(tmp_path, sae)
    settings = json.loads((tmp_path / "cfg.json").read_text())
    assert settings["architecture"] == "jumprelu"
    assert "k" not in settings
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    assert torch.equal(tensors["threshold"], torch.full((M,), 0.7))
    # Without our block it is a JumpReLU SAE that computes the same.
    del settings["metadata"]["saeql"]
    (tmp_path / "cfg.json").write_text(json.dumps(settings))
    plain = load_checkpoint_folder(tmp_path)
    assert plain.config.architecture == "jumprelu"
    same(dense(plain, x), *dense(sae, x))


def test_thresholds_that_differ_are_no_batchtopk(tmp_path: Path) -> None:
    made("batchtopk").save(tmp_path)
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    tensors["threshold"][3] = 2
    save_file(tensors, tmp_path / "sae_weights.safetensors")
    settings = json.loads((tmp_path / "cfg.json").read_text())
    del settings["metadata"]["weights_blake2b"]
    (tmp_path / "cfg.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="differs between latents"):
        load_checkpoint_folder(tmp_path)


def test_our_own_checkpoints_need_no_scale(tmp_path: Path) -> None:
    made("topk").save(tmp_path)
    with pytest.raises(InputError, match="scale 2 is given"):
        load_checkpoint_folder(tmp_path, scale=2)


# sparsify


def sparsify_folder(folder: Path, drop: tuple[str, ...] = (), **changes: object) -> Arrays:
    a = arrays()
    settings: dict[str, object] = {
        "activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": M, "k": 3,
        "multi_topk": False, "skip_connection": False, "transcode": False, "d_in": D,
    }  # fmt: skip
    settings |= changes
    tensors = {
        "encoder.weight": a["W_enc"].T.copy(), "encoder.bias": a["b_enc"], "W_dec": a["W_dec"], "b_dec": a["b_dec"],
    }  # fmt: skip
    if settings["skip_connection"]:
        tensors["W_skip"] = a["W_skip"]
    folder.mkdir(parents=True, exist_ok=True)
    save_file({n: torch.from_numpy(t) for n, t in tensors.items() if n not in drop}, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({n: v for n, v in settings.items() if n not in drop}))
    return tensors


@pytest.mark.parametrize(
    "changes",
    [{}, {"multi_topk": True}, {"transcode": True}, {"transcode": True, "skip_connection": True}, {"signed": False}],
)
def test_sparsify_is_read_as_documented(tmp_path: Path, changes: dict[str, bool]) -> None:
    t = sparsify_folder(tmp_path / "run" / "layers.3.mlp", **changes)
    (tmp_path / "run" / "config.json").write_text(json.dumps({"model": "EleutherAI/pythia-70m", "batch_size": 8}))
    transcoder, x = changes.get("transcode", False), rows()
    x_in = x.numpy() if transcoder else x.numpy() - t["b_dec"]
    z = keep_top(x_in @ t["encoder.weight"].T + t["encoder.bias"], 3)
    y = z @ t["W_dec"] + t["b_dec"] + (x.numpy() @ t["W_skip"].T if "W_skip" in t else 0)
    for folder in (tmp_path / "run", tmp_path / "run" / "layers.3.mlp"):
        sae = load_checkpoint_folder(folder)
        same(dense(sae, x), z, y)
        assert sae.config.model_name == "EleutherAI/pythia-70m"
        assert sae.config.hookpoint == ("layers.3.mlp.input" if transcoder else "layers.3.mlp")
        assert sae.config.target_hookpoint == ("layers.3.mlp" if transcoder else None)


def test_sparsify_width_by_expansion_factor(tmp_path: Path) -> None:
    sparsify_folder(tmp_path, num_latents=0, expansion_factor=4)
    with pytest.raises(InputError, match=r"encoder\.weight .* \(20, 6\), but d_in 6 and 24 latents \(expansion_fac"):
        load_checkpoint_folder(tmp_path)


@pytest.mark.parametrize(
    ("changes", "drop", "message"),
    [
        ({"activation": "groupmax"}, (), "activation is 'groupmax'"),
        ({"signed": True}, (), "signed = True"),
        ({"k": 21}, (), r"cfg\.json: k 21 is above the width 20"),
        ({"k": "3"}, (), "k is '3'"),
        ({}, ("d_in",), "d_in is None"),
        ({"num_latents": 30}, (), r"\(20, 6\), but d_in 6 and 30 latents \(num_latents\)"),
        ({"skip_connection": True}, (), "skip_connection is true and transcode false"),
        ({"transcode": 1}, (), "transcode is 1"),
        ({}, ("W_dec",), r"lacks the tensors \['W_dec'\]"),
    ],
)
def test_sparsify_settings_that_cannot_be_honoured_are_refused(
    tmp_path: Path, changes: dict[str, object], drop: tuple[str, ...], message: str
) -> None:
    sparsify_folder(tmp_path, drop, **changes)
    with pytest.raises(InputError, match=message):
        load_checkpoint_folder(tmp_path)


def test_a_run_with_several_hookpoints_must_be_chosen_from(tmp_path: Path) -> None:
    sparsify_folder(tmp_path / "layers.1")
    sparsify_folder(tmp_path / "layers.2")
    with pytest.raises(InputError, match=r"choose one: \['layers\.1', 'layers\.2'\]"):
        load_checkpoint_folder(tmp_path)
    with pytest.raises(InputError, match="scale 2 is given"):
        load_checkpoint_folder(tmp_path / "layers.1", scale=2)


def test_a_linked_sparsify_folder_keeps_its_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sparsify_folder(tmp_path / "blob" / "a1b2")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"model": "toy"}')
    linked = tmp_path / "run" / "layers.1"
    linked.symlink_to(tmp_path / "blob" / "a1b2")
    # The other way about, a link elsewhere leads into the run.
    sparsify_folder(tmp_path / "run" / "layers.2")
    (tmp_path / "mine").symlink_to(tmp_path / "run" / "layers.2")
    monkeypatch.chdir(tmp_path / "run" / "layers.2")
    for folder, hookpoint in ((linked, "layers.1"), (tmp_path / "mine", "layers.2"), (Path("."), "layers.2")):
        config = load_checkpoint_folder(folder).config
        assert (config.hookpoint, config.model_name) == (hookpoint, "toy")


# dictionary_learning

CLASSES = {
    "AutoEncoder": ("linear", "bias", ()),
    "AutoEncoderNew": ("linear", "decoder.bias", ()),
    "AutoEncoderTopK": ("linear", "b_dec", ("k", "threshold")),
    "BatchTopKSAE": ("linear", "b_dec", ("k", "threshold")),
    "JumpReluAutoEncoder": ("plain", "b_dec", ("thresholds",)),
    "GatedAutoEncoder": ("gated", "decoder_bias", ()),
    "MatryoshkaBatchTopKSAE": ("plain", "b_dec", ("k", "threshold", "group_sizes")),
}


def dictionary_folder(
    folder: Path,
    name: str,
    drop: tuple[str, ...] = (),
    tensors: dict[str, torch.Tensor] | None = None,
    threshold: float = 0.5,
    **changes: object,
) -> dict[str, torch.Tensor]:
    a = {n: torch.from_numpy(t) for n, t in arrays().items()}
    layout, bias, extra = CLASSES[name]
    found = {bias: a["b_dec"]}
    if layout == "plain":
        found |= {n: a[n] for n in ("W_enc", "W_dec", "b_enc")}
    else:
        found |= {"encoder.weight": a["W_enc"].T.contiguous(), "decoder.weight": a["W_dec"].T.contiguous()}
    if layout == "linear":
        found["encoder.bias"] = a["b_enc"]
    if layout == "gated":
        found |= {"gate_bias": a["b_gate"], "mag_bias": a["b_mag"], "r_mag": a["r_mag"]}
    more = {
        "k": torch.tensor(3, dtype=torch.int), "threshold": torch.tensor(threshold), "thresholds": a["threshold"],
        "group_sizes": torch.tensor([4, 5, 11]),
    }  # fmt: skip
    found |= {"threshold" if n == "thresholds" else n: more[n] for n in extra}
    found |= tensors or {}
    trainer: dict[str, object] = {
        "trainer_class": "X", "dict_class": name, "activation_dim": D, "dict_size": M, "layer": 4,
        "lm_name": "EleutherAI/pythia-70m-deduped", "submodule_name": "resid_post_layer_4", "lr": 1e-4,
    }  # fmt: skip
    if "k" in extra:
        trainer["k"] = 3
    trainer |= changes
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({n: t for n, t in found.items() if n not in drop}, folder / "ae.pt")
    settings = {"trainer": {n: v for n, v in trainer.items() if n not in drop}, "buffer": {"ctx_len": 128}}
    (folder / "config.json").write_text(json.dumps(settings))
    return found


@pytest.mark.parametrize("threshold", [0.5, -1.0])
@pytest.mark.parametrize("name", CLASSES)
def test_dictionary_learning_is_read_as_documented(tmp_path: Path, name: str, threshold: float) -> None:
    t = {n: v.numpy() for n, v in dictionary_folder(tmp_path, name, threshold=threshold).items()}
    sae, x = load_checkpoint_folder(tmp_path), rows()
    b = t[CLASSES[name][1]]
    encoder = t["W_enc"] if "W_enc" in t else t["encoder.weight"].T
    decoder = t["W_dec"] if "W_dec" in t else t["decoder.weight"].T
    x_in = x.numpy() if name in ("JumpReluAutoEncoder", "AutoEncoderNew") else x.numpy() - b
    if name == "GatedAutoEncoder":
        pre = x_in @ encoder
        z = (pre + t["gate_bias"] > 0) * np.maximum(np.exp(t["r_mag"]) * pre + t["mag_bias"], 0)
    else:
        pre = x_in @ encoder + (t["b_enc"] if "b_enc" in t else t["encoder.bias"])
        z = keep_top(pre, 3) if name == "AutoEncoderTopK" else np.maximum(pre, 0)
        if "threshold" in t and name != "AutoEncoderTopK":
            z = z * (z > t["threshold"])
    y = z @ decoder + b
    if name == "AutoEncoder":
        # The library's reader brings the decoder rows of this class, and of no other, to norm 1.
        z = z * np.linalg.norm(decoder, axis=1)
    same(dense(sae, x), z, y)
    assert (sae.config.hookpoint, sae.config.model_name) == ("layers.4", "EleutherAI/pythia-70m-deduped")
    assert sae.config.groups == ((4, 9, 20) if name.startswith("Matry") else ())


def test_dictionary_learning_hookpoints_stay_as_they_are_unless_sure(tmp_path: Path) -> None:
    dictionary_folder(tmp_path / "a", "AutoEncoder", submodule_name="mlp_out_4")
    assert load_checkpoint_folder(tmp_path / "a").config.hookpoint == "mlp_out_4"
    dictionary_folder(tmp_path / "b", "AutoEncoder", submodule_name=None)
    assert load_checkpoint_folder(tmp_path / "b").config.hookpoint == "layer_4"


def test_dictionary_learning_classes_by_decoder_norm(tmp_path: Path) -> None:
    sae = made("relu")
    unit = sae.weights.decoder / sae.weights.decoder.norm(dim=1, keepdim=True)
    for weights, name in ((sae.weights, "AutoEncoderNew"), (replace(sae.weights, decoder=unit), "AutoEncoder")):
        save_dictionary_learning(tmp_path, SAE(sae.config, weights))
        assert json.loads((tmp_path / "config.json").read_text())["trainer"]["dict_class"] == name


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("AutoEncoder", {"dict_class": "IdentityDict"}, "'IdentityDict' .* known are: AutoEncoder, AutoEncoderNew"),
        ("AutoEncoder", {"drop": ("dict_class",)}, "dict_class is None"),
        ("AutoEncoder", {"dict_size": 21}, r"dict_size is 21 .* shape \(20, 6\), which makes it 20"),
        ("JumpReluAutoEncoder", {"activation_dim": 7}, r"activation_dim is 7 .* \(6, 20\), which makes it 6"),
        ("AutoEncoder", {"drop": ("bias",)}, r"lacks the tensors \['bias'\]"),
        ("AutoEncoder", {"drop": ("encoder.weight",)}, r"but needs encoder\.weight, a matrix"),
        ("AutoEncoder", {"tensors": {"extra": torch.ones(2)}}, r"tensors \['extra'\], of which it is not known"),
        ("AutoEncoder", {"tensors": {"decoder.weight": torch.ones(M, D)}}, r"decoder\.weight .* \(20, 6\), but"),
        ("AutoEncoderTopK", {"k": 4}, "k is 4 .* but 3 in"),
        ("AutoEncoderTopK", {"k": 21, "tensors": {"k": torch.tensor(21)}}, "k 21 is above the width 20"),
        ("AutoEncoderTopK", {"tensors": {"k": torch.tensor(2.5)}}, "must be one whole number"),
        ("BatchTopKSAE", {"drop": ("threshold",)}, r"lacks the tensors \['threshold'\]"),
        ("BatchTopKSAE", {"tensors": {"threshold": torch.ones(M)}}, r"threshold .* shape \(20,\)"),
        ("MatryoshkaBatchTopKSAE", {"tensors": {"group_sizes": torch.tensor([4, 5])}}, "add up to 20"),
        ("MatryoshkaBatchTopKSAE", {"drop": ("group_sizes",)}, "needs group_sizes"),
        ("GatedAutoEncoder", {"tensors": {"r_mag": torch.full((M,), torch.inf)}}, "20 of 20 values of r_mag"),
    ],
)
def test_dictionary_learning_files_that_cannot_be_honoured_are_refused(
    tmp_path: Path, name: str, kwargs: dict[str, object], message: str
) -> None:
    dictionary_folder(tmp_path, name, **kwargs)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        load_checkpoint_folder(tmp_path)


class Trap:
    """A pickle that leaves a file when it is read as one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("with_torch", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, with_torch: bool) -> None:
    dictionary_folder(tmp_path, "AutoEncoder")
    trap = {"encoder.weight": Trap(tmp_path / "ran")}
    if with_torch:
        torch.save(trap, tmp_path / "ae.pt")
    else:
        (tmp_path / "ae.pt").write_bytes(pickle.dumps(trap))
    with pytest.raises(InputError, match=r"ae\.pt is refused: it holds more than tensors, or is damaged"):
        load_checkpoint_folder(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_what_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    dictionary_folder(tmp_path, "AutoEncoder")
    path = tmp_path / "ae.pt"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not a pickle at all"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"ae\.pt is (not a PyTorch file|refused)"):
            load_checkpoint_folder(tmp_path)
    torch.save([torch.ones(2)], path)
    with pytest.raises(InputError, match="not a state dict"):
        load_checkpoint_folder(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json cannot be read"):
        load_checkpoint_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"trainer": 4}')
    with pytest.raises(InputError, match="trainer is 4"):
        load_checkpoint_folder(tmp_path)


# Gemma Scope

RELEASE = "models--google--gemma-scope-2b-pt-res/snapshots/0a1b/layer_12/width_16k/average_l0_82"


def gemma_folder(folder: Path, **changes: np.ndarray | None) -> Arrays:
    names = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
    tensors = {**{name: arrays()[name] for name in names}, **changes}
    folder.mkdir(parents=True, exist_ok=True)
    found = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    np.savez(folder / "params.npz", **found)
    return found


@pytest.mark.parametrize(
    ("place", "model", "hookpoint"),
    [
        (RELEASE, "google/gemma-2-2b", "layers.12"),
        ("gemma-scope-9b-it-res/layer_20/width_16k/l0", "google/gemma-2-9b-it", "layers.20"),
        ("gemma-scope-2b-pt-mlp/layer_3/w/l", "google/gemma-2-2b", "layers.3.post_feedforward_layernorm"),
        ("gemma-scope-2b-pt-att/layer_3/w/l", "google/gemma-2-2b", "layers.3.self_attn.o_proj.input"),
        ("somewhere/layer_3", "", "layer_3"),
        ("somewhere", "", "unknown"),
    ],
)
def test_gemma_scope_is_read_as_documented(tmp_path: Path, place: str, model: str, hookpoint: str) -> None:
    t = gemma_folder(tmp_path / place)
    sae, x = load_checkpoint_folder(tmp_path / place), rows()
    same(dense(sae, x), *naive("jumprelu", t, x.numpy(), centred=False))
    assert (sae.config.model_name, sae.config.hookpoint, sae.config.centred) == (model, hookpoint, False)


def test_gemma_scope_behind_a_link_keeps_its_names(tmp_path: Path) -> None:
    gemma_folder(tmp_path / "blobs" / "a1b2")
    for place in ("gemma-scope-2b-pt-res/layer_4/w", "gemma-scope-2b-pt-res/embedding/w"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).symlink_to(tmp_path / "blobs" / "a1b2")
    found = load_checkpoint_folder(tmp_path / "gemma-scope-2b-pt-res/layer_4/w").config
    assert (found.model_name, found.hookpoint) == ("google/gemma-2-2b", "layers.4")
    with pytest.raises(InputError, match="is an SAE on embeddings"):
        load_checkpoint_folder(tmp_path / "gemma-scope-2b-pt-res/embedding/w")


def test_gemma_scope_transcoders_and_embeddings(tmp_path: Path) -> None:
    folder = tmp_path / "gemma-scope-2b-pt-transcoders" / "layer_5" / "w"
    gemma_folder(folder)
    config = load_checkpoint_folder(folder).config
    assert (config.hookpoint, config.target_hookpoint, config.d_out) == (
        "blocks.5.ln2.hook_normalized",
        "layers.5.post_feedforward_layernorm",
        D,
    )
    with pytest.raises(InputError, match="whose output would keep its own"):
        load_checkpoint_folder(folder, scale=2)
    folder = tmp_path / "gemma-scope-2b-pt-res" / "embedding" / "width_4k"
    t, x = gemma_folder(folder), rows()
    with pytest.raises(InputError, match=r"give scale=2\.44949 "):
        load_checkpoint_folder(folder)
    z, y = naive("jumprelu", t, x.numpy() * np.float32(6**0.5), centred=False)
    same(dense(load_checkpoint_folder(folder, scale=6**0.5), x), z, y / 6**0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": None}, r"lacks the tensors \['threshold'\]"),
        ({"W_enc": None}, "but needs W_enc"),
        ({"W_dec": np.zeros((D, M), np.float32)}, r"W_dec .* \(6, 20\), but d 6 and 20 latents"),
        ({"b_enc": np.full(M, np.nan, np.float32)}, "20 of 20 values of b_enc"),
        ({"b_dec": np.full(D, 1e300)}, "6 of 6 values of b_dec"),
        ({"b_dec": np.array(["x"] * D)}, "not of numbers"),
        ({"b_dec": np.array([None] * D, dtype=object)}, "Pickled objects are never read"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_gemma_scope_files_that_cannot_be_honoured_are_refused(
    tmp_path: Path, changes: dict[str, np.ndarray | None], message: str
) -> None:
    gemma_folder(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        load_checkpoint_folder(tmp_path)


def test_a_cut_npz_is_refused(tmp_path: Path) -> None:
    gemma_folder(tmp_path)
    path = tmp_path / "params.npz"
    whole = path.read_bytes()
    for content in (whole[:300], b"", b"hello there"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="is not an npz file"):
            load_checkpoint_folder(tmp_path)


ENCRYPTED, METHOD = 8, 10
"""Where the central directory says how a member is stored (APPNOTE 4.3.12): bits of general purpose, compression."""


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("data", "[Ee]rror -3 while decompressing data"),
        ({ENCRYPTED: 0x01}, "is encrypted"),
        ({ENCRYPTED: 0x40}, "strong encryption"),
        ({METHOD: 99}, "compression method"),
    ],
)
def test_a_damaged_npz_is_refused_with_the_reason(tmp_path: Path, damage: str | dict[int, int], reason: str) -> None:
    np.savez_compressed(tmp_path / "params.npz", **gemma_folder(tmp_path))
    path = tmp_path / "params.npz"
    content = bytearray(path.read_bytes())
    if isinstance(damage, str):
        # Behind the member's header of 30 bytes, its name and its extra field.
        content[80:120] = b"\xff" * 40
    else:
        # Of the first member.
        directory = content.index(b"PK\1\2")
        for at, value in damage.items():
            content[directory + at] |= value
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"params\.npz is not an npz file .*damaged: .*{reason}"):
        load_checkpoint_folder(tmp_path)


def test_an_npy_or_a_text_in_the_place_of_arrays_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "params.npz").open("wb") as file:
        np.save(file, np.ones((3, 4)))
    with pytest.raises(InputError, match=r"params\.npz is a single array of shape \(3, 4\)"):
        load_checkpoint_folder(tmp_path)
    gemma_folder(tmp_path)
    with zipfile.ZipFile(tmp_path / "params.npz", "a") as archive:
        archive.writestr("note.txt", "no array")
    with pytest.raises(InputError, match=r"arrays that are not of numbers: .*note\.txt"):
        load_checkpoint_folder(tmp_path)


# Any format


def test_weights_that_are_not_finite_or_cut_are_named(tmp_path: Path) -> None:
    saelens_folder(tmp_path / "a", "standard")
    path = tmp_path / "a" / "sae_weights.safetensors"
    tensors = load_file(path)
    tensors["W_enc"][2, :3] = torch.nan
    save_file(tensors, path)
    with pytest.raises(InputError, match=r"3 of 120 values of W_enc in .*sae_weights\.safetensors"):
        load_checkpoint_folder(tmp_path / "a")
    sparsify_folder(tmp_path / "b")
    for content in (b"", b"no tensors", (tmp_path / "b" / "sae.safetensors").read_bytes()[:90]):
        (tmp_path / "b" / "sae.safetensors").write_bytes(content)
        with pytest.raises(InputError, match="not a safetensors file, or is cut short"):
            load_checkpoint_folder(tmp_path / "b")


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    sparsify_folder(tmp_path)
    tensors = load_file(tmp_path / "sae.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, tmp_path / "sae.safetensors")
    loaded = load_checkpoint_folder(tmp_path)
    assert loaded.weights.encoder.dtype == torch.float32
    assert torch.equal(loaded.weights.encoder, tensors["encoder.weight"].bfloat16().float())


def test_folders_without_one_checkpoint_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it is not a folder"):
        load_checkpoint_folder(tmp_path / "absent")
    (tmp_path / "note.txt").write_text("")
    with pytest.raises(InputError, match=r"none of sae_weights\.safetensors \(saeql or SAELens\).*it has \['note"):
        load_checkpoint_folder(tmp_path)
    saelens_folder(tmp_path, "standard")
    gemma_folder(tmp_path)
    with pytest.raises(InputError, match="several formats"):
        load_checkpoint_folder(tmp_path)
