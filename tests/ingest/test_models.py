"""`read` gives what the full forward pass gives, and stops after the last hookpoint; what cannot be used is named."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save_file

from catalog.errors import InputError, UnknownName
from catalog.study.text import Model
from ingest.embedded import MODEL_DIR
from ingest.model.batches import Sequences, batches
from ingest.model.language_model import LanguageModel, load_model
from ingest.model.lens import unembedding
from tests.ingest.tiny import VOCABULARY, D, loaded, save_model, save_tokenizer

BLOCKS = {"llama": "layers", "neox": "layers", "gpt2": "h"}


@pytest.fixture(scope="module", params=["llama", "neox", "gpt2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return loaded(save_model(tmp_path_factory.mktemp(request.param), request.param))


def blocks_of(model: LanguageModel) -> str:
    return BLOCKS["gpt2" if "GPT2" in type(model.network).__name__ else "llama"]


def ids(rows: int = 3, width: int = 12) -> torch.Tensor:
    return torch.randint(1, 300, (rows, width), generator=torch.Generator().manual_seed(1))


def test_blocks_give_the_hidden_states_of_the_full_forward(model: LanguageModel) -> None:
    names = [f"{blocks_of(model)}.{i}" for i in range(2)]
    outputs = model.read(ids(), names)
    with torch.inference_mode():
        states = model.network(ids(), output_hidden_states=True).hidden_states
    for name, state in zip(names, states[1:], strict=False):
        assert outputs[name].shape == (3, 12, D)
        torch.testing.assert_close(outputs[name], state, rtol=0, atol=0)


def test_any_module_gives_what_a_hook_of_the_full_forward_sees(model: LanguageModel) -> None:
    names = [name for name in model.hookpoints() if "dropout" not in name]
    assert len(names) >= 12
    seen: dict[str, torch.Tensor] = {}
    handles = [
        model.hookpoint(name).register_forward_hook(
            lambda _m, _i, o, name=name: seen.__setitem__(name, (o[0] if isinstance(o, tuple) else o).clone())
        )
        for name in names
    ]
    with torch.inference_mode():
        model.network(ids())
    for handle in handles:
        handle.remove()
    outputs = model.read(ids(), names)
    assert outputs.keys() == seen.keys()
    for name in names:
        torch.testing.assert_close(outputs[name], seen[name], rtol=0, atol=0)


def test_later_blocks_and_the_head_are_not_computed(model: LanguageModel) -> None:
    fired = []
    blocks = blocks_of(model)
    late = {"last block": model.hookpoint(f"{blocks}.2"), "head": model.network.get_output_embeddings()}
    handles = [m.register_forward_pre_hook(lambda *_, name=name: fired.append(name)) for name, m in late.items()]
    early = model.hookpoint(f"{blocks}.0").register_forward_pre_hook(lambda *_: fired.append("first block"))
    model.read(ids(), [f"{blocks}.1", f"{blocks}.0"])
    for handle in [*handles, early]:
        handle.remove()
    assert fired == ["first block"]


def test_reading_leaves_no_hook_behind(model: LanguageModel) -> None:
    def hooks() -> int:
        return sum(len(module._forward_hooks) for module in model.network.modules())

    before = hooks()
    model.read(ids(), [f"{blocks_of(model)}.0"])
    assert hooks() == before


def test_the_name_inside_the_whole_model_is_understood_and_a_name_twice_is_read_once(model: LanguageModel) -> None:
    name = f"{blocks_of(model)}.1"
    long = f"{model.network.base_model_prefix}.{name}"
    outputs = model.read(ids(), [name, long, name])
    assert outputs.keys() == {name, long}
    torch.testing.assert_close(outputs[name], outputs[long], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["layers.9", "", "nonsense", "lm_head", "model.", "transformer.", "gpt_neox."])
def test_an_unknown_hookpoint_lists_the_known_ones(model: LanguageModel, name: str) -> None:
    with pytest.raises(UnknownName, match=r"model 'tiny' has no hookpoint") as raised:
        model.hookpoint(name)
    assert repr(name) in str(raised.value)
    assert f"{blocks_of(model)}.0, {blocks_of(model)}.0." in str(raised.value)


def test_a_module_that_the_pass_never_calls_is_named(model: LanguageModel) -> None:
    with pytest.raises(InputError, match=rf"never calls \['{blocks_of(model)}'\]"):
        model.read(ids(), [f"{blocks_of(model)}.0", blocks_of(model)])


def test_a_module_without_a_vector_for_each_token_is_named(llama: LanguageModel) -> None:
    with pytest.raises(InputError, match="hookpoint 'rotary_emb' does not give a vector for each token"):
        llama.read(ids(), ["rotary_emb"])


def sequences(lengths: list[int]) -> Sequences:
    rng = np.random.default_rng(3)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return Sequences(
        "c",
        0,
        rng.integers(1, 300, sum(lengths)).astype(np.int32),
        1000,
        starts,
        np.array(lengths),
        np.array((["train", "val", "test"] * len(lengths))[: len(lengths)]),
    )


@pytest.mark.parametrize("bos", [0, None])
def test_activations_do_not_depend_on_neighbours_or_on_the_batch(model: LanguageModel, bos: int | None) -> None:
    text = sequences([5, 12, 1, 12, 3, 8, 8])
    name = f"{blocks_of(model)}.1"
    alone = np.empty((len(text.ids), D), np.float32)
    lead = [] if bos is None else [bos]
    for start, length in zip(text.starts, text.lengths, strict=True):
        row = torch.tensor([lead + text.ids[start : start + length].tolist()])
        alone[start : start + length] = model.read(row, [name])[name][0, len(lead) :].numpy()
    for batch_tokens in (1, 20, 1000):
        together = np.full((len(text.ids), D), np.nan, np.float32)
        for batch in batches(text, bos, batch_tokens):
            together[batch.positions - 1000] = model.read(batch.ids, [name])[name][batch.real].numpy()
        np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("bos", [7, None])
@pytest.mark.parametrize("batch_tokens", [1, 20, 1000])
def test_batches_hold_each_position_once_and_bos_is_none(bos: int | None, batch_tokens: int) -> None:
    text = sequences([5, 12, 1, 12, 3])
    seen = []
    for batch in batches(text, bos, batch_tokens):
        assert batch.ids.numel() <= max(batch_tokens, batch.ids.shape[1])
        assert (batch.ids[batch.real].numpy() == text.ids[batch.positions - 1000]).all()
        assert len(batch.positions) == len(batch.train) == len(batch.val) == int(batch.real.sum())
        if bos is not None:
            assert (batch.ids[:, 0] == bos).all()
            assert not batch.real[:, 0].any()
        which = np.searchsorted(text.starts, batch.positions - 1000, side="right") - 1
        assert (batch.train == (text.splits[which] == "train")).all()
        assert (batch.val == (text.splits[which] == "val")).all()
        seen += batch.positions.tolist()
    assert sorted(seen) == list(range(1000, 1033))


def test_bos_follows_the_tokenizer_unless_the_study_says_otherwise(llama_folder: Path, neox_folder: Path) -> None:
    assert [loaded(llama_folder, bos=bos).bos for bos in ("auto", "never", "always")] == [0, None, 0]
    assert [loaded(neox_folder, bos=bos).bos for bos in ("auto", "never", "always")] == [None, None, 0]


def test_the_digest_is_of_weights_and_tokenizer_and_not_of_the_place(tmp_path: Path, llama: LanguageModel) -> None:
    assert loaded(save_model(tmp_path / "copy")).digest == llama.digest
    assert loaded(save_model(tmp_path / "other", seed=1)).digest != llama.digest
    save_tokenizer(tmp_path / "copy", bos=False)
    assert loaded(tmp_path / "copy").digest != llama.digest


def refused(source: Path | str, **settings: str) -> str:
    with pytest.raises(InputError) as raised:
        load_model(Model(name="m", source=str(source), **settings))
    return str(raised.value)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path / "gone") == f"model directory {tmp_path / 'gone'} does not exist"
    assert "model 'nobody/no-such-model': there is no folder of that name" in refused("nobody/no-such-model")


def test_a_missing_or_broken_tokenizer_is_named(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "m")
    (folder / "tokenizer.json").write_text("{")
    assert f"no tokenizer can be loaded from '{folder}'" in refused(folder)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    assert f"no tokenizer can be loaded from '{folder}'" in refused(folder)


def test_missing_broken_and_incomplete_weights_are_named(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "m")
    path = folder / "model.safetensors"
    weights = load(path.read_bytes())
    path.write_bytes(path.read_bytes()[:1000])
    assert f"no causal language model can be loaded from '{folder}'" in refused(folder)
    fewer = {name: tensor for name, tensor in weights.items() if "layers.1.mlp" not in name}
    save_file(fewer, path, {"format": "pt"})
    assert f"'{folder}' lack 3 tensors of the model, such as model.layers.1.mlp.down_proj.weight" in refused(folder)
    save_file({name: tensor[:8].contiguous() for name, tensor in weights.items()}, path, {"format": "pt"})
    assert f"no causal language model can be loaded from '{folder}'" in refused(folder)
    path.unlink()
    assert f"no causal language model can be loaded from '{folder}'" in refused(folder)


def test_a_broken_configuration_is_named(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "m")
    (folder / "config.json").write_text(json.dumps({"model_type": "no-such-architecture"}))
    assert "no-such-architecture" in refused(folder)
    (folder / "config.json").unlink()
    assert str(folder) in refused(folder)


def test_always_bos_needs_a_tokenizer_that_has_one(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "m", bos=False)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("bos_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert "its tokenizer has no BOS token" in refused(folder, bos="always")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_named(llama_folder: Path) -> None:
    assert "device 'cuda' cannot be used" in refused(llama_folder, device="cuda")


def test_dtype_is_float32_on_a_cpu_unless_the_study_says_otherwise(llama_folder: Path) -> None:
    assert loaded(llama_folder).dtype == torch.float32
    assert loaded(llama_folder, dtype="bfloat16").dtype == torch.bfloat16


@pytest.fixture(scope="module")
def embedded() -> LanguageModel:
    return load_model(Model(device="cpu"))


def normed(model: LanguageModel) -> LanguageModel:
    """The model with random gains (and no bias) in its final norm: fresh ones are all 1."""
    modules = reversed(list(model.network.base_model.modules()))
    norm = next(module for module in modules if "norm" in type(module).__name__.lower())
    norm.weight.copy_(torch.rand(D, generator=torch.Generator().manual_seed(0)) + 0.5)
    return model


def test_unembedding_is_norm_and_head_up_to_a_positive_factor(model: LanguageModel) -> None:
    normed(model)
    vectors = torch.randn(20, D, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        base = model.network.base_model
        norm = base.ln_f if hasattr(base, "ln_f") else getattr(base, "final_layer_norm", None) or base.norm
        own = model.network.get_output_embeddings()(norm(vectors))
    ours = vectors @ unembedding(model).T
    assert ours.shape == (20, VOCABULARY)
    factor = (own * ours).sum(1, keepdim=True) / ours.square().sum(1, keepdim=True)
    assert (factor > 0).all()
    torch.testing.assert_close(ours * factor, own, rtol=1e-4, atol=1e-4)


def test_the_embedded_model_is_shipped_small_with_its_tokenizer(embedded: LanguageModel) -> None:
    assert sum(path.stat().st_size for path in MODEL_DIR.glob("*.safetensors")) <= 16e6
    assert embedded.bos is not None
    assert embedded.tokenizer.is_fast
    text = "Compute the eigenvalues → 3.14 日本"
    assert embedded.tokenizer.decode(embedded.tokenizer(text, add_special_tokens=False).input_ids) == text


def test_the_embedded_models_unembedding_ranks_tokens_as_the_model_does(embedded: LanguageModel) -> None:
    row = torch.tensor([[embedded.bos, *embedded.tokenizer("Return the", add_special_tokens=False).input_ids]])
    last = f"layers.{embedded.network.config.num_hidden_layers - 1}"
    vector = embedded.read(row, [last])[last][0, -1]
    with torch.inference_mode():
        logits = embedded.network(row).logits[0, -1]
    assert (vector @ unembedding(embedded).T).topk(10).indices.tolist() == logits.topk(10).indices.tolist()
