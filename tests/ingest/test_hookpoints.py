"""Inputs of modules as hookpoints: against plain hooks of torch, cached, streamed, replaced; names and refusals."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import Identity, Module, Sequential

from catalog import Catalog
from catalog.errors import InputError, UnknownName
from catalog.study.text import Model
from ingest.activations.harvest import harvest
from ingest.activations.residual_cache import cache_residuals
from ingest.activations.streamed_rows import ModelRows, held_out_rows
from ingest.dictionaries.measure import evaluate_text
from ingest.model.batches import Batch
from ingest.model.language_model import LanguageModel, load_model
from ingest.model.splice import run_clean, run_replaced
from ingest.sae.architecture import Weights
from ingest.sae.config import SAEConfig
from ingest.sae.model import SAE
from ingest.stored.reader import Reader
from ingest.text.corpus import ingest_corpus
from tests.empty import make_empty
from tests.ingest.tiny import D, corpus_of, loaded, texts, write_lines

NAMES = ("layers.2.mlp", "layers.1.self_attn", "layers.3", "layers.0", "layers.1.mlp.down_proj", "norm")
"""Modules called by position, by keyword, outside of blocks, and one of another width."""


@pytest.fixture(scope="module")
def embedded() -> LanguageModel:
    return load_model(Model(device="cpu"))


@pytest.fixture
def own(llama_folder: Path) -> LanguageModel:
    """A model that a test may change."""
    return loaded(llama_folder)


def ids(seed: int = 0) -> torch.Tensor:
    return torch.randint(1, 300, (3, 12), generator=torch.Generator().manual_seed(seed))


@contextmanager
def counted(model: LanguageModel, *names: str) -> Iterator[list[str]]:
    """The names of these modules as they are computed."""
    calls: list[str] = []
    handles = [model.hookpoint(n).register_forward_hook(lambda *_, n=n: calls.append(n)) for n in names]
    yield calls
    for handle in handles:
        handle.remove()


def by_hand(model: LanguageModel, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """What plain pre-hooks of torch see in a full pass."""
    seen: dict[str, torch.Tensor] = {}

    def see(name: str) -> Callable[..., None]:
        def hook(_module: Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor]) -> None:
            seen[f"{name}.input"] = (args[0] if args else kwargs["hidden_states"]).clone()

        return hook

    modules = dict(model.network.base_model.named_modules())
    handles = [modules[name].register_forward_pre_hook(see(name), with_kwargs=True) for name in NAMES]
    with torch.inference_mode():
        model.network(tokens)
    for handle in handles:
        handle.remove()
    return seen


def test_inputs_are_what_plain_hooks_see(embedded: LanguageModel) -> None:
    expected = by_hand(embedded, ids())
    # The first pass runs through, the second ends early.
    for _ in range(2):
        found = embedded.read(ids(), [*expected, "layers.0"])
        assert found.pop("layers.0").shape == (3, 12, 256)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(found[name], value), name
    whole = Batch(ids(), torch.ones(3, 12, dtype=torch.bool), np.arange(36), np.ones(36, bool), np.ones(36, bool))
    kept = run_clean(embedded, whole, list(expected)).outputs
    assert all(torch.equal(kept[name], value) for name, value in expected.items())
    assert expected["layers.1.mlp.down_proj.input"].shape[2] != 256


@pytest.mark.parametrize("kind", ["llama", "neox"])
def test_a_blocks_input_is_the_output_of_the_block_before(kind: str, request: pytest.FixtureRequest) -> None:
    model: LanguageModel = request.getfixturevalue(kind)
    long = f"{model.network.base_model_prefix}.layers.1.input"
    found = model.read(ids(), ["layers.1.input", long, "layers.0"])
    assert torch.equal(found["layers.1.input"], found["layers.0"])
    assert torch.equal(found[long], found["layers.0"])


def test_the_pass_ends_before_the_module_is_computed(own: LanguageModel) -> None:
    with counted(own, "layers.0", "layers.1.mlp", "layers.2") as calls:
        own.read(ids(), ["layers.1.mlp.input"])
        # The first time it runs through, to see that the module is called once.
        assert calls == ["layers.0", "layers.1.mlp", "layers.2"]
        calls.clear()
        own.read(ids(1), ["layers.1.mlp.input"])
    assert calls == ["layers.0"]


def test_what_a_module_writes_into_its_input_is_not_read(own: LanguageModel) -> None:
    expected = own.read(ids(), ["layers.1.mlp.input"])["layers.1.mlp.input"]
    own.hookpoint("layers.1.mlp").act_fn = torch.nn.ReLU(inplace=True)
    handle = own.hookpoint("layers.1.mlp.gate_proj").register_forward_pre_hook(lambda _m, args: args[0].mul_(0))
    found = own.read(ids(), ["layers.1.mlp.input", "layers.2"])["layers.1.mlp.input"]
    handle.remove()
    assert torch.equal(found, expected)


class Kept(Module):
    """A module with a child that is called `input`."""

    def __init__(self) -> None:
        super().__init__()
        self.input = Sequential(Identity(), torch.nn.Linear(D, D))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.input(x)


def test_a_module_called_input_wins(own: LanguageModel) -> None:
    own.hookpoint("layers.1").mlp = Kept()
    place = own.place("layers.1.mlp.input")
    assert (place.enters, place.module) == (False, own.hookpoint("layers.1").mlp.input)
    names = ["layers.1.mlp.input", "layers.1.mlp", "layers.1.mlp.input.input", "layers.1.post_attention_layernorm"]
    output, module, inside, before = (own.read(ids(), names)[name] for name in names)
    assert torch.equal(output, module)
    assert torch.equal(inside, before)
    assert not torch.equal(output, inside)


@pytest.mark.parametrize("name", ["layers.9.mlp.input", "input", ".input", "model.input", "layers.1.mlp.input.input"])
def test_an_unknown_input_lists_what_there_is(llama: LanguageModel, name: str) -> None:
    with pytest.raises(UnknownName, match=r"it has layers\.0, layers\.0\.self_attn.* with \.input after it$") as raised:
        llama.place(name)
    assert repr(name) in str(raised.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("blocks.1.hook_mlp_in", r"block 1's second norm.*layers\.1\.post_attention_layernorm\.input"),
        ("blocks.7.hook_resid_mid", r"block 7's second norm.*layers\.7\.post_attention_layernorm\.input"),
        ("blocks.1.attn.hook_z", r"layers\.1\.self_attn\.o_proj\.input"),
        ("blocks.7.hook_resid_pre", "the input .pre. of block 7"),
        ("blocks.1.ln2.hook_normalized", "before its gain"),
    ],
)
def test_names_of_transformer_lens_say_what_to_name(llama: LanguageModel, name: str, said: str) -> None:
    with pytest.raises(UnknownName, match=said):
        llama.place(name)


def refusal(model: LanguageModel, *names: str) -> str:
    """Why the names cannot be read; a pass through the head refuses them too."""
    batch = Batch(ids(), torch.ones(3, 12, dtype=torch.bool), np.arange(36), np.ones(36, bool), np.ones(36, bool))
    with pytest.raises(InputError):
        run_clean(model, batch, list(names))
    with pytest.raises(InputError) as raised:
        model.read(ids(), list(names))
    return str(raised.value)


def test_what_is_no_vector_for_each_token_is_named_with_its_shape(llama: LanguageModel) -> None:
    said = "hookpoint 'embed_tokens.input' does not give a vector for each token, but a tensor of shape [3, 12]"
    assert said in refusal(llama, "embed_tokens.input")
    assert "never calls ['layers.input']" in refusal(llama, "layers.input")


def test_a_module_without_a_tensor_or_called_twice_is_named(own: LanguageModel) -> None:
    class Called(Module):
        def __init__(self, inner: Module, times: int) -> None:
            super().__init__()
            self.inner, self.times, self.told = inner, times, Told()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.told(3, scale=x)
            for _ in range(self.times):
                y = self.inner(x)
            return y

    class Told(Module):
        def forward(self, _number: int, scale: torch.Tensor) -> torch.Tensor:
            return scale

    own.hookpoint("layers.1").mlp = Called(own.hookpoint("layers.1.mlp"), 2)
    said = refusal(own, "layers.1.mlp.told.input")
    assert "'layers.1.mlp.told.input' is called with no tensor by position, and none as hidden_states" in said
    assert "it is given int, scale: choose another" in said
    said = refusal(own, "layers.1.mlp.inner.input")
    assert "calls the module of hookpoint 'layers.1.mlp.inner.input' more than once" in said
    assert "'layers.1.mlp.inner' more than once" in refusal(own, "layers.1.mlp.inner", "layers.2")
    assert refusal(own, "layers.1.mlp.inner.input", "layers.0") == said
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in own.network.modules())


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory, llama: LanguageModel) -> Iterator[Catalog]:
    root = tmp_path_factory.mktemp("text")
    with make_empty(root / "catalog") as catalog:
        ingest_corpus(catalog, corpus_of(write_lines(root / "docs.jsonl", texts(30))), llama)
        yield catalog


def test_caches_streams_and_held_out_rows_hold_the_inputs(text: Catalog, llama: LanguageModel) -> None:
    name, norm = "layers.1.mlp.input", "layers.1.post_attention_layernorm"
    cached = cache_residuals(text, llama, [name, norm], ["docs"])
    # In a Llama the MLP takes what its norm gives: the cache of an output is made without any of this.
    assert np.array_equal(cached[name].train, cached[norm].train)
    assert np.array_equal(cached[name].train_positions, cached[norm].train_positions)
    assert cached[name].digest != cached[norm].digest
    held_out = held_out_rows(text, llama, [name, norm], ["docs"])
    assert np.array_equal(held_out[name], held_out[norm])
    streams = [ModelRows(text, llama, one, ["docs"], None).sampler(64, 0) for one in (name, norm)]
    for step in range(3):
        drawn, expected = (stream.batch(step)[0] for stream in streams)
        assert torch.equal(drawn, expected)


def identity(hookpoint: str) -> Reader:
    """An SAE whose latents are the positive and the negative part of each dimension: it gives back what it reads."""
    both = torch.cat([torch.eye(D), -torch.eye(D)])
    config = SAEConfig(d_in=D, width=2 * D, k=D, model_name="tiny", hookpoint=hookpoint)
    return Reader("same", hookpoint, SAE(config, Weights(both, torch.zeros(2 * D), both.clone(), torch.zeros(D))), "d")


@pytest.mark.parametrize("hookpoint", ["layers.1.mlp.input", "layers.2.input", "layers.0.self_attn.input"])
def test_an_identity_sae_leaves_the_loss_and_zeros_do_not(text: Catalog, llama: LanguageModel, hookpoint: str) -> None:
    evaluate_text(text, llama, [identity(hookpoint)], ["docs"], ("test",))
    ((clean, spliced, ablated, fve),) = text.rows("SELECT ce_clean, ce_spliced, ce_ablated, fve FROM evaluations")
    assert spliced == pytest.approx(clean, rel=1e-6)
    assert abs(ablated - clean) > 1e-3
    assert fve == pytest.approx(1)


def test_the_models_own_rows_leave_its_losses_to_the_bit(embedded: LanguageModel) -> None:
    real = torch.ones(3, 12, dtype=torch.bool)
    batch = Batch(ids(), real, np.arange(36), np.ones(36, bool), np.ones(36, bool))
    names = [f"{name}.input" for name in NAMES]
    clean = run_clean(embedded, batch, names)
    for name in names:
        assert torch.equal(run_replaced(embedded, clean, name, clean.outputs[name][real]), clean.losses), name
    with pytest.raises(InputError, match=r"\[36, 3\] rows cannot replace those of 'norm\.input'.*of width 256"):
        run_replaced(embedded, clean, "norm.input", torch.zeros(36, 3))


def test_an_sae_of_another_width_names_both(text: Catalog, llama: LanguageModel) -> None:
    one = identity("layers.1.mlp.down_proj.input")
    said = rf"'same' is made for rows of width {D} at 'layers\.1\.mlp\.down_proj\.input', which has width 24"
    with pytest.raises(InputError, match=said):
        evaluate_text(text, llama, [one], ["docs"], ("val",))
    with pytest.raises(InputError, match=said):
        harvest(text, llama, [one], ["docs"])
