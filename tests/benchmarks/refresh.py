"""Refresh: nothing to do, one percent more text, an edited prompt, each against the full build.

    python tests/benchmarks/refresh.py [--tokens 1000000] [--keep DIR] [--json]

A GPT-NeoX of 4 layers x d 256 with random weights and a random TopK SAE of 8,192 latents, k 32, as in harvest.py.
The text is docstrings: those with the smallest hashes up to `--tokens`, then the next percent, which `add` brings.
"""

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
sys.path.insert(0, str(Path(__file__).parents[2]))

import click

from tests.benchmarks.harvest import CTX, HOOKPOINT, WIDTH, K, make_model, random_sae

WORDS = ["matrix", "matrices", "eigenvalue", "eigenvalues", "linear", "diagonal", "vector", "vectors"]
SHORTLIST = 200


def write_texts(folder: Path, tokens: int) -> tuple[Path, Path]:
    """Two files of distinct docstrings in the order of their hashes: about `tokens` tokens, and a percent more."""
    from transformers import AutoTokenizer

    from catalog.sections import Corpus
    from ingest.embedded import MODEL_DIR
    from ingest.text.sources import read_corpus
    from ingest.text.splits import unique_documents

    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    texts = (text for _, text in read_corpus(Corpus(name="docs"), Counter()) if text.strip())
    ordered = sorted(unique_documents(texts), key=lambda pair: pair[0][16:])
    paths, seen, at = [], 0, 0
    for name, limit in (("first.jsonl", tokens), ("more.jsonl", tokens + tokens // 100)):
        paths.append(folder / name)
        with paths[-1].open("w", encoding="utf-8") as file:
            while at < len(ordered) and seen < limit:
                file.write(json.dumps({"text": ordered[at][1]}) + "\n")
                seen += len(tokenizer(ordered[at][1], add_special_tokens=False)["input_ids"])
                at += 1
    if seen < limit:
        raise click.ClickException(f"the installed packages have {seen} tokens of docstrings, not {limit}")
    return paths[0], paths[1]


def build(root: Path, tokens: int) -> None:
    """Text, model and sparse activations of the first file under `root`."""
    from catalog import Catalog
    from catalog.sections import Corpus, Model
    from ingest.corpus import ingest_corpus
    from ingest.harvest import Reader, harvest
    from ingest.models import load_model
    from ingest.run import record_model
    from ingest.sparse import file_digest

    make_model(root / "model")
    first, _ = write_texts(root, tokens)
    model = load_model(Model(name="neox", source=str(root / "model")))
    with Catalog.create(root / "catalog") as catalog:
        record_model(catalog, model)
        corpus = Corpus(name="docs", kind="jsonl", files=[str(first)], ctx_len=CTX, shard_tokens=125_000)
        ingest_corpus(catalog, corpus, model)
        sae = random_sae()
        sae.save(catalog.weights / "random")
        digest = file_digest(next((catalog.weights / "random").glob("*.safetensors")))
        row: dict[str, Any] = {"sae": "sae", "model": "neox", "hookpoint": HOOKPOINT, "architecture": "topk"}
        row |= {"width": WIDTH, "d": 256, "k": K, "weights": "random", "digest": digest, "config": "{}"}
        definition = json.dumps({"words": WORDS, "ignore_case": True})
        with catalog.write("the benchmark's configuration") as tx:
            tx.insert("saes", [row])
            concept = {"concept": "algebra", "kind": "words", "definition": definition, "shortlist": SHORTLIST}
            tx.insert("concepts", [concept])
        harvest(catalog, model, [Reader("sae", HOOKPOINT, sae, digest)], ["docs"])
