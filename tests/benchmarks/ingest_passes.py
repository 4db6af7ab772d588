"""Compares a whole ingest with the sum of its unavoidable parts: one forward pass, the training, the encoding.

Each part is measured alone, in the same run: the pass over all tokens up to the hookpoint, the training on rows that
are cached, the encoding of rows that are at hand. A ratio of 1 would be an ingest that costs nothing else.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch

from catalog import Catalog
from catalog.study.file import Study
from ingest.activations.finite import checked, default_batch
from ingest.activations.residual_cache import open_cache
from ingest.activations.shard_harvest import ShardHarvest
from ingest.dictionaries.configure import shape, training
from ingest.model.batches import batches, load_sequences, text_shards
from ingest.model.language_model import load_model
from ingest.pipeline import ingest_study
from ingest.sae.model import SAE
from ingest.sae.training.job import Job
from ingest.sae.training.loop import train_saes
from ingest.sae.training.rows import CachedRows
from ingest.stored.reader import Reader

STUDY = """
name = "passes"
[model]
name = "model"
source = "{model}"
[[corpus]]
name = "docstrings"
packages = ["numpy", "scipy", "sympy", "networkx"]
max_tokens = {tokens}
[[sae]]
name = "sae"
hookpoint = "{hookpoint}"
width = {width}
steps = {steps}
"""


@click.command()
@click.option("--model", default="smollm2", show_default=True)
@click.option("--hookpoint", default="layers.9", show_default=True)
@click.option("--tokens", default=300_000, show_default=True)
@click.option("--width", default=4096, show_default=True)
@click.option("--steps", default=800, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(model: str, hookpoint: str, tokens: int, width: int, steps: int, as_json: bool) -> None:
    """Measure an ingest and its parts."""
    figures = measure(STUDY.format(model=model, hookpoint=hookpoint, tokens=tokens, width=width, steps=steps))
    if as_json:
        click.echo(json.dumps(figures))
        return
    for name, value in figures.items():
        click.echo(f"{name:>24}  {value:.4g}" if isinstance(value, float) else f"{name:>24}  {value}")


def measure(text: str) -> dict[str, float | int]:
    """Seconds of the ingest, by stage and whole, and of its parts alone."""
    stages: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "study.toml").write_text(text)
        study = Study.load(Path(folder) / "study.toml")
        load_model(study.model)
        last: list[Any] = ["", time.perf_counter()]

        def stage(what: str, *_: object) -> None:
            now = time.perf_counter()
            if what != last[0]:
                stages[what.partition(" ")[0]] = stages.get(what.partition(" ")[0], 0.0)
                last[0] = what
            stages[what.partition(" ")[0]] += now - float(last[1])
            last[1] = now

        with Catalog.create(Path(folder) / "catalog") as catalog:
            begun = last[1] = time.perf_counter()
            ingest_study(catalog, study, stage)
            whole = time.perf_counter() - float(begun)
            return {"ingest": whole, **_parts(catalog, study, whole), **{f"stage {k}": v for k, v in stages.items()}}


def _parts(catalog: Catalog, study: Study, whole: float) -> dict[str, float | int]:
    model, spec = load_model(study.model), study.saes[0]
    weights, digest, config = catalog.rows("SELECT weights, digest, config FROM saes")[0]
    sae = SAE.load(catalog.weights_of(weights))
    reader = Reader(spec.name, spec.hookpoint, sae, digest, rounded=True)
    forward = encoding = 0.0
    read = 0
    with torch.inference_mode():
        for shard in text_shards(catalog, ["docstrings"]):
            sequences = load_sequences(catalog, shard.corpus, shard.shard)
            one = ShardHarvest([reader], sequences)
            for batch in batches(sequences, model.bos, default_batch(model)):
                begun = time.perf_counter()
                outputs = model.read(batch.ids, [spec.hookpoint])
                forward += time.perf_counter() - begun
                one.take(batch, {spec.hookpoint: checked(outputs[spec.hookpoint], batch, sequences, spec.hookpoint)})
                read += len(batch.positions)
            encoding += one.seconds
    cache = open_cache(catalog, model, spec.hookpoint, json.loads(config)["inputs"]["rows"])
    assert cache is not None
    rows = CachedRows(cache.train)
    config = shape(spec, *rows.widths, "model", None)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        train_saes([Job(training(spec, config, rows.rows, None), Path(folder) / "sae", None, None)], rows)
        trained = time.perf_counter() - begun
    parts = forward + trained + encoding
    return {
        "forward": forward,
        "training": trained,
        "encoding": encoding,
        "parts": parts,
        "ratio": whole / parts,
        "tokens": read,
        "dead": int(catalog.value("SELECT dead FROM saes")),
        "fve": float(catalog.value("SELECT fve FROM saes")),
        "rounding": float(catalog.value("SELECT rounding FROM saes")),
    }


if __name__ == "__main__":
    main()
