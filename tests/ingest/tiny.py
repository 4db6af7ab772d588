"""Tiny random models with their tokenizers, small texts, and runs that are killed: what the ingest tests share."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from catalog import Catalog
from catalog.study.text import Corpus, Model
from ingest.model.language_model import LanguageModel, load_model

VOCABULARY = 320
CONTEXT = 32
D = 16
WORDS = (
    *("the", "a", "matrix", "of", "linear", "map", "sum", "over", "rows", "and", "columns", "returns", "value"),
    *("if", "None", "array", "→", "naïve", "日本", "x", "y", "3.14"),
)

MAKERS = {
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=D,
            intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            max_position_embeddings=CONTEXT,
            initializer_range=0.3,
        )
    ),
    "neox": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=VOCABULARY,
            hidden_size=D,
            intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            max_position_embeddings=CONTEXT,
            initializer_range=0.3,
        )
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=D, n_layer=3, n_head=2, n_positions=CONTEXT, initializer_range=0.3)
    ),
}


@cache
def backend(bos: bool = True) -> Tokenizer:
    """A byte-level BPE over WORDS, with a BOS before each text if `bos`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return tokenizer


def save_tokenizer(folder: Path, bos: bool = True) -> None:
    PreTrainedTokenizerFast(tokenizer_object=backend(bos), bos_token="<s>").save_pretrained(folder)


def save_model(folder: Path, kind: str = "llama", bos: bool = True, seed: int = 0) -> Path:
    """A random model of three layers and width 16, with its tokenizer."""
    torch.manual_seed(seed)
    MAKERS[kind]().save_pretrained(folder)
    save_tokenizer(folder, bos)
    return folder


def loaded(folder: Path, **settings: Any) -> LanguageModel:
    return load_model(Model(name="tiny", source=str(folder), device="cpu", **settings))


def texts(n: int, seed: int = 0) -> list[str]:
    """Documents of 3 to 60 words, all different."""
    rng = random.Random(seed)
    return [f"{i} " + " ".join(rng.choices(WORDS, k=rng.randint(3, 60))) for i in range(n)]


def repeats(catalog: Catalog, corpus: str, split: str) -> set[int]:
    """Positions within 16 tokens that stand in train text, by comparing runs of tokens."""
    ordered = "SELECT list(position ORDER BY position), list(token ORDER BY position) FROM tokens JOIN documents "
    ordered += "USING (corpus, document) WHERE {} GROUP BY corpus, document"
    seen, found = set(), set()
    for _, tokens in catalog.rows(ordered.format("split = 'train'")):
        seen |= {tuple(tokens[i : i + 16]) for i in range(len(tokens) - 15)}
    for positions, tokens in catalog.rows(ordered.format("split = ? AND corpus = ?"), [split, corpus]):
        for i in range(len(tokens) - 15):
            if tuple(tokens[i : i + 16]) in seen:
                found |= set(positions[i : i + 16])
    return found


def write_lines(path: Path, documents: Iterable[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return path


def corpus_of(path: Path, **settings: Any) -> Corpus:
    """A JSON Lines corpus in sequences of 16 tokens and shards of about 300."""
    return Corpus(
        **{"name": "docs", "kind": "jsonl", "files": (str(path),), "ctx_len": 16, "shard_tokens": 300, **settings}
    )


TABLES = {
    "documents": "SELECT * FROM documents ORDER BY corpus, document",
    "tokens": "SELECT * FROM tokens ORDER BY corpus, position",
    "corpora": "SELECT * FROM corpora ORDER BY corpus",
    "shards": "SELECT * EXCLUDE (path) FROM shards ORDER BY relation, corpus, sae, shard",
    "activations": "SELECT * FROM activations ORDER BY sae, corpus, feature, position",
    "saes": "SELECT * FROM saes ORDER BY sae",
    "problems": "SELECT * FROM problems ORDER BY ALL",
    "models": "SELECT * FROM models ORDER BY model",
    "vocabulary": "SELECT * FROM vocabulary ORDER BY model, token",
}


def content(catalog: Catalog, *tables: str) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of the tables, in the order of their keys, without the names of files."""
    return {table: catalog.rows(TABLES[table]) for table in tables or TABLES}


def run_killed(study: Path, jobs: dict[str, tuple[Path, str, int, str]]) -> dict[str, int]:
    """Ingest `study` once per job, each in its own process that SIGKILLs itself; how each of them ended.

    A job is (catalog, "module:attribute", n, "before" or "after"): the n-th call is where it dies.
    """
    said = {name: [str(root), *rest] for name, (root, *rest) in jobs.items()}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("killed_ingest.py")), str(study)],
        input=json.dumps(said),
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))
