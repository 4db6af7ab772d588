"""A pass with a replaced module against transformers' own loss and a hook written by hand, one sequence at a time."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from catalog.errors import InputError, UnknownName
from ingest.model import splice
from ingest.model.batches import Batch, Sequences, batches
from ingest.model.language_model import LanguageModel
from ingest.model.splice import CleanPass, run_clean, run_replaced
from tests.ingest.tiny import CONTEXT, VOCABULARY, D, loaded, save_model, save_tokenizer

LENGTHS = (7, 1, 12, 3, 2)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return loaded(save_model(tmp_path_factory.mktemp("gpt2"), "gpt2"))


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """Its head caps the logits softly, which a plain product with the unembedding would miss."""
    folder = tmp_path_factory.mktemp("gemma")
    torch.manual_seed(0)
    shape = {"hidden_size": D, "intermediate_size": 24, "num_hidden_layers": 3, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": CONTEXT}
    config = Gemma2Config(vocab_size=VOCABULARY, **shape, **heads, initializer_range=0.3, final_logit_softcapping=0.5)
    Gemma2ForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder)
    return loaded(folder)


@pytest.fixture(params=["llama", "neox", "gpt2", "gemma"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    found: LanguageModel = request.getfixturevalue(request.param)
    return found


def sequences(seed: int = 0) -> Sequences:
    ids = np.random.default_rng(seed).integers(1, VOCABULARY, sum(LENGTHS)).astype(np.int32)
    starts = np.cumsum([0, *LENGTHS[:-1]])
    return Sequences("c", 0, ids, 0, starts, np.array(LENGTHS), np.array(["test"] * len(LENGTHS)))


def one_batch(model: LanguageModel) -> Batch:
    """All sequences in one padded batch."""
    found = list(batches(sequences(), model.bos, 10_000))
    wide = max(len(batch.ids[0]) for batch in found)
    ids = torch.cat([torch.nn.functional.pad(b.ids, (0, wide - b.ids.shape[1])) for b in found])
    real = torch.cat([torch.nn.functional.pad(b.real, (0, wide - b.real.shape[1])) for b in found])
    positions = np.concatenate([b.positions for b in found])
    nothing = np.zeros(len(positions), bool)
    return Batch(ids, real, positions, nothing, nothing)


def alone(batch: Batch, model: LanguageModel) -> Iterator[torch.Tensor]:
    """Each sequence of the batch without padding, `[1, seq]`."""
    for ids, real in zip(batch.ids, batch.real, strict=True):
        yield ids[: int(real.sum()) + (model.bos is not None)][None]


def naive(model: LanguageModel, batch: Batch, hookpoint: str | None = None, rows: torch.Tensor | None = None) -> float:
    """Sum of -log p over the batch, by transformers' own loss; `rows` are put in by a hook if given."""
    total, taken = 0.0, 0

    def replace(_module: object, _inputs: object, output: object) -> object:
        found = output[0] if isinstance(output, tuple) else output
        new = found.clone()
        new[0, int(model.bos is not None) :] = mine
        return (new, *output[1:]) if isinstance(output, tuple) else new

    def replace_input(_module: object, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor]) -> object:
        new = (args[0] if args else kwargs["hidden_states"]).clone()
        new[0, int(model.bos is not None) :] = mine
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

    for ids in alone(batch, model):
        tokens = ids.shape[1] - (model.bos is not None)
        mine = rows[taken : taken + tokens] if rows is not None else torch.empty(0)
        taken += tokens
        if ids.shape[1] < 2:
            continue
        module = model.hookpoint(hookpoint.removesuffix(".input")) if hookpoint else None
        handle = module.register_forward_hook(replace) if module else None
        if module and hookpoint and hookpoint.endswith(".input"):
            handle.remove()
            handle = module.register_forward_pre_hook(replace_input, with_kwargs=True)
        with torch.inference_mode():
            total += float(model.network(ids, labels=ids).loss) * (ids.shape[1] - 1)
        if handle:
            handle.remove()
    return total


def some_rows(clean: CleanPass, hookpoint: str) -> torch.Tensor:
    x = clean.outputs[hookpoint][clean.batch.real]
    return x + 0.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))


def hookpoints(model: LanguageModel) -> list[str]:
    """A first, a middle and a last block, an MLP inside the middle one, and the inputs of some of them."""
    blocks = [name for name in model.hookpoints() if name.rsplit(".", 1)[-1].isdigit()]
    assert len(blocks) == 3
    return [*blocks, *(f"{blocks[1]}.{name}" for name in ("mlp", "input", "mlp.input")), f"{blocks[0]}.input"]


def test_the_clean_loss_is_that_of_transformers_on_unpadded_sequences(model: LanguageModel) -> None:
    batch = one_batch(model)
    clean = run_clean(model, batch, [])
    assert len(clean.losses) == sum(LENGTHS) - (len(LENGTHS) if model.bos is None else 0)
    assert float(clean.losses.sum()) == pytest.approx(naive(model, batch), rel=1e-5)


@pytest.mark.parametrize("where", range(7))
def test_a_replaced_pass_is_that_of_a_hook_written_by_hand(model: LanguageModel, where: int) -> None:
    name, batch = hookpoints(model)[where], one_batch(model)
    clean = run_clean(model, batch, hookpoints(model))
    for rows in (some_rows(clean, name), torch.zeros(sum(LENGTHS), D)):
        found = run_replaced(model, clean, name, rows)
        assert float(found.sum()) == pytest.approx(naive(model, batch, name, rows), rel=1e-5)
        assert not torch.allclose(found, clean.losses)


def test_a_modules_own_output_changes_nothing(model: LanguageModel) -> None:
    batch = one_batch(model)
    clean = run_clean(model, batch, hookpoints(model))
    for name in hookpoints(model):
        rows = clean.outputs[name][batch.real]
        torch.testing.assert_close(run_replaced(model, clean, name, rows), clean.losses)
    # And the model is as it was.
    assert torch.equal(run_clean(model, batch, []).losses, clean.losses)


def test_logits_in_small_parts_give_the_same_losses(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = one_batch(model)
    whole = run_clean(model, batch, []).losses
    monkeypatch.setattr(splice, "CPU_LOGITS", 4 * VOCABULARY)
    sizes: list[int] = []
    head = model.network.get_output_embeddings()
    handle = head.register_forward_hook(lambda _module, inputs, _output: sizes.append(inputs[0].shape[1]))
    parts = run_clean(model, batch, []).losses
    handle.remove()
    torch.testing.assert_close(parts, whole)
    assert max(sizes) == 4


def test_what_stands_before_the_replaced_module_is_computed_once(llama: LanguageModel) -> None:
    calls: list[str] = []
    handles = [
        llama.hookpoint(name).register_forward_hook(lambda *_, name=name: calls.append(name))
        for name in ("layers.0.mlp", "layers.1.self_attn", "layers.1.mlp", "layers.2.mlp")
    ]
    clean = run_clean(llama, one_batch(llama), ["layers.1", "layers.1.mlp", "layers.1.mlp.input"])
    calls.clear()
    run_replaced(llama, clean, "layers.1", some_rows(clean, "layers.1"))
    assert calls == ["layers.2.mlp"]
    calls.clear()
    # Inside a block, what the block adds it to is computed again; the module itself is called but answers at once.
    run_replaced(llama, clean, "layers.1.mlp", some_rows(clean, "layers.1.mlp"))
    assert calls == ["layers.1.self_attn", "layers.1.mlp", "layers.2.mlp"]
    calls.clear()
    # A module whose input is replaced is computed, and so is the block that it is in.
    run_replaced(llama, clean, "layers.1.mlp.input", some_rows(clean, "layers.1.mlp.input"))
    assert calls == ["layers.1.self_attn", "layers.1.mlp", "layers.2.mlp"]
    for handle in handles:
        handle.remove()


def test_bos_keeps_its_own_activation(llama: LanguageModel) -> None:
    batch = one_batch(llama)
    clean = run_clean(llama, batch, ["layers.2"])
    ablated = run_replaced(llama, clean, "layers.2", torch.zeros(sum(LENGTHS), D))
    # After the last block nothing mixes tokens: what BOS predicts, the first token of each row, costs the same.
    first = np.cumsum([0, *[int(n) for n in batch.real.sum(1)][:-1]])
    torch.testing.assert_close(ablated[first], clean.losses[first])


def test_a_model_that_failed_inside_a_replaced_pass_is_put_back(llama: LanguageModel) -> None:
    clean = run_clean(llama, one_batch(llama), ["layers.1"])
    rows = some_rows(clean, "layers.1")
    handle = llama.hookpoint("layers.2").register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_replaced(llama, clean, "layers.1", rows)
    handle.remove()
    assert torch.equal(run_clean(llama, clean.batch, []).losses, clean.losses)


def test_hookpoints_and_rows_that_do_not_fit_are_refused(llama: LanguageModel, tmp_path: Path) -> None:
    batch = one_batch(llama)
    with pytest.raises(UnknownName, match=r"layers\.9"):
        run_clean(llama, batch, ["layers.9"])
    with pytest.raises(InputError, match="vector for each token"):
        run_clean(llama, batch, ["rotary_emb"])
    with pytest.raises(InputError, match="never calls"):
        run_clean(llama, batch, ["layers"])
    clean = run_clean(llama, batch, ["layers.1"])
    with pytest.raises(InputError, match=rf"25 tokens of width {D}"):
        run_replaced(llama, clean, "layers.1", torch.zeros(25, D + 1))
