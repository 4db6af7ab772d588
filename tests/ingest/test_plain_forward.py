"""Stored activations against a plain forward pass of transformers: no code of saeql's between text and expected rows.

Text goes through the tokenizer as transformers loads it, sequences are cut by hand, and the states are those that
transformers itself gives. The SAE is the identity and its negative, so that its latents hold the rows.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from tokenizers import AddedToken, Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from catalog import Catalog
from ingest.activations.harvest import harvest
from ingest.model.identity import record_model
from ingest.sae.architecture import Weights
from ingest.sae.config import SAEConfig
from ingest.sae.model import SAE
from ingest.stored.reader import Reader
from ingest.text.corpus import ingest_corpus
from tests.ingest.families import make
from tests.ingest.tiny import D, backend, corpus_of, loaded, write_lines
from tests.ingest.tokenizers_of_all_kinds import KINDS

TEXTS = ("the matrix of the rows, a b", "rows of a matrix: the b é 日 a a a b b b of of of the the the matrix", "a")
CTX = 16


class Case(NamedTuple):
    """A model and its tokenizer."""

    kind: str = "llama"
    hookpoint: str = "layers.0"
    state: int = 1
    """Which of transformers' hidden states it is: 0 is what goes into the first block."""
    tokenizer: str = "byte-level"
    bos: bool = True
    settings: Mapping[str, Any] = MappingProxyType({})


CASES = {
    "a block's output": Case(),
    "a block's input": Case(hookpoint="layers.1.input"),
    "another library's name": Case(hookpoint="blocks.0.hook_resid_post"),
    "the whole model's name": Case("gpt_neox", "gpt_neox.layers.0"),
    "GPT-2 by layers": Case("gpt2", "layers.0"),
    "Gemma's scaled embeddings": Case("gemma3_text", "blocks.0.hook_resid_pre", 0),
    "Gemma, a block": Case("gemma2", "layers.0"),
    "without BOS": Case(bos=False),
    "tied embeddings": Case(settings={"tie_word_embeddings": True}),
    "bytes for unknown characters": Case(tokenizer="Llama 2"),
    "bytes, without BOS": Case(tokenizer="Unigram, bytes", bos=False),
    "a marker before words": Case(tokenizer="Metaspace always"),
    "a marker inside of the text alone": Case(tokenizer="Metaspace first"),
    "added tokens": Case(tokenizer="byte-level, added tokens"),
    "added tokens behind a marker": Case(tokenizer="Metaspace, added tokens", bos=False),
    "a larger table of embeddings than of tokens": Case(settings={"vocab_size": 400}),
}


def with_tokenizer(folder: Path, case: Case) -> Path:
    """The model with a tokenizer of that kind, whose BOS is a token of its own."""
    backend_ = Tokenizer.from_str((KINDS[case.tokenizer]() if case.tokenizer != "byte-level" else backend()).to_str())
    backend_.post_processor = None
    backend_.add_special_tokens([AddedToken("<bos>", normalized=False)])
    size = backend_.get_vocab_size()
    settings = {"vocab_size": size, "bos_token_id": size - 1, **case.settings}
    make(folder, case.kind, **settings)
    made = PreTrainedTokenizerFast(tokenizer_object=backend_, bos_token="<bos>")
    made.save_pretrained(folder)
    return folder


def both_signs(hookpoint: str) -> Reader:
    """An SAE whose latents are a row's positive and negative parts."""
    signs = torch.cat([torch.eye(D), -torch.eye(D)])
    config = SAEConfig(d_in=D, width=2 * D, k=None, model_name="tiny", hookpoint=hookpoint, architecture="relu")
    sae = SAE(config, Weights(signs, torch.zeros(2 * D), signs.clone(), torch.zeros(D)))
    return Reader("sae", hookpoint, sae, "digest")


def plain(folder: Path, case: Case) -> tuple[dict[str, list[int]], dict[str, torch.Tensor]]:
    """Of each text its token ids, and its rows `[tokens, d]`, by transformers alone."""
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lead = [tokenizer.bos_token_id] if case.bos else []
    ids, rows = {}, {}
    for text in TEXTS:
        ids[text] = tokenizer(text, add_special_tokens=False).input_ids
        body, found = CTX - len(lead), []
        for start in range(0, len(ids[text]), body):
            batch = torch.tensor([lead + ids[text][start : start + body]])
            with torch.inference_mode():
                states = network(batch, output_hidden_states=True).hidden_states
            found.append(states[case.state][0, len(lead) :])
        rows[text] = torch.cat(found)
    return ids, rows


@pytest.mark.parametrize("name", CASES)
def test_stored_activations_are_the_rows_of_a_plain_forward_pass(catalog: Catalog, tmp_path: Path, name: str) -> None:
    case = CASES[name]
    folder = with_tokenizer(tmp_path / "model", case)
    model = loaded(folder, bos="always" if case.bos else "never")
    record_model(catalog, model)
    ingest_corpus(catalog, corpus_of(write_lines(tmp_path / "docs.jsonl", TEXTS), ctx_len=CTX), model)
    harvest(catalog, model, [both_signs(model.named(case.hookpoint))], ["docs"])
    ids, rows = plain(folder, case)
    documents = catalog.rows("SELECT text, start, tokens FROM documents")
    assert {text for text, *_ in documents} == set(TEXTS)
    for text, start, n in documents:
        tokens = catalog.rows(
            "SELECT token FROM tokens WHERE position >= ? AND position < ? ORDER BY position", [start, start + n]
        )
        assert [token for (token,) in tokens] == ids[text]
        stored = torch.zeros(n, 2 * D)
        for position, feature, value in catalog.rows(
            "SELECT position, feature, activation FROM activations WHERE position >= ? AND position < ?",
            [start, start + n],
        ):
            stored[position - start, feature] = value
        found = stored[:, :D] - stored[:, D:]
        # Activations are of half precision: 11 bits.
        torch.testing.assert_close(found, rows[text].float(), rtol=1e-3, atol=1e-4)
        assert rows[text].abs().max() > 0.1
