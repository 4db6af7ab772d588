"""Hookpoints by other libraries' names: against sums of plain hooks of torch, for one model of each kind."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from catalog.errors import InputError, UnknownName
from catalog.study.file import Study
from ingest.model import hookpoint_list
from ingest.model.hookpoint_list import list_hookpoints
from ingest.model.language_model import LanguageModel
from ingest.model.other_names import by_own_names
from queries.cli.main import main
from tests.ingest.families import make
from tests.ingest.tiny import D, loaded

KINDS = {
    "llama": ("layers", "self_attn", "mlp", "post_attention_layernorm.input"),
    "gpt2": ("h", "attn", "mlp", "ln_2.input"),
    "gemma2": ("layers", "post_attention_layernorm", "post_feedforward_layernorm", "pre_feedforward_layernorm.input"),
    "gemma3_text": (
        *("layers", "post_attention_layernorm", "post_feedforward_layernorm"),
        "pre_feedforward_layernorm.input",
    ),
    "olmo2": ("layers", "post_attention_layernorm", "post_feedforward_layernorm", "mlp.input"),
    "gpt_neox": ("layers", "attention", "mlp", None),
    "falcon": ("h", "self_attention", "mlp", None),
    "mixtral": ("layers", "self_attn", "mlp", "post_attention_layernorm.input"),
}
"""Kind -> what it calls its blocks, attention's part, the MLP's part, and the place between the two."""
IDS = torch.arange(2, 22).view(2, 10)


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LanguageModel]:
    made: dict[str, LanguageModel] = {}

    def model(kind: str) -> LanguageModel:
        if kind not in made:
            made[kind] = loaded(make(tmp_path_factory.mktemp(kind) / "model", kind))
        return made[kind]

    return model


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_transformer_lens_mean_the_parts_of_the_residual_stream(
    model_of: Callable[[str], LanguageModel], kind: str
) -> None:
    model, (blocks, attention, mlp, between) = model_of(kind), KINDS[kind]
    names = {part: f"blocks.1.hook_{part}" for part in ("resid_pre", "attn_out", "mlp_out", "resid_post")}
    assert [model.named(name) for name in names.values()] == [
        *(f"{blocks}.1.input", f"{blocks}.1.{attention}", f"{blocks}.1.{mlp}", f"{blocks}.1")
    ]
    rows = model.read(IDS, list(names.values()))
    pre, attended, fed, post = (rows[name] for name in names.values())
    torch.testing.assert_close(pre + attended + fed, post, rtol=0, atol=1e-4)
    # Block 1 reads what block 0 writes, and transformers' own list of states has both.
    states = model.network(IDS, output_hidden_states=True).hidden_states
    torch.testing.assert_close(pre, states[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(model.read(IDS, ["blocks.0.hook_resid_post"])["blocks.0.hook_resid_post"], pre)
    middle = "blocks.1.hook_resid_mid"
    if between is None:
        with pytest.raises(UnknownName, match=r"has no hookpoint 'blocks.1.hook_resid_mid'"):
            model.place(middle)
    else:
        assert model.named(middle) == f"{blocks}.1.{between}"
        torch.testing.assert_close(model.read(IDS, [middle])[middle], pre + attended, rtol=0, atol=1e-5)


def test_layers_stands_for_the_list_of_blocks_and_prefixes_are_understood(
    model_of: Callable[[str], LanguageModel],
) -> None:
    gpt2, neox = model_of("gpt2"), model_of("gpt_neox")
    assert gpt2.place("layers.1.mlp").module is gpt2.place("h.1.mlp").module
    assert gpt2.place("transformer.h.1").module is gpt2.place("h.1").module
    assert neox.place("gpt_neox.layers.1.mlp").module is neox.place("layers.1.mlp").module
    assert gpt2.place("blocks.1.mlp.hook_in").enters
    # What names a module already stays as the study says it.
    assert neox.named("gpt_neox.layers.1.mlp") == "gpt_neox.layers.1.mlp"


def test_names_that_mean_nothing_here_are_refused_with_what_they_are(model_of: Callable[[str], LanguageModel]) -> None:
    llama = model_of("llama")
    for name in (
        "blocks.7.hook_resid_post",
        "blocks.1.hook_nothing",
        "blocks.x.hook_resid_post",
        "layers.1.nothing",
        "",
    ):
        with pytest.raises(UnknownName, match=r"has no hookpoint .*; it has layers.0"):
            llama.place(name)
    with pytest.raises(UnknownName, match="adds to the residual stream behind its MLP"):
        llama.place("blocks.7.hook_mlp_out")


def test_blocks_whose_parts_do_not_sum_to_their_output_have_no_such_names(tmp_path: Path) -> None:
    for kind in ("bloom", "granite"):  # the MLP adds the stream itself; parts are scaled
        model = loaded(make(tmp_path / kind, kind))
        with pytest.raises(UnknownName, match="hook_mlp_out"):
            model.place("blocks.1.hook_mlp_out")


def test_a_study_gets_the_models_own_names(model_of: Callable[[str], LanguageModel], tmp_path: Path) -> None:
    text = 'name = "s"\n[[sae]]\nname = "a"\nhookpoint = "blocks.1.mlp.hook_in"\ntarget = "blocks.1.hook_mlp_out"\n'
    text += '[[sae]]\nname = "b"\nhookpoint = "h.0"\n'
    study = by_own_names(Study.parse(text, folder=tmp_path), model_of("gpt2"))
    assert [(sae.hookpoint, sae.target) for sae in study.saes] == [("h.1.mlp.input", "h.1.mlp"), ("h.0", None)]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "gemma3_text", "opt", "mamba"])
def test_hookpoints_are_listed_with_widths_without_loading_weights(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path / kind, kind)
    model = loaded(folder)
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    listed = {one.hookpoint: one.width for one in list_hookpoints(str(folder))}
    expected = {name: rows.shape[-1] for name in listed for rows in model.read(IDS, [name]).values()}
    assert listed == expected
    assert [name for name in listed if not name.endswith(".input")] == [
        name for name in model.hookpoints() if name in listed
    ]


def test_a_model_whose_code_wants_values_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    load = hookpoint_list.load_model
    monkeypatch.setattr(hookpoint_list, "load_model", lambda spec: (calls.append(spec), load(spec))[1])
    listed = list_hookpoints(str(make(tmp_path / "mixtral", "mixtral")))
    assert len(calls) == 1
    assert [one for one in listed if one.hookpoint == "layers.1"] == [("layers.1", D, "blocks.1.hook_resid_post")]
    assert ("layers.1.mlp", D, "blocks.1.hook_mlp_out") in listed


@pytest.mark.parametrize("kind", [*KINDS, "bloom", "granite", "opt", "mamba", "qwen3_moe"])
def test_the_other_names_that_are_listed_are_those_that_a_study_may_use(tmp_path: Path, kind: str) -> None:
    folder = make(tmp_path / "model", kind)
    model = loaded(folder)
    listed = {one.other: one.hookpoint for one in list_hookpoints(str(folder)) if one.other}
    accepted = {}
    for number in (0, 1):
        for part in ("resid_pre", "attn_out", "mlp_out", "resid_post"):
            other = f"blocks.{number}.hook_{part}"
            try:
                accepted[other] = model.named(other)
                model.place(accepted[other])
            except UnknownName:
                accepted.pop(other, None)
    assert listed == accepted
    assert ("blocks.1.hook_attn_out" in listed) == (kind in (*KINDS, "qwen3_moe"))


def test_the_command_lists_a_block_and_names_what_is_no_model(tmp_path: Path) -> None:
    said = CliRunner().invoke(main, ["hookpoints", "embedded", "--layer", "1", "--json"])
    assert said.exit_code == 0, said.output
    assert '"layers.1.input"' in said.output
    assert '"layers.0"' not in said.output
    said = CliRunner().invoke(main, ["hookpoints", str(tmp_path / "none")])
    assert (said.exit_code, "does not exist" in said.output) == (1, True)
    with pytest.raises(InputError, match="no causal language model"):
        list_hookpoints(str(tmp_path))


@pytest.mark.parametrize(("kind", "scale"), [("gemma2", D**0.5), ("gemma3_text", D**0.5), ("llama", 1.0)])
def test_the_stream_before_the_first_block_is_the_scaled_embedding(
    model_of: Callable[[str], LanguageModel], kind: str, scale: float
) -> None:
    model = model_of(kind)
    before = model.read(IDS, ["blocks.0.hook_resid_pre"])["blocks.0.hook_resid_pre"]
    rows = model.network.state_dict()["model.embed_tokens.weight"]
    torch.testing.assert_close(before, rows[IDS] * scale, rtol=1e-3, atol=1e-5)
