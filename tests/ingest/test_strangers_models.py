"""Models from strangers: their code and pickles are not run; silent hubs; text that names special tokens."""

import json
import os
import pickle
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from catalog import Catalog
from catalog.errors import InputError
from catalog.study.text import Model
from ingest.model.catalog_model import load_recorded, remember_trust
from ingest.model.hub import locate
from ingest.model.language_model import load_model
from ingest.model.text_encoder import load_encoder
from ingest.text.corpus import ingest_corpus
from ingest.text.tokenise import tokenise
from tests.ingest.families import make
from tests.ingest.tiny import VOCABULARY, backend, corpus_of, loaded, write_lines

CODE = """
import pathlib
pathlib.Path({mark!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM
class OwnConfig(LlamaConfig):
    model_type = "own"
class Own(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def coded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose architecture is Python code beside its weights; running it leaves the file `mark`."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = make(tmp_path / "coded", "llama")
    said = json.loads((folder / "config.json").read_text())
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}}
    (folder / "config.json").write_text(json.dumps({**said, **own}))
    (folder / "own.py").write_text(CODE.format(mark=str(tmp_path / "mark")))
    return folder


def never_asked(*_: object) -> str:
    raise AssertionError("somebody was asked on the terminal")


def test_code_beside_the_weights_is_run_only_if_the_study_says_so(
    coded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", never_asked)
    monkeypatch.setenv("SAEQL_CONFIG", str(tmp_path / "config"))
    with pytest.raises(InputError, match=r"comes with code of its own.*trust_remote_code = true in \[model\]"):
        loaded(coded)
    # As a catalog from somebody else names it, whatever the study in it says.
    with pytest.raises(InputError, match="comes with code of its own"):
        load_recorded("m", str(coded), None, {"trust_remote_code": True})
    assert not (tmp_path / "mark").exists()
    spec = Model(name="m", source=str(coded), trust_remote_code=True)
    remember_trust(spec)
    assert type(load_recorded("m", str(coded), None).network).__name__ == "Own"
    assert (tmp_path / "mark").exists()


def test_code_of_a_tokenizer_is_not_run(coded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", never_asked)
    folder = make(tmp_path / "m", "llama")
    path = folder / "tokenizer_config.json"
    own = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **own}))
    (folder / "own.py").write_text(CODE.format(mark=str(tmp_path / "mark")))
    with suppress(InputError):
        loaded(folder)
    assert not (tmp_path / "mark").exists()


def test_code_of_an_encoder_is_not_run(coded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", never_asked)
    with pytest.raises(InputError, match="comes with code of its own"):
        load_encoder(str(coded))
    assert not (tmp_path / "mark").exists()


def test_an_attention_kernel_on_the_hub_is_not_fetched(tmp_path: Path) -> None:
    folder = make(tmp_path, "llama")
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**said, "attn_implementation": "somebody/kernel"}))
    with pytest.raises(InputError, match=r"names code on the hub as its attention \(somebody/kernel\)"):
        loaded(folder)


class Hostile:
    """Unpickling it touches a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("way", ["torch", "pickle"])
def test_weights_as_pickles_are_read_as_tensors_alone(way: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "m", "llama")
    tensors = load_file(folder / "model.safetensors")
    digest = loaded(folder).digest
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert loaded(folder).digest == digest
    hostile = {**tensors, "extra": Hostile(tmp_path / "mark")}
    if way == "torch":
        torch.save(hostile, folder / "pytorch_model.bin")
    else:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(hostile))
    with pytest.raises(InputError, match="no causal language model can be loaded"):
        loaded(folder)
    assert not (tmp_path / "mark").exists()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address at which nothing answers."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
    template = f"http://127.0.0.1:{port}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    return f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("what", ["model", "encoder"])
def test_a_hub_that_does_not_answer_is_asked_once(hub: str, what: str, capfd: pytest.CaptureFixture[str]) -> None:
    begun = time.monotonic()
    with pytest.raises(
        InputError, match=r"there is no folder.*not in the hub's cache, and the hub does not answer"
    ) as said:
        load_model(Model(name="m", source="no-such-gpt2")) if what == "model" else load_encoder(
            "nobody/no-such-encoder"
        )
    assert time.monotonic() - begun < 10
    assert "\n" not in str(said.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("source", ["./gone", "/gone/too", "a/b/c", "~/gone", "not an id"])
def test_what_can_only_be_a_folder_is_not_asked_for(source: str) -> None:
    with pytest.raises(InputError, match=f"model directory {source} does not exist"):
        locate(source, "model")


TEXTS = ("<s> the matrix", "the <s> matrix <s>", "<s><s>", "a <pad> of <role> rows", "</s>the")


def test_text_becomes_no_special_token(tmp_path: Path, catalog: Catalog) -> None:
    folder = make(tmp_path / "m", "llama")
    more = {"pad_token": "<pad>", "additional_special_tokens": ["<role>"]}
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(backend().to_str()), bos_token="<s>", **more)
    made.save_pretrained(folder)
    # The tokenizer has two more than the model; no text becomes one of them.
    model = loaded(folder)
    assert len(model.tokenizer) == VOCABULARY + 2
    ingest_corpus(catalog, corpus_of(write_lines(tmp_path / "docs.jsonl", TEXTS)), model)
    assert catalog.value("SELECT count(*) FROM tokens WHERE token = ?", [model.bos]) == 0
    assert catalog.value("SELECT max(token) FROM tokens") < VOCABULARY
    ids = catalog.rows(
        "SELECT text, list(token ORDER BY position) FROM documents JOIN tokens USING (corpus, document) GROUP BY text"
    )
    assert {text: model.tokenizer.decode(tokens) for text, tokens in ids} == {text: text for text in TEXTS}


def test_a_document_with_a_bos_that_is_an_ordinary_word_too_is_left_out() -> None:
    words = Tokenizer(models.WordLevel({"<s>": 0, "a": 1, "[UNK]": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", unk_token="[UNK]")
    assert [one.ids.tolist() for one in tokenise(tokenizer, iter([("0" * 32, "d", "a b")]))] == [[1, 2]]
    found = list(tokenise(tokenizer, iter([("0" * 32, "d", "a <s>"), ("1" * 32, "e", "a")])))
    assert [one.ids.tolist() for one in found] == [[], [1]]
    assert "becomes the special token '<s>'" in found[0].problem
