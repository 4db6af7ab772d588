"""Data selection: BM25 over 20 MB, documents embedded per second, TracIn over 640,000 tokens.

    python tests/benchmarks/selection_cost.py [--threads 2] [--documents 500] [--json]

Each part runs in a process of its own. Text is docstrings of installed packages; where they are fewer than asked,
copies with their words in another order fill up. Compare ratios, not seconds, on a machine that others use:

- bm25: words, index and scores of 20 MB by 100 seed documents, and the share that bm25s' own part takes.
- dense: what a first selection embeds (texts from the catalog, vectors into Lance) against the encoder's own `encode`
  of the same texts; then a selection over them, and the comparison alone over 200,000 vectors.
- tracin: a rerank of 20,000 windows of 32 cached rows (d 256) for a TopK parent of 4,096 latents and k 32, against a
  seed of 9,200 tokens (that of Specialized SAEs, section 3.2), beside the parent's encoder alone. Rows are random.
"""

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import click

MEGABYTES, SEEDS = 20, 100
WINDOWS, WINDOW, SEED_TOKENS = 20_000, 32, 9_200
D, WIDTH, K = 256, 4096, 32


def peak_mb() -> int:
    """Peak resident memory of this process, MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def docstrings(size: int) -> tuple[list[str], int]:
    """(texts of `size` bytes, how many of them are shuffled copies)."""
    from collections import Counter

    from catalog.study.text import Corpus
    from ingest.text.sources import read_corpus

    texts = list(dict.fromkeys(text for _, text in read_corpus(Corpus(name="docs"), Counter())))
    random.Random(0).shuffle(texts)
    originals, total, found, rng = len(texts), 0, [], random.Random(1)
    for number in range(1 << 30):
        text = texts[number % originals]
        if number >= originals:
            words = text.split()
            rng.shuffle(words)
            text = " ".join(words)
        found.append(text)
        total += len(text.encode())
        if total >= size:
            break
    return found, max(len(found) - originals, 0)


def bm25(_documents: int, _root: Path) -> dict[str, Any]:
    """20 MB of text, scored by 100 documents as queries."""
    import bm25s

    from ingest.selection.bm25 import bm25_scores

    texts, copies = docstrings(MEGABYTES * 10**6)
    seed = texts[:SEEDS]
    seconds = {}
    for pooling in ("mean", "max"):
        begun = time.perf_counter()
        bm25_scores(texts, seed, pooling)
        seconds[pooling] = time.perf_counter() - begun
    begun = time.perf_counter()
    index = bm25s.BM25()
    index.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
    bare = time.perf_counter() - begun
    return {
        "megabytes": MEGABYTES,
        "documents": len(texts),
        "shuffled_copies": copies,
        "mean_s": round(seconds["mean"], 1),
        "max_s": round(seconds["max"], 1),
        "bm25s_index_alone_s": round(bare, 1),
        "mean_over_bm25s_index": round(seconds["mean"] / bare, 2),
        "peak_memory_mb": peak_mb(),
    }


def dense(documents: int, root: Path) -> dict[str, Any]:
    """Embedding through the catalog beside the bare encoder, a selection, and the comparison alone."""
    import numpy as np

    from catalog import Catalog
    from catalog.study.selection import Selection
    from catalog.study.text import Corpus, Model
    from ingest.model.language_model import load_model
    from ingest.model.text_encoder import load_encoder
    from ingest.selection.dense import dense_scores
    from ingest.selection.documents import read_pool
    from ingest.selection.select import select_documents
    from ingest.text.corpus import ingest_corpus

    texts, _ = docstrings(MEGABYTES * 10**6)
    lines = (json.dumps({"text": text}) + "\n" for text in texts[: documents * 5 // 4])
    (root / "docs.jsonl").write_text("".join(lines))
    model = load_model(Model())
    with Catalog.create(root / "catalog") as catalog:
        ingest_corpus(catalog, Corpus(name="docs", kind="jsonl", files=(str(root / "docs.jsonl"),)), model)
        pool = read_pool(catalog, "docs")
        ours = pool.texts(catalog)
        encoder = load_encoder()
        encoder.encode(ours[:64])
        spec = Selection(name="s", method="dense", pool="docs", seed="docs", seed_splits=("val",), tokens=50_000)
        # The encoder alone before and after, as others use the machine.
        bare = [_encode(encoder, ours)]
        first = select_documents(catalog, model, spec)
        bare.append(_encode(encoder, ours))
        throughput = first.embedded / first.seconds["embed"]
        begun = time.perf_counter()
        report = select_documents(catalog, model, spec.model_copy(update={"name": "t"}))
        selection = time.perf_counter() - begun
    vectors = np.random.default_rng(0).standard_normal((200_000, 384), np.float32)
    begun = time.perf_counter()
    dense_scores(vectors, vectors[:SEEDS], "max")
    return {
        "documents": len(pool),
        "tokens": int(pool.tokens.sum()),
        "documents_per_s": round(throughput, 1),
        "bare_documents_per_s": [round(one, 1) for one in bare],
        "share_of_bare": round(throughput / (sum(bare) / 2), 3),
        "embedded_by_the_first_selection": first.embedded,
        "embedded_by_the_second": report.embedded,
        "selection_s": round(selection, 2),
        "selection_seconds": report.seconds,
        "comparing_200000_with_100_s": round(time.perf_counter() - begun, 2),
        "peak_memory_mb": peak_mb(),
    }


def _encode(encoder: Any, texts: list[str]) -> float:
    """Documents per second of the bare encoder."""
    begun = time.perf_counter()
    encoder.encode(texts, normalize_embeddings=True)
    return len(texts) / (time.perf_counter() - begun)


def tracin(_documents: int, _root: Path) -> dict[str, Any]:
    """The rerank on cached rows, and the parent's encoder alone on the same rows."""
    from collections.abc import Iterator

    import numpy as np
    import torch

    from ingest.sae.architecture import Weights
    from ingest.sae.config import SAEConfig
    from ingest.sae.model import SAE
    from ingest.sae.training.rows import as_tensor
    from ingest.selection.tracin import CHUNK, document_influence, seed_gradient

    directions = torch.nn.functional.normalize(torch.randn(WIDTH, D, generator=torch.Generator().manual_seed(0)))
    weights = Weights(directions.clone(), torch.zeros(WIDTH), directions, torch.full((D,), 0.01))
    sae = SAE(SAEConfig(D, WIDTH, K, "random", "h"), weights)
    rows = np.random.default_rng(0).standard_normal((WINDOWS * WINDOW, D), np.float32).astype(np.float16)
    seed = np.random.default_rng(1).standard_normal((SEED_TOKENS, D), np.float32).astype(np.float16)

    def cached() -> Iterator[tuple[torch.Tensor, Any]]:
        for start in range(0, len(rows), CHUNK):
            stop = min(start + CHUNK, len(rows))
            yield as_tensor(rows[start:stop]), np.arange(start, stop) // WINDOW

    seed_gradient(sae, [as_tensor(seed[:512])])
    base = peak_mb()
    begun = time.perf_counter()
    gradient = seed_gradient(sae, [as_tensor(seed)])
    middle = time.perf_counter()
    document_influence(sae, gradient, cached(), WINDOWS)
    end = time.perf_counter()
    for x, _ in cached():
        sae.encode(x)
    encoded = time.perf_counter() - end
    return {
        "tokens": len(rows),
        "seed_gradient_s": round(middle - begun, 2),
        "rerank_s": round(end - middle, 1),
        "total_s": round(end - begun, 1),
        "tokens_per_s": round(len(rows) / (end - begun)),
        "encoder_alone_s": round(encoded, 1),
        "rerank_over_encoder": round((end - middle) / encoded, 2),
        "memory_before_mb": base,
        "peak_memory_mb": peak_mb(),
    }


PARTS = {"bm25": bm25, "dense": dense, "tracin": tracin}


def in_process(name: str, documents: int, threads: int, folder: str) -> dict[str, Any]:
    """Run one part of this file in a fresh process; its result."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(root)}
    command = [sys.executable, __file__, "--part", name, folder, "--documents", str(documents)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        raise click.ClickException(f"the part {name} failed with exit code {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@click.command()
@click.option("--threads", default=2, show_default=True, help="Threads of torch and numpy.")
@click.option("--documents", default=500, show_default=True, help="Documents to embed.")
@click.option("--only", multiple=True, type=click.Choice(list(PARTS)), help="These parts alone.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--part", type=(str, str), hidden=True)
def main(threads: int, documents: int, only: tuple[str, ...], as_json: bool, part: tuple[str, str] | None) -> None:
    """Measure, and print a table or one JSON object."""
    if part is not None:
        name, folder = part
        click.echo(json.dumps(PARTS[name](documents, Path(folder))))
        return
    results = {}
    for name in only or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            results[name] = in_process(name, documents, threads, folder)
    if as_json:
        click.echo(json.dumps(results))
        return
    for name, measured in results.items():
        for key, value in measured.items():
            click.echo(f"{name:8} {key:40} {value}")
        click.echo()


if __name__ == "__main__":
    main()
