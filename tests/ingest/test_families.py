"""Models of different families: stored activations against each sequence alone, the lens, losses; what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from catalog import Catalog
from catalog.errors import InputError
from ingest.activations.harvest import harvest
from ingest.dictionaries.measure import evaluate_text
from ingest.model.identity import record_model
from ingest.model.language_model import LanguageModel
from ingest.model.lens import lens_problem, unembedding
from ingest.model.splice import check_hookpoints
from ingest.text.corpus import ingest_corpus
from tests.ingest.checker import relu_reader, wrong_activations
from tests.ingest.families import make
from tests.ingest.tiny import VOCABULARY, D, corpus_of, loaded, texts, write_lines

FAMILIES = {
    "gpt2": ("h.1", {}),
    "opt": ("decoder.layers.0", {"word_embed_proj_dim": 8}),
    "bloom": ("h.0", {}),
    "gemma3": ("language_model.layers.0", {"sliding_window": 4}),
    "cohere": ("layers.0", {}),
    "mixtral": ("layers.1", {}),
    "mamba": ("layers.0", {}),
    "rwkv": ("blocks.0", {}),
}


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[LanguageModel, str]:
    hookpoint, settings = FAMILIES[request.param]
    return loaded(make(tmp_path_factory.mktemp(request.param), request.param, **settings)), hookpoint


def test_stored_activations_are_those_of_each_sequence_alone(
    family: tuple[LanguageModel, str], catalog: Catalog, tmp_path: Path
) -> None:
    model, hookpoint = family
    record_model(catalog, model)
    assert catalog.rows("SELECT d_model, layers, vocabulary FROM models") == [(D, 2, VOCABULARY)]
    ingest_corpus(catalog, corpus_of(write_lines(tmp_path / "docs.jsonl", texts(6)), shard_tokens=4096), model)
    reader = relu_reader("sae", hookpoint, D)
    harvest(catalog, model, [reader], ["docs"])
    assert wrong_activations(catalog, model, reader, model.hookpoint(hookpoint)) == []
    evaluate_text(catalog, model, [reader], ["docs"], ("train",))
    ((clean,),) = catalog.rows("SELECT ce_clean FROM evaluations")
    assert clean == pytest.approx(alone_loss(catalog, model), rel=1e-4)


def alone_loss(catalog: Catalog, model: LanguageModel) -> float:
    """Nats per predicted token of split train, by the model's own logits, a sequence at a time."""
    losses = []
    sequences = catalog.rows(
        "SELECT list(token ORDER BY position) FROM tokens JOIN documents USING (corpus, document) "
        "WHERE split = 'train' GROUP BY sequence ORDER BY sequence"
    )
    for (tokens,) in sequences:
        ids = torch.tensor([[model.bos, *tokens]])
        with torch.inference_mode():
            losses.append(
                cross_entropy(model.network(ids, use_cache=False).logits[0, :-1], ids[0, 1:], reduction="none")
            )
    return float(torch.cat(losses).double().mean())


def test_the_lens_ranks_tokens_as_the_models_own_logits(family: tuple[LanguageModel, str]) -> None:
    model, _ = family
    last = list(model.layout.blocks)[-1]
    rows = model.read(model.layout.trial, [last])[last][0]
    with torch.inference_mode():
        logits = model.network(model.layout.trial, use_cache=False).logits[0]
    ours = rows @ unembedding(model).T
    bias = offset(model)
    scale = ((logits - bias) * ours).sum(1, keepdim=True) / ours.square().sum(1, keepdim=True)
    assert (scale > 0).all()
    torch.testing.assert_close(ours * scale, logits - bias, rtol=1e-3, atol=1e-3)


def offset(model: LanguageModel) -> torch.Tensor:
    """Logits of a stream of zeros: what biases add."""
    last = list(model.layout.blocks.values())[-1]
    handle = last.register_forward_hook(
        lambda _m, _a, out: (
            torch.zeros_like(out) if isinstance(out, torch.Tensor) else (torch.zeros_like(out[0]), *out[1:])
        )
    )
    with torch.inference_mode():
        found: torch.Tensor = model.network(model.layout.trial, use_cache=False).logits[0]
    handle.remove()
    return found


WRITES = {
    "llama": {"layers.0": 1, "layers.0.self_attn": 1, "layers.0.mlp": 1, "layers.1.mlp.down_proj": 1, "embed_tokens": 1}
    | {"layers.0.post_attention_layernorm.input": 1, "layers.0.self_attn.o_proj.input": 0, "layers.0.mlp.input": 0}
    | {"layers.0.self_attn.q_proj": 0, "layers.0.input_layernorm": 0, "norm": 0, "layers.1.input": 1},
    "gemma2": {"layers.0.mlp": 0, "layers.0.post_feedforward_layernorm": 1, "layers.0.self_attn": 0},
    "olmo2": {"layers.0.mlp": 0, "layers.0.post_attention_layernorm": 1, "layers.0": 1},
    "falcon": {"h.0": 1, "h.0.mlp": 1, "h.0.self_attention.query_key_value.input": 0},
    "bloom": {"word_embeddings": 0, "h.0.mlp": 1},
}


@pytest.mark.parametrize("kind", WRITES)
def test_only_what_is_added_to_the_residual_stream_has_a_lens(kind: str, tmp_path: Path) -> None:
    model = loaded(make(tmp_path, kind))
    found = {name: int(lens_problem(model, name, D) is None) for name in WRITES[kind]}
    assert found == WRITES[kind]


def test_a_model_that_norms_the_stream_itself_has_none(tmp_path: Path) -> None:
    model = loaded(make(tmp_path, "openai-gpt"))
    reason = "vectors at 'h.0' are not added to the residual stream as they are: they have no logits"
    assert lens_problem(model, "h.0", D) == reason


def test_a_head_that_does_more_than_scale_has_no_lens(tmp_path: Path) -> None:
    model = loaded(make(tmp_path, "llama"))
    head = model.network.get_output_embeddings()
    model.network.get_output_embeddings = lambda: head
    # A soft cap keeps the order of logits, and any other function of them does not.
    model.network.lm_head = torch.nn.Sequential(head, torch.nn.Tanh())
    assert lens_problem(model, "layers.0", D) is None
    model.network.lm_head = torch.nn.Sequential(head, torch.nn.Hardswish())
    assert "are not those of its output embedding" in str(lens_problem(model, "layers.0", D))


BOTH_SIDES: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("llama", {"is_causal": False}),
    "qwen3": ("qwen3", {"is_causal": False}),
    "gemma3": ("gemma3_text", {"use_bidirectional_attention": True}),
    "bert": ("bert", {}),
    "roberta": ("roberta", {}),
    "electra": ("electra", {}),
}


@pytest.mark.parametrize("name", BOTH_SIDES)
def test_a_model_that_reads_later_tokens_is_refused(name: str, tmp_path: Path) -> None:
    kind, settings = BOTH_SIDES[name]
    with pytest.raises(
        InputError, match=r"model 'tiny' \(\w+\) is not causal: a later token changes the rows of earlier"
    ):
        loaded(make(tmp_path, kind, **settings))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_causal_and_padded(dtype: str, tmp_path: Path) -> None:
    model = loaded(make(tmp_path, "llama"), dtype=dtype)
    assert not model.layout.alone
    assert lens_problem(model, "layers.0.mlp", D) is None
    assert lens_problem(model, "layers.0.mlp.input", D) is not None


def test_rows_that_padding_changes_are_read_a_sequence_at_a_time(
    tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an expert does that takes at most so many tokens of a batch."""
    from transformers.models.llama import modeling_llama

    real = modeling_llama.LlamaMLP.forward
    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", lambda self, x: real(self, x) * (x.shape[0] * 1.0))
    model = loaded(make(tmp_path / "m", "llama"))
    assert model.layout.alone
    ingest_corpus(catalog, corpus_of(write_lines(tmp_path / "docs.jsonl", texts(6))), model)
    reader = relu_reader("sae", "layers.1", D)
    harvest(catalog, model, [reader], ["docs"], batch_tokens=1000)
    assert wrong_activations(catalog, model, reader, model.hookpoint("layers.1")) == []


def test_a_module_that_is_called_twice_is_found_before_anything_is_read(llama: LanguageModel, tmp_path: Path) -> None:
    model = loaded(make(tmp_path, "llama"))
    layers = model.network.base_model.layers
    layers[1].mlp = layers[0].mlp
    with pytest.raises(InputError, match=r"hookpoint 'layers\.0\.mlp' more than once"):
        check_hookpoints(model, ["layers.0.mlp"])


def test_a_text_longer_than_learned_positions_is_refused_by_a_trial_pass(
    tmp_path: Path, new_catalog: Callable[[str], Path]
) -> None:
    model = loaded(make(tmp_path, "gpt2"))
    # As of a family whose configuration says it by another name.
    model.network.config.n_positions = 4096
    with (
        Catalog(new_catalog("c")) as catalog,
        pytest.raises(InputError, match=r"cannot read 40 token ids.*ctx_len below"),
    ):
        ingest_corpus(catalog, corpus_of(write_lines(tmp_path / "d.jsonl", texts(3)), ctx_len=40), model)


def test_padded_vocabularies_and_tied_heads_are_read(tmp_path: Path) -> None:
    model = loaded(make(tmp_path, "llama", vocab_size=352, tie_word_embeddings=True))
    assert model.layout.vocabulary == 352
    assert unembedding(model).shape == (352, D)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused_at_load(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"has \d+ tokens beyond the 300 that the model has embeddings for, such as 300"
    ):
        loaded(make(tmp_path, "llama", vocab_size=300))
