"""Train the embedded model: `python -m ingest.embedded.train --text FILE... --minutes 70`.

A Llama of 4.3 M parameters over docstrings of the installed packages and any JSON Lines text, in one
read from top to bottom: documents -> split by hash -> BPE on train -> train -> held-out report. Held-out
windows that share a 16-token shingle with train text are not counted, for the model and for the n-grams.
"""

import gzip
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ingest.embedded import MODEL_DIR
from ingest.embedded.ngrams import KneserNey
from ingest.text.docstrings import file_docstrings, package_files
from ingest.text.splits import leaked_windows, shingles, split_of, unique_documents

BOS = "<|bos|>"
WINDOW = 32
Ids = npt.NDArray[np.integer]
"""Token ids of one document, its BOS first."""
PACKAGES = (
    *("stdlib", "torch", "numpy", "sympy", "networkx", "scipy", "sklearn", "transformers", "pyarrow", "lancedb"),
    *("lance", "duckdb", "pydantic", "openai", "rich", "hypothesis", "mypy", "huggingface_hub", "sqlglot"),
    *("sentence_transformers", "click", "mpmath", "jinja2"),
)


@dataclass(frozen=True)
class Recipe:
    """The model's shape and the optimiser's settings."""

    vocab_size: int = 4096
    ctx_len: int = 256
    d_model: int = 256
    n_layers: int = 4
    d_mlp: int = 704
    batch_tokens: int = 8192
    muon_lr: float = 0.02
    adam_lr: float = 0.004
    warm_up: float = 0.02
    decay: float = 0.45
    seed: int = 0


def read_documents(files: tuple[str, ...]) -> Iterator[str]:
    """Texts of JSON Lines files (key `text`, gzipped or not), then docstrings of PACKAGES."""
    for name in files:
        with gzip.open(name, "rt") if name.endswith(".gz") else open(name) as lines:
            for line in lines:
                yield json.loads(line)["text"]
    for package in PACKAGES:
        for path in package_files(package):
            try:
                yield from file_docstrings(path.read_text(encoding="utf-8"))
            except (SyntaxError, ValueError):
                click.echo(f"does not parse, left out: {path.name}", err=True)


def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE whose digits stand alone, with a BOS before each sequence."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[BOS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def cut(documents: Sequence[Ids], ctx_len: int) -> list[Ids]:
    """Sequences of at most `ctx_len` tokens, each beginning with its document's BOS."""
    return [
        np.concatenate([ids[:1], ids[start : start + ctx_len - 1]])
        for ids in documents
        for start in range(1, len(ids), ctx_len - 1)
    ]


def batches(sequences: Sequence[Ids], tokens: int, rng: np.random.Generator) -> Iterator[torch.Tensor]:
    """Endless batches of sequences of like length, right-padded with -1: `[batch, seq]`."""
    while True:
        order = rng.permutation(len(sequences))
        ready: list[list[int]] = []
        for pool in np.array_split(order, max(len(order) // 4096, 1)):
            batch: list[int] = []
            for i in sorted(pool, key=lambda i: -len(sequences[i])):
                if batch and (len(batch) + 1) * len(sequences[batch[0]]) > tokens:
                    ready.append(batch)
                    batch = []
                batch.append(i)
            ready.append(batch)
        for i in rng.permutation(len(ready)):
            rows = [torch.from_numpy(sequences[j].astype(np.int64)) for j in ready[i]]
            yield torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by five Newton-Schulz steps (Jordan et al. 2024), in float32.

    `torch.optim.Muon` does the same in bfloat16, which a CPU without bf16 units runs 30 times slower.
    """

    def __init__(self, params: list[torch.nn.Parameter], lr: float, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                average = self.state[p].setdefault("average", torch.zeros_like(p))
                average.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(average, group["momentum"])
                wide = update.shape[0] <= update.shape[1]
                x = update if wide else update.T
                x = x / (x.norm() + 1e-7)
                for _ in range(5):
                    gram = x @ x.T
                    x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
                scale = max(1.0, p.shape[0] / p.shape[1]) ** 0.5
                p.add_(x if wide else x.T, alpha=-group["lr"] * scale)


def token_losses(model: LlamaForCausalLM, batch: torch.Tensor) -> torch.Tensor:
    """Nats of each token after the first, zero at padding: `[batch, seq - 1]`."""
    logits = model(batch.clamp(min=0)[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), batch[:, 1:].flatten(), ignore_index=-1, reduction="none"
    ).view(len(batch), -1)


def model_nats(model: LlamaForCausalLM, document: Ids, ctx_len: int) -> npt.NDArray[np.float32]:
    """-log p of each token of a document but its BOS, read in sequences of `ctx_len`: nats."""
    model.eval()  # type: ignore[no-untyped-call]
    with torch.inference_mode():
        parts = [token_losses(model, torch.from_numpy(s.astype(np.int64))[None])[0] for s in cut([document], ctx_len)]
    return torch.cat(parts).numpy()


def held_out_report(
    model: LlamaForCausalLM, documents: Sequence[Ids], train: Sequence[Ids], sizes: Ids, recipe: Recipe
) -> dict[str, Any]:
    """Nats per token and bits per byte of the model and of both n-grams, on the same eligible tokens."""
    known = np.unique(np.concatenate([shingles(ids[1:]) for ids in train]))
    names: dict[str, Callable[[Ids], Any]] = {"model": partial(model_nats, model, ctx_len=recipe.ctx_len)}
    for order in (3, 4):
        names[f"{order}-gram"] = KneserNey(train, order, recipe.vocab_size).nats
    nats, tokens, size, windows, leaked = dict.fromkeys(names, 0.0), 0, 0, 0, 0
    for ids in documents:
        flags = leaked_windows(ids[1:], known, WINDOW)
        eligible = ~np.repeat(flags, WINDOW)[: len(ids) - 1]
        windows, leaked = windows + len(flags), leaked + int(flags.sum())
        tokens += int(eligible.sum())
        size += int(sizes[ids[1:]][eligible].sum())
        for name, measure in names.items():
            nats[name] += float(measure(ids)[eligible].sum())
    report: dict[str, Any] = {"tokens": tokens, "bytes": size, "windows": windows, "windows_leaked": leaked}
    for name, total in nats.items():
        report[name] = {
            "nats_per_token": round(total / tokens, 4),
            "bits_per_byte": round(total / math.log(2) / size, 4),
        }
    return report


@click.command()
@click.option("--text", "files", multiple=True, help="JSON Lines files, each line with a `text`.")
@click.option("--out", default=str(MODEL_DIR), show_default=True, help="Where the model is written.")
@click.option("--minutes", default=70.0, show_default=True, help="Wall-clock time to train.")
@click.option("--held-out", default=1500, show_default=True, help="Test documents to report on.")
def main(files: tuple[str, ...], out: str, minutes: float, held_out: int) -> None:
    """Train the embedded model and report it on held-out text beside trigram and 4-gram."""
    recipe = Recipe()
    torch.manual_seed(recipe.seed)
    texts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for key, text in unique_documents(read_documents(files)):
        texts[split_of(key)].append(text)
    tokenizer = train_tokenizer(texts["train"][:: max(len(texts["train"]) // 40_000, 1)], recipe.vocab_size)
    ids: dict[str, list[Ids]] = {
        split: [np.array(e.ids, np.int16) for e in tokenizer.encode_batch_fast(part)] for split, part in texts.items()
    }
    say = {split: (len(part), sum(map(len, part))) for split, part in ids.items()}
    click.echo(f"documents and tokens: {say}", err=True)

    config = LlamaConfig(
        vocab_size=recipe.vocab_size, hidden_size=recipe.d_model, intermediate_size=recipe.d_mlp,
        num_hidden_layers=recipe.n_layers, num_attention_heads=4, num_key_value_heads=4,
        max_position_embeddings=recipe.ctx_len, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    hidden = [p for n, p in model.model.layers.named_parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim == 1] + [model.model.embed_tokens.weight]
    optimisers = [
        Muon(hidden, lr=recipe.muon_lr),
        torch.optim.Adam(others, lr=recipe.adam_lr, betas=(0.9, 0.95), fused=True),
    ]
    rates = [recipe.muon_lr, recipe.adam_lr]
    stream = batches(cut(ids["train"], recipe.ctx_len), recipe.batch_tokens, np.random.default_rng(recipe.seed))

    save(model, tokenizer, recipe, out)
    begun, saved, seen, losses = time.monotonic(), 0.0, 0, []
    for step, batch in enumerate(stream):
        passed = (time.monotonic() - begun) / (60 * minutes)
        if passed >= 1:
            break
        factor = min((step + 1) / 60, 1.0, (1 - passed) / recipe.decay)
        for optimiser, rate in zip(optimisers, rates, strict=True):
            optimiser.param_groups[0]["lr"] = rate * factor
        model.train()
        counted = int((batch[:, 1:] >= 0).sum())
        loss = token_losses(model, batch).sum() / counted
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for optimiser in optimisers:
            optimiser.step()
        model.zero_grad()
        seen += counted
        losses.append(float(loss))
        if step % 20 == 0:
            rate = seen / (time.monotonic() - begun)
            click.echo(f"step {step} tokens {seen} loss {np.mean(losses[-20:]):.4f} {rate:.0f} tok/s", err=True)
        if passed - saved > 0.1:
            save(model, tokenizer, recipe, out)
            saved = passed
    save(model, tokenizer, recipe, out)

    shipped = LlamaForCausalLM.from_pretrained(out, dtype=torch.float32)
    sizes = np.array([len(str(tokenizer.id_to_token(i))) for i in range(recipe.vocab_size)])
    report = held_out_report(shipped, ids["test"][:held_out], ids["train"], sizes, recipe)
    report["trained_tokens"] = seen
    Path(out, "report.json").write_text(json.dumps(report, indent=2) + "\n")
    json.dump(report, sys.stdout, indent=2)


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, recipe: Recipe, out: str) -> None:
    """Weights as half-precision safetensors, with configuration and tokenizer, loadable by transformers."""
    half = {name: weight.half() for name, weight in model.state_dict().items() if name != "lm_head.weight"}
    model.save_pretrained(out, state_dict=half)
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=BOS, model_max_length=recipe.ctx_len
    ).save_pretrained(out)


if __name__ == "__main__":
    main()
