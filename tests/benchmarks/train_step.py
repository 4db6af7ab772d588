"""One optimiser step of every architecture beside the encoder's product, and beside the peers' steps.

    SAEQL_PEERS=.peers python tests/benchmarks/train_step.py [--rounds 5] [--only topk] [--loss] [--json]

The task is the one that the peers were measured on: d 256, 8,192 latents, k 32, a batch of 4,096 rows, fp32, one core.
Each part runs in a process of its own, so that its peak memory is its own. Times are CPU time. Steps and products
(`encode_gemm`, rows times encoder alone) alternate; `x_gemm` is the median of a step over the products around it, and
the figure to compare on a machine that others use.

- Ours is `train_saes` itself, from one callback to the next: all that a step of `saeql train` does but draw rows.
- A peer's is its own trainer's step, dead-latent count included; sparsify's loop needs a language model, so its step is
  put together here from what that loop calls. Peers come from the folder SAEQL_PEERS (`make peers`), behind what is
  installed; one that cannot be imported has a row that says why.
- Everything begins with the same unit decoder rows, their copy as encoder, and the rows' mean as decoder bias. '1%'
  begins with biases (JumpReLU: thresholds) that about one pre-activation in a hundred exceeds; without it, half do.
- '10% dead' has encoder rows so short that they never fire, but have activations for AuxK to use.

With `--loss`, TopK is trained by everybody for equally many steps on the same batches (sums of directions, d 256, 2,048
latents, batch 1,024), from the same beginning, with the learning rate of each step and the tokens after which a latent
is dead the same, and FVE measured on rows held out. What is left to each: gradient clipping, Adam's epsilon, weight and
number of AuxK's latents, SAELens' free decoder norms. sparsify's signum has no schedule and keeps its own rate.
"""

import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", WANDB_MODE="disabled")

import click
from peers import PEERS, RATE, D, K, Start, first_line, missing

if TYPE_CHECKING:
    from torch import Tensor

WIDTH, BATCH = 8192, 4096
WARM_UP = 3
"""Steps that are not counted: the first allocates, and latents are dead from the second on."""
LOSS_WIDTH, LOSS_BATCH, HELD_OUT, DEAD_AFTER = 2048, 1024, 8192, 50_000
DIRECTIONS, SUPPORT = 4096, 24
RARE = 2.33
"""What one standard normal number in a hundred exceeds."""


@dataclass(frozen=True)
class Case:
    """What of ours is measured."""

    architecture: str
    objective: dict[str, Any] = field(default_factory=dict)
    groups: tuple[int, ...] = ()
    rare: bool = False
    """Begin with one pre-activation in a hundred active."""
    dead: bool = False
    """Begin with a tenth of the latents dead."""


OURS = {
    "topk": Case("topk"),
    "topk, 10% dead": Case("topk", {"k_aux": 128}, dead=True),
    "topk, tilt 1": Case("topk", {"tilt": 1.0}),
    "batchtopk": Case("batchtopk"),
    "matryoshka, 5 groups": Case("matryoshka", groups=(512, 1024, 2048, 4096, 8192)),
    "relu + L1": Case("relu"),
    "relu + L1, 1%": Case("relu", rare=True),
    "jumprelu": Case("jumprelu"),
    "jumprelu, 1%": Case("jumprelu", rare=True),
    "gated": Case("gated"),
    "gated, 1%": Case("gated", rare=True),
}


def peak_mb() -> int:
    """Peak resident memory of this process, MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


class Clock:
    """CPU seconds of steps, with the encoder's product before and after each."""

    def __init__(self, rows: "Tensor", encoder: "Tensor", rounds: int) -> None:
        self._rows, self._encoder, self._rounds = rows, encoder, rounds
        self._out: Tensor | None = None
        self._steps: list[float] = []
        self._products: list[float] = []
        self._done = 0
        self.before, self.peak = peak_mb(), 0
        self._resumed = time.process_time()

    def stepped(self) -> None:
        """To be called when a step is done."""
        seconds = time.process_time() - self._resumed
        self._done += 1
        if self._done == WARM_UP:
            # The product's own output must not count as the step's memory.
            self.peak = peak_mb()
            for _ in range(2):
                self._product()
        if WARM_UP <= self._done <= WARM_UP + self._rounds:
            self._products.append(self._product())
            if self._done > WARM_UP:
                self._steps.append(seconds)
        self._resumed = time.process_time()

    def _product(self) -> float:
        import torch

        # Into the same place: page faults of a new 128 MB each time would make it slower by a quarter, and steps
        # look better than they are.
        if self._out is None:
            self._out = self._rows.new_empty(len(self._rows), len(self._encoder))
        begun = time.process_time()
        torch.mm(self._rows, self._encoder.T, out=self._out)
        return time.process_time() - begun

    def result(self) -> dict[str, Any]:
        """What the rounds say."""
        around = zip(self._products, self._products[1:], strict=False)
        ratios = [step * 2 / sum(products) for step, products in zip(self._steps, around, strict=True)]
        seconds = statistics.median(self._steps)
        return {
            "ms_per_step": round(1000 * seconds, 1),
            "tokens_per_s": round(BATCH / seconds),
            "x_gemm": round(statistics.median(ratios), 2),
            "gemm_ms": round(1000 * statistics.median(self._products), 1),
            "memory_before_mb": self.before,
            "peak_memory_mb": self.peak,
        }


class Batches:
    """A source of rows [batch, D] for `train_saes`: whatever `draw` says of a step."""

    rows, widths, digest = 1 << 40, (D, D), "benchmark"

    def __init__(self, draw: "Callable[[int], Tensor]") -> None:
        self._draw = draw

    def check(self, d_in: int, d_out: int, batch: int) -> None:
        """Everything fits."""

    def sample(self) -> "tuple[Tensor, Tensor]":
        """A batch of its own."""
        return self.batch(-1)

    def sampler(self, batch: int, seed: int) -> "Batches":
        """Itself."""
        return self

    def batch(self, step: int) -> "tuple[Tensor, Tensor]":
        """The rows of a step."""
        rows = self._draw(step)
        return rows, rows

    def row_numbers(self, step: int) -> Any:
        """Their numbers within the step."""
        return range(len(self._draw(step)))


def unit_rows(latents: int) -> "Tensor":
    """The decoder that everybody begins with."""
    import torch

    rows = torch.randn(latents, D, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.normalize(rows)


def normal_rows() -> "Tensor":
    """[BATCH, D] standard normal: pre-activations of unit rows are as good as standard normal too."""
    import torch

    return torch.randn(BATCH, D, generator=torch.Generator().manual_seed(0))


def gemm(_name: str, rounds: int) -> dict[str, Any]:
    """The encoder's product against itself: its ratio says how noisy the machine is."""
    import torch

    x, encoder, out = normal_rows(), unit_rows(WIDTH), torch.empty(BATCH, WIDTH)
    clock = Clock(x, encoder, rounds)
    for _ in range(WARM_UP + rounds):
        torch.mm(x, encoder.T, out=out)
        clock.stepped()
    return clock.result()


def ours(name: str, rounds: int) -> dict[str, Any]:
    """Steps of `train_saes`."""
    import torch

    from catalog.study.terms import KEEPS_K
    from ingest.sae.architecture import Weights
    from ingest.sae.config import Objective, SAEConfig
    from ingest.sae.training.job import Job, Parent
    from ingest.sae.training.loop import train_saes
    from ingest.sae.training.settings import TrainConfig

    case, x, decoder = OURS[name], normal_rows(), unit_rows(WIDTH)
    bias, others = torch.zeros(WIDTH), {}
    if case.architecture == "jumprelu":
        others["threshold"] = torch.full((WIDTH,), RARE if case.rare else 0.001)
    elif case.rare:
        bias -= RARE
    if case.groups or case.architecture == "batchtopk":
        others["threshold"] = torch.tensor(-1.0)
    if case.architecture == "gated":
        others.update(magnitude=torch.zeros(WIDTH), magnitude_bias=torch.zeros(WIDTH))
    encoder = decoder.clone()
    if case.dead:
        encoder[: WIDTH // 10] *= 0.3
    config = TrainConfig(
        SAEConfig(
            D,
            WIDTH,
            K if case.architecture in KEEPS_K else None,
            "none",
            "rows",
            architecture=case.architecture,
            groups=case.groups,
        ),
        objective=Objective(**case.objective),
        # One more than is counted: the last one saves.
        steps=WARM_UP + rounds + 1,
        batch=BATCH,
        learning_rate=RATE,
        warmup=0,
        decay=0,
        dead_after=BATCH if case.dead else 1 << 40,
        checkpoint_every=1 << 30,
    )
    clock = Clock(x, decoder, rounds)
    seen: dict[str, float] = {}

    def progress(step: int, steps: int, loss: float, fve: float, l0: float, dead: int) -> None:
        seen.update(l0=round(l0, 1), dead=dead)
        clock.stepped()

    parent = Parent(Weights(encoder, bias, decoder, x.mean(0), **others), "benchmark", 1.0)
    with tempfile.TemporaryDirectory() as folder:
        train_saes([Job(config, Path(folder), parent, progress)], Batches(lambda _: x), resume=False)
    return clock.result() | seen


SAME_LOSS = ["ours", *(name for name in PEERS if "topk" in name)]


def peer(name: str, rounds: int) -> dict[str, Any]:
    """Steps of a peer's trainer."""
    if why := missing(name):
        return {"missing": why}
    x, decoder = normal_rows(), unit_rows(WIDTH)
    build, kind = PEERS[name]
    trainer = build(Start(decoder, x.mean(0), BATCH, 1 << 40), kind)
    clock = Clock(x, decoder, rounds)
    for _ in range(WARM_UP + rounds):
        trainer.step(x, RATE)
        clock.stepped()
    return clock.result()


def directions(n: int, step: int) -> "Tensor":
    """[n, D] rows of a step: sums of SUPPORT directions, the r-th of them as often as r ** -0.7, around a mean.

    Their mean norm is sqrt(D), to within a few percent.
    """
    import torch

    seeded = torch.Generator().manual_seed(2)
    atoms = torch.randn(DIRECTIONS, D, generator=seeded)
    atoms /= atoms.norm(dim=1, keepdim=True)
    mean = torch.randn(D, generator=seeded)
    often = torch.arange(1.0, DIRECTIONS + 1) ** -0.7
    seeded.manual_seed(1000 + step)
    chosen = torch.multinomial(often, n * SUPPORT, replacement=True, generator=seeded).view(n, SUPPORT)
    strengths = 1 + 0.5 * torch.randn(n, SUPPORT, generator=seeded).abs()
    rows = torch.nn.functional.embedding_bag(chosen, atoms, per_sample_weights=strengths, mode="sum")
    rows += 0.05 * torch.randn(n, D, generator=seeded) + 2 * mean / mean.norm()
    return rows * (math.sqrt(D) / 7.4)


def loss(name: str, steps: int, rate: float) -> dict[str, Any]:
    """FVE on held-out rows after `steps` steps of ours or of a peer."""
    import torch

    from ingest.sae.architecture import Weights
    from ingest.sae.config import SAEConfig
    from ingest.sae.model import SAE
    from ingest.sae.training.job import Job, Parent
    from ingest.sae.training.loop import train_saes
    from ingest.sae.training.settings import TrainConfig, learning_rate

    if name != "ours" and (why := missing(name)):
        return {"missing": why}
    decoder, first = unit_rows(LOSS_WIDTH), directions(HELD_OUT, -2)
    mean = first.mean(0)
    config = TrainConfig(
        SAEConfig(D, LOSS_WIDTH, K, "none", "rows"),
        steps=steps,
        batch=LOSS_BATCH,
        learning_rate=rate,
        warmup=steps // 10,
        decay=steps // 3,
        dead_after=DEAD_AFTER,
    )
    begun = time.process_time()
    if name == "ours":
        parent = Parent(Weights(decoder.clone(), torch.zeros(LOSS_WIDTH), decoder, mean), "benchmark", 1.0)
        with tempfile.TemporaryDirectory() as folder:
            source = Batches(lambda step: directions(LOSS_BATCH, step))
            train_saes([Job(config, Path(folder), parent)], source, resume=False)
            sae = SAE.load(Path(folder))
        trained: Callable[[Tensor], Tensor] = lambda x: sae.decode(sae.encode(x), x)  # noqa: E731
    else:
        build, kind = PEERS[name]
        trainer = build(Start(decoder, mean, LOSS_BATCH, DEAD_AFTER), kind)
        for step in range(steps):
            trainer.step(directions(LOSS_BATCH, step), learning_rate(config, step))
        trained = trainer.reconstruct
    seconds = time.process_time() - begun
    held_out = directions(HELD_OUT, -3)
    with torch.no_grad():
        error = (held_out - trained(held_out)).double().square().sum()
    variance = (held_out - held_out.mean(0)).double().square().sum()
    return {"fve": round(1 - float(error / variance), 5), "seconds": round(seconds, 1)}


def in_process(kind: str, name: str, *arguments: str) -> dict[str, Any]:
    """Run one part of this file in a fresh process; its result, or for a peer why there is none."""
    command = [sys.executable, __file__, "--part", kind, name, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if not done.returncode:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return {"part": name} | found
    last = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
    if name not in PEERS:
        raise click.ClickException(f"the part {name!r} failed with exit code {done.returncode}: {last}")
    return {"part": name, "missing": f"failed with exit code {done.returncode}: {last}"}


def show(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    """Print a table; a part that is missing says why."""
    click.echo(f"{'part':30}" + "".join(f"{column:>18}" for column in columns))
    for row in rows:
        cells = "".join(f"{row.get(column, ''):>18}" for column in columns)
        click.echo(f"{row['part']:30}" + (f"  {row['missing']}" if "missing" in row else cells))
    click.echo()


@click.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Steps of each part that count.")
@click.option("--only", multiple=True, help="Parts whose name holds this; all by default.")
@click.option("--peers/--no-peers", "with_peers", default=True, help="Also the peers.")
@click.option("--loss", "with_loss", is_flag=True, help="Also the FVE after equally many steps.")
@click.option("--steps", default=300, show_default=True, type=click.IntRange(10), help="Steps of --loss.")
@click.option("--rate", "rates", multiple=True, type=float, default=(3e-3,), show_default=True, help="Rates of --loss.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--part", type=(str, str), hidden=True)
def main(
    rounds: int,
    only: tuple[str, ...],
    with_peers: bool,
    with_loss: bool,
    steps: int,
    rates: tuple[float, ...],
    as_json: bool,
    part: tuple[str, str] | None,
) -> None:
    """Measure, and print tables or one JSON object."""
    if part is not None:
        import torch

        torch.set_num_threads(1)
        kind, name = part
        try:
            found = (
                loss(name, steps, rates[0])
                if kind == "loss"
                else {"gemm": gemm, "ours": ours, "peer": peer}[kind](name, rounds)
            )
        except Exception as error:
            if name not in PEERS:
                raise
            # A peer that can be imported, but whose step fails here, has a row all the same.
            found = {"missing": first_line(error)}
        click.echo(json.dumps(found))
        return
    parts = [("gemm", "encode GEMM"), *(("ours", name) for name in OURS)]
    parts += [("peer", name) for name in PEERS if with_peers]
    wanted = [(kind, name) for kind, name in parts if not only or any(text in name for text in only)]
    results: dict[str, Any] = {"step": [in_process(kind, name, "--rounds", str(rounds)) for kind, name in wanted]}
    if with_loss:
        names = SAME_LOSS if with_peers else SAME_LOSS[:1]
        results["loss"] = []
        for rate in rates:
            trained = [in_process("loss", name, "--steps", str(steps), "--rate", str(rate)) for name in names]
            best = max((row["fve"] for row in trained[1:] if "fve" in row), default=-math.inf)
            results["loss"] += [{"rate": rate, **row} for row in trained]
            if math.isfinite(best):
                margin = round(trained[0]["fve"] - best, 5)
                results.setdefault("ours_over_best_peer", []).append({"rate": rate, "fve": margin})
    if as_json:
        click.echo(json.dumps(results))
        return
    figures = ("ms_per_step", "tokens_per_s", "x_gemm", "gemm_ms", "memory_before_mb", "peak_memory_mb", "l0", "dead")
    show(results["step"], figures)
    if with_loss:
        show(results["loss"], ("rate", "fve", "seconds"))
        for row in results.get("ours_over_best_peer", []):
            click.echo(f"at rate {row['rate']}: FVE of ours less that of the best peer {row['fve']:+.4f}")


if __name__ == "__main__":
    main()
