"""A training step on a GPU: tokens per second, and the share of the bfloat16 rate of the encoder's product.

    python tests/benchmarks/train_gpu.py [--d 4096] [--width 65536] [--k 64] [--batch 16384] [--rounds 10] [--json]

- `gemm`: rows times encoder alone, both bfloat16, as fast as the device does it. The share of its rate that a step has
  is its time over the step's.
- `steps`: `train_saes` itself from one callback to the next, with `precision = "bfloat16"`, on rows that lie in half
  precision in the machine's memory: drawing and transfer included. With the kernels, and with torch's own products.
- `stages`: where the time of a TopK step goes, each stage alone, as the step calls it.

Without a GPU everything runs on the CPU, where the figures say nothing but that the benchmark works.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from catalog.study.terms import KEEPS_K
from ingest.sae.architecture import Weights
from ingest.sae.architectures.batch_topk import batch_code
from ingest.sae.codes import by_latent
from ingest.sae.config import Objective, SAEConfig
from ingest.sae.losses.gradient import Reconstruction, weight_gradients
from ingest.sae.products import triton_use
from ingest.sae.products.precision import products_in
from ingest.sae.products.top_codes import top_code
from ingest.sae.training.adam import UnitDecoderAdam
from ingest.sae.training.job import Job, Parent
from ingest.sae.training.loop import train_saes
from ingest.sae.training.rows import CachedRows
from ingest.sae.training.settings import TrainConfig

WARM_UP = 3
"""Steps that are not counted: the first compiles and allocates."""
RARE = 2.33
"""What one standard normal number in a hundred exceeds."""
PARTS = ("topk", "batchtopk", "relu, 1%", "relu")


class Size:
    """What is measured, and on which device."""

    def __init__(self, d: int, width: int, k: int, batch: int, rounds: int) -> None:
        self.d, self.width, self.k, self.batch, self.rounds = d, width, k, batch, rounds
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def normal(self, *shape: int, seed: int = 0) -> Tensor:
        """Standard normal numbers on the device."""
        return torch.randn(*shape, generator=torch.Generator(self.device).manual_seed(seed), device=self.device)

    def unit_rows(self) -> Tensor:
        """The decoder that everything begins with, [width, d]."""
        return torch.nn.functional.normalize(self.normal(self.width, self.d, seed=1))

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def milliseconds(self, work: Callable[[], object]) -> float:
        """The median of `rounds` calls, after one that is not counted."""
        work()
        times = []
        for _ in range(self.rounds):
            self.wait()
            begun = time.perf_counter()
            work()
            self.wait()
            times.append(1000 * (time.perf_counter() - begun))
        return statistics.median(times)


def gemm(size: Size) -> dict[str, float]:
    """The encoder's product alone."""
    x, encoder = size.normal(size.batch, size.d).bfloat16(), size.unit_rows().bfloat16()
    out = x.new_empty(size.batch, size.width)
    ms = size.milliseconds(lambda: torch.mm(x, encoder.T, out=out))
    return {"ms": round(ms, 3), "tflop_per_s": round(2e-9 * size.batch * size.d * size.width / ms, 2)}


def steps(size: Size, part: str) -> dict[str, Any]:
    """Steps of `train_saes`."""
    architecture = part.split(",")[0]
    keeps = architecture in KEEPS_K
    config = TrainConfig(
        SAEConfig(size.d, size.width, size.k if keeps else None, "none", "rows", architecture),
        objective=Objective(),
        steps=WARM_UP + size.rounds + 1,
        batch=size.batch,
        warmup=0,
        decay=0,
        checkpoint_every=1 << 30,
        precision="bfloat16",
    )
    rows = np.random.default_rng(0).standard_normal((2 * size.batch, size.d), np.float32).astype(np.float16)
    decoder = size.unit_rows()
    bias = torch.full((size.width,), -RARE if part.endswith("1%") else 0.0)
    threshold = torch.tensor(-1.0) if architecture == "batchtopk" else None
    times: list[float] = []
    seen: dict[str, float] = {}

    def progress(step: int, steps: int, loss: float, fve: float, l0: float, dead: int) -> None:
        # A step reads its loss, so that the device has done all of it but the optimiser's work: that is in the next.
        times.append(time.perf_counter())
        seen["l0"] = round(l0, 1)

    if size.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    begin = Parent(Weights(decoder.clone(), bias, decoder, torch.zeros(size.d), threshold), "benchmark", 1.0)
    with tempfile.TemporaryDirectory() as folder:
        train_saes([Job(config, Path(folder), begin, progress)], CachedRows(rows), resume=False, device=size.device)
    ms = 1000 * statistics.median(np.diff(times)[WARM_UP - 1 : -1])
    found = {"part": part, "ms": round(ms, 3), "tokens_per_s": round(1000 * size.batch / ms), **seen}
    if size.device.type == "cuda":
        found["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 1)
    return found


def stages(size: Size) -> dict[str, float]:
    """What a TopK step consists of, and BatchTopK's choice of pairs, each alone."""
    x, encoder, decoder = size.normal(size.batch, size.d), size.unit_rows(), size.unit_rows()
    bias = x.new_zeros(size.width)
    found: dict[str, Callable[[], object]] = {}
    with products_in("bfloat16"), torch.no_grad():
        code = top_code(x, encoder, bias, size.k)
        found["encode and choose"] = partial(top_code, x, encoder, bias, size.k)
        found["encode and choose, batchtopk"] = partial(batch_code, x, encoder, bias, size.k)
        there = Reconstruction(code, decoder, x)
        share = x.new_full((size.batch, 1), -2 / size.batch)
        found["decode and compare"] = lambda: Reconstruction(code, decoder, x).back_error(share)
        by_pre, step = there.back_error(share), there.error * share
        found["pairs by latent"] = partial(by_latent, code, size.width)
        found["weight gradients, pairs by latent included"] = partial(
            weight_gradients, code, by_pre, x, step, size.width
        )
        weights = Weights(encoder, bias, decoder, x.new_zeros(size.d))
        optimiser = UnitDecoderAdam(weights)
        slope = Weights(*weight_gradients(code, by_pre, x, step, size.width), step.sum(0))
        found["optimiser"] = lambda: optimiser.step(slope, 1e-9)
        half = np.zeros((size.batch, size.d), np.float16)
        found["rows to the device"] = lambda: torch.from_numpy(half).to(size.device).float()
        return {name: round(size.milliseconds(work), 3) for name, work in found.items()}


def measured(size: Size) -> dict[str, Any]:
    """All of it."""
    product = gemm(size)
    have = triton_use._have_kernels(size.device.type)
    rows = []
    for kernels in (True, False) if have else (False,):
        triton_use._have_kernels = lambda _device, answer=kernels: answer  # type: ignore[assignment]
        for part in PARTS:
            row = steps(size, part) | {"kernels": kernels}
            rows.append(row | {"share_of_gemm": round(product["ms"] / row["ms"], 3)})
    triton_use._have_kernels = lambda _device: have  # type: ignore[assignment]
    name = torch.cuda.get_device_name() if size.device.type == "cuda" else "cpu"
    sizes = {key: getattr(size, key) for key in ("d", "width", "k", "batch", "rounds")}
    return {"device": name, **sizes, "gemm": product, "steps": rows, "stages": stages(size)}


@click.command()
@click.option("--d", default=4096, show_default=True, type=click.IntRange(1))
@click.option("--width", default=65_536, show_default=True, type=click.IntRange(1))
@click.option("--k", default=64, show_default=True, type=click.IntRange(1))
@click.option("--batch", default=16_384, show_default=True, type=click.IntRange(2))
@click.option("--rounds", default=10, show_default=True, type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(d: int, width: int, k: int, batch: int, rounds: int, as_json: bool) -> None:
    """Measure, and print tables or one JSON object."""
    found = measured(Size(d, width, k, batch, rounds))
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"{found['device']}: d {d}, {width} latents, k {k}, batch {batch}")
    click.echo(f"encoder's product in bfloat16: {found['gemm']['ms']} ms, {found['gemm']['tflop_per_s']} TFLOP/s\n")
    columns = ("part", "kernels", "ms", "tokens_per_s", "share_of_gemm", "l0", "peak_gb")
    click.echo("".join(f"{column:>15}" for column in columns))
    for row in found["steps"]:
        click.echo("".join(f"{row.get(column, '')!s:>15}" for column in columns))
    click.echo("\nstages of a topk step, ms")
    for name, ms in found["stages"].items():
        click.echo(f"{name:>45}  {ms}")


if __name__ == "__main__":
    main()
