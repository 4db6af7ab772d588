"""Harvest and the steps over it: tokens/s, memory, bytes per activation, milliseconds per feature.

    python tests/benchmarks/harvest_rate.py [--tokens 250000 --tokens 1000000] [--steps] [--json]

The task is the one that the peers were measured on: a GPT-NeoX of 4 layers x d 256 with 4,096 tokens, a TopK
SAE of 8,192 latents and k 32 on layer 2, ctx 256, one core. Weights are random, text is docstrings. Each size
runs in a process of its own, so that its peak memory is its own. `limit` is forward + encode alone, in the
same process on the same batches of one shard; `encode_gemm` is the encoder's product alone. Compare ratios, not
seconds, on a machine that others use: the peers' figures were taken where that product ran at 18,771 tokens/s.
Where eai-delphi is installed, its cache runs in the same run on the same model, SAE and text.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import click

HOOKPOINT, WIDTH, K, CTX = "layers.2", 8192, 32, 256
DELPHI_TOKENS = 60_000
"""It holds 2.5 GB per million tokens; its speed does not depend on how many there are."""


def peak_mb() -> float:
    """Peak resident memory of this process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def make_model(folder: Path) -> None:
    """The peers' GPT-NeoX with random weights and the embedded model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

    from ingest.embedded import MODEL_DIR

    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=4096,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=1024,
        max_position_embeddings=CTX,
        bos_token_id=0,
        eos_token_id=0,
    )
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(MODEL_DIR).save_pretrained(folder)


def worker(tokens: int, root: Path) -> dict[str, Any]:
    """Build a catalog of `tokens` tokens under `root` and harvest it, on one core."""
    import torch

    from catalog import Catalog
    from catalog.study.text import Corpus, Model
    from ingest.activations.finite import default_batch
    from ingest.activations.harvest import harvest
    from ingest.model.batches import batches, load_sequences
    from ingest.model.language_model import load_model
    from ingest.stored.reader import Reader
    from ingest.text.corpus import ingest_corpus

    torch.set_num_threads(1)
    make_model(root / "model")
    model = load_model(Model(name="neox", source=str(root / "model")))
    with Catalog.create(root / "catalog") as catalog:
        ingest_corpus(catalog, Corpus(name="docs", max_tokens=tokens, ctx_len=CTX), model)
        sae = random_sae()
        reader = Reader("sae", HOOKPOINT, sae, "random")
        base = peak_mb()
        begun = time.perf_counter()
        report = harvest(catalog, model, [reader], ["docs"])
        wall = time.perf_counter() - begun
        memory = peak_mb()
        sequences = load_sequences(catalog, "docs", 0)
        seen, padded, begun = 0, 0, time.perf_counter()
        with torch.inference_mode():
            for batch in batches(sequences, model.bos, default_batch(model)):
                sae.encode(model.read(batch.ids, [HOOKPOINT])[HOOKPOINT][batch.real])
                seen += len(batch.positions)
                padded += batch.ids.numel()
        limit = seen / (time.perf_counter() - begun)
    rows, columns = torch.randn(4096, 256), torch.randn(256, WIDTH)
    begun = time.perf_counter()
    for _ in range(10):
        rows @ columns
    gemm = 10 * len(rows) / (time.perf_counter() - begun)
    return {
        "tokens": report.tokens,
        "tokens_per_s": round(report.tokens / wall),
        "limit_tokens_per_s": round(limit),
        "encode_gemm_tokens_per_s": round(gemm),
        "share_of_encode_gemm": round(report.tokens / wall / gemm, 3),
        "share_of_limit": round(report.tokens / wall / limit, 3),
        "seconds": {name: round(value, 1) for name, value in report.seconds.items()},
        "padding": round(1 - (seen + len(sequences.lengths)) / padded, 4),
        "activations": report.activations,
        "bytes_per_activation": round(report.bytes / report.activations, 2),
        "memory_before_mb": round(base),
        "peak_memory_mb": round(memory),
    }


def delphi(tokens: int, root: Path) -> dict[str, Any]:
    """What eai-delphi's cache does with the same model, SAE and text, on one core: sequences of full length only.

    Its SAE interface takes dense latents, so the kept pairs are scattered into them, as its own wrappers do.
    """
    import torch
    from delphi.latents.cache import LatentCache

    from catalog import Catalog
    from catalog.study.text import Model
    from ingest.model.batches import load_sequences
    from ingest.model.language_model import load_model

    torch.set_num_threads(1)
    model = load_model(Model(name="neox", source=str(root / "model")))
    with Catalog(root / "catalog", read_only=True) as catalog:
        sequences = load_sequences(catalog, "docs", 0)
    full = sequences.starts[sequences.lengths == CTX - 1][: tokens // CTX]
    ids = torch.stack([torch.from_numpy(sequences.ids[start : start + CTX - 1].astype("int64")) for start in full])
    sae = random_sae()

    def dense(rows: torch.Tensor) -> torch.Tensor:
        code = sae.encode(rows.flatten(0, 1))
        latents = torch.zeros(len(code.values), WIDTH).scatter_(1, code.indices, code.values)
        return latents.view(*rows.shape[:2], WIDTH)

    base = peak_mb()
    cache = LatentCache(model.network, {f"gpt_neox.{HOOKPOINT}": dense}, batch_size=8)
    begun = time.perf_counter()
    cache.run(ids.numel(), ids)
    cache.save_splits(4, root / "delphi")
    seconds = time.perf_counter() - begun
    done = len(ids) // 8 * 8 * ids.shape[1]
    size = sum(path.stat().st_size for path in (root / "delphi").rglob("*.safetensors"))
    return {
        "tokens": done,
        "delphi_tokens_per_s": round(done / seconds),
        "delphi_memory_before_mb": round(base),
        "delphi_peak_memory_mb": round(peak_mb()),
        "delphi_bytes_per_activation": round(size / (done * K), 2),
    }


def random_sae() -> Any:
    """A TopK SAE with random unit directions."""
    import torch

    from ingest.sae.architecture import Weights
    from ingest.sae.config import SAEConfig
    from ingest.sae.model import SAE

    decoder = torch.randn(WIDTH, 256, generator=torch.Generator().manual_seed(0))
    decoder /= decoder.norm(dim=1, keepdim=True)
    weights = Weights(decoder.clone(), torch.zeros(WIDTH), decoder, torch.zeros(256))
    return SAE(SAEConfig(256, WIDTH, K, "neox", HOOKPOINT), weights)


def steps(_tokens: int, root: Path) -> dict[str, Any]:
    """The SQL steps over the harvested catalog: seconds, milliseconds per feature, peak memory."""
    from catalog import Catalog
    from queries.refresh.engine import Options, refresh

    settings = {"shortlist.min_firings": 1}
    with Catalog(root / "catalog") as catalog:
        tokens = catalog.value("SELECT sum(tokens) FROM documents")
        with catalog.write("benchmark's configuration") as tx:
            tx.insert(
                "saes",
                [
                    {
                        **dict.fromkeys(("model", "hookpoint", "architecture", "weights", "digest", "config"), ""),
                        **{"sae": "sae", "width": WIDTH, "d": 256, "k": K},
                    }
                ],
            )
            words = ["matrix", "matrices", "eigenvalue", "eigenvalues", "linear", "diagonal", "vector", "vectors"]
            definition = json.dumps({"words": words, "ignore_case": True})
            row = {"concept": "algebra", "kind": "words", "definition": definition, "shortlist": 500}
            tx.insert("concepts", [row])
        wanted = ("feature_stats", "contexts_top", "contexts_stratum", "contexts_random", "shortlist_auroc")
        results = refresh(catalog, wanted, Options(settings=settings))
        failed = [f"{r.step}: {r.error}" for r in results if r.error]
        if failed:
            raise click.ClickException("; ".join(failed))
        seconds = {r.step: round(r.seconds, 2) for r in results}
        live = catalog.value("SELECT count(*) FROM feature_stats WHERE firings > 0")
        shortlisted = catalog.value("SELECT count(*) FROM shortlist")
    statistics = seconds["feature_sums"] + seconds["feature_stats"] + seconds["contexts_top"]
    separation = seconds["concept_sums"] + seconds["separation"]
    sampled = seconds["contexts_stratum"] + seconds["contexts_random"]
    return {
        "tokens": tokens,
        "seconds": seconds,
        "live_features": live,
        "statistics_and_top_contexts_ms_per_feature": round(1000 * statistics / live, 3),
        "separation_s": round(separation, 2),
        "shortlisted": shortlisted,
        "sampled_contexts_ms_per_feature": round(1000 * sampled / shortlisted, 2),
        "peak_memory_mb": round(peak_mb()),
    }


def in_process(*arguments: str) -> dict[str, Any]:
    """Run one part of this file in a fresh process; its result."""
    done = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise click.ClickException(f"the part {arguments} failed with exit code {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@click.command()
@click.option("--tokens", multiple=True, type=int, default=(250_000, 1_000_000), show_default=True)
@click.option("--steps/--no-steps", "with_steps", default=True, help="Also the SQL steps, over the last size.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--part", type=(str, int, str), hidden=True)
def main(tokens: tuple[int, ...], with_steps: bool, as_json: bool, part: tuple[str, int, str] | None) -> None:
    """Measure, and print a table or one JSON object."""
    if part is not None:
        name, size, folder = part
        measured = {"harvest": worker, "delphi": delphi, "steps": steps}[name](size, Path(folder))
        click.echo(json.dumps(measured))
        return
    with tempfile.TemporaryDirectory() as folder:
        results: dict[str, Any] = {"harvest": []}
        for size in tokens:
            root = Path(folder, str(size))
            root.mkdir()
            results["harvest"].append(in_process("--part", "harvest", str(size), str(root)))
        if find_spec("delphi"):
            results["delphi"] = in_process("--part", "delphi", str(DELPHI_TOKENS), str(root))
        if with_steps:
            results["steps"] = in_process("--part", "steps", "0", str(root))
    if as_json:
        click.echo(json.dumps(results))
        return
    for row in [*results["harvest"], results.get("delphi", {}), results.get("steps", {})]:
        for name, value in row.items():
            click.echo(f"{name:45} {value}")
        click.echo()


if __name__ == "__main__":
    main()
