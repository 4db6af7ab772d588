"""Training end to end on small synthetic rows: learning, resuming, being killed, refusing."""

import ast
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from catalog.errors import InputError
from ingest.sae.architecture import Batch, Weights
from ingest.sae.architectures.topk import TopK
from ingest.sae.config import Objective, SAEConfig
from ingest.sae.evaluate import evaluate
from ingest.sae.model import SAE
from ingest.sae.training.adam import UnitDecoderAdam
from ingest.sae.training.checkpoint import CHECKPOINT_FILE, load_checkpoint
from ingest.sae.training.initial_weights import unscaled
from ingest.sae.training.job import Job, Parent, Progress
from ingest.sae.training.loop import train_sae, train_saes
from ingest.sae.training.prefetch import Ahead
from ingest.sae.training.rows import CachedRows, RowSampler
from ingest.sae.training.run import Diverged
from ingest.sae.training.settings import TrainConfig, TrainReport, learning_rate

SAE_CONFIG = SAEConfig(d_in=24, width=64, k=4, model_name="toy", hookpoint="layers.1")
CONFIG = TrainConfig(
    SAE_CONFIG,
    steps=60,
    batch=256,
    learning_rate=3e-3,
    warmup=5,
    decay=20,
    objective=Objective(k_aux=8),
    dead_after=2000,
    checkpoint_every=10,
)


class Stop(Exception):
    """Raised by a progress callback to interrupt a run."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sparse_rows(n: int, seed: int = 0) -> npt.NDArray[np.float16]:
    """Sums of 4 of 24 orthonormal directions, around a mean, at norms far from sqrt(d)."""
    directions = np.linalg.qr(np.random.default_rng(99).standard_normal((24, 24)))[0]
    rng = np.random.default_rng(seed)
    chosen = rng.random((n, 24)).argsort(1)[:, :4]
    rows: npt.NDArray[np.float16] = ((directions[chosen] * rng.uniform(20, 60, (n, 4, 1))).sum(1) + 5).astype(
        np.float16
    )
    return rows


def stop_at(stop: int) -> Progress:
    def progress(step: int, steps: int, loss: float, fve: float, l0: float, dead: int) -> None:
        if step == stop:
            raise Stop

    return progress


def same(a: Weights, b: Weights) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.named().values(), b.named().values(), strict=True))


def test_training_explains_held_out_rows(tmp_path: Path) -> None:
    seen: list[tuple[int, int, float, float, float, int]] = []
    config = replace(CONFIG, steps=300, decay=100)
    report = train_sae(config, sparse_rows(20_000), tmp_path, progress=lambda *values: seen.append(values))
    result = evaluate(SAE.load(tmp_path), sparse_rows(4000, seed=1))
    assert result.fve > 0.9
    assert result.l0 <= 4
    assert [values[0] for values in seen] == list(range(1, 301))
    assert seen[-1][2:] == (report.loss, report.fve, report.l0, report.dead)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cfg.json", "sae_weights.safetensors", "training.json"]


def test_an_interrupted_run_ends_in_the_same_bits(tmp_path: Path) -> None:
    rows = sparse_rows(3000)
    train_sae(CONFIG, rows, tmp_path / "straight")
    with pytest.raises(Stop):
        train_sae(CONFIG, rows, tmp_path / "resumed", progress=stop_at(37))
    report = train_sae(CONFIG, rows, tmp_path / "resumed")
    assert report.resumed_at == 30
    assert same(SAE.load(tmp_path / "straight").weights, SAE.load(tmp_path / "resumed").weights)


def test_a_killed_process_leaves_a_run_that_resumes(tmp_path: Path) -> None:
    rows = sparse_rows(3000)
    np.save(tmp_path / "rows.npy", rows)
    out = tmp_path / "out"
    config = replace(CONFIG, steps=4000, checkpoint_every=1)
    code = (
        "import sys, numpy, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "from tests.ingest.test_sae_train import CONFIG, replace\n"
        "from ingest.sae.training.loop import train_sae\n"
        "rows = numpy.load(sys.argv[1], mmap_mode='r')\n"
        "train_sae(replace(CONFIG, steps=4000, checkpoint_every=1), rows, Path(sys.argv[2]))\n"
    )
    root = Path(__file__).parents[2]
    run = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "rows.npy"), str(out)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    try:
        deadline = time.monotonic() + 40
        while not (out / CHECKPOINT_FILE).exists() and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert run.returncode == -signal.SIGKILL
    reached: list[int] = []

    def first_step(step: int, steps: int, loss: float, fve: float, l0: float, dead: int) -> None:
        reached.append(step)
        raise Stop

    with pytest.raises(Stop):
        train_sae(config, rows, out, progress=first_step)
    assert reached[0] > 1
    assert not list(out.glob(".*.partial"))


def test_a_run_stopped_after_its_last_step_only_writes_its_result(tmp_path: Path) -> None:
    rows = sparse_rows(1000)
    with pytest.raises(Stop):
        train_sae(CONFIG, rows, tmp_path, progress=stop_at(CONFIG.steps))
    straight = train_sae(CONFIG, rows, tmp_path / "straight")
    assert train_sae(CONFIG, rows, tmp_path) == replace(straight, resumed_at=CONFIG.steps)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    rows = sparse_rows(1000)
    first = train_sae(CONFIG, rows, tmp_path)
    before = (tmp_path / "sae_weights.safetensors").stat().st_mtime_ns
    again = train_sae(CONFIG, rows, tmp_path)
    assert again == replace(first, resumed_at=CONFIG.steps)
    assert (tmp_path / "sae_weights.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("change", ["config", "rows", "damage"])
def test_a_checkpoint_of_something_else_is_not_continued(tmp_path: Path, change: str) -> None:
    rows = sparse_rows(1000)
    with pytest.raises(Stop):
        train_sae(CONFIG, rows, tmp_path, progress=stop_at(25))
    config = replace(CONFIG, learning_rate=1e-3) if change == "config" else CONFIG
    rows = sparse_rows(1000, seed=5) if change == "rows" else rows
    if change == "damage":
        path = tmp_path / CHECKPOINT_FILE
        path.write_bytes(path.read_bytes()[:-100])
    report = train_sae(config, rows, tmp_path)
    assert report.resumed_at == 0
    assert ("cannot be read" if change == "damage" else "step 20") in report.restarted_because


def test_a_row_that_is_not_finite_is_named(tmp_path: Path) -> None:
    rows = sparse_rows(20_000)
    rows[777, 3] = np.inf
    with pytest.raises(InputError, match="row 777 "):
        train_sae(replace(CONFIG, steps=200), rows, tmp_path)


@pytest.mark.parametrize(("rate", "what"), [(1e30, "the loss became"), (3e38, "the loss became|weights overflowed")])
def test_divergence_stops_with_its_step_and_keeps_a_finite_checkpoint(tmp_path: Path, rate: float, what: str) -> None:
    config = replace(CONFIG, learning_rate=rate, warmup=55, steps=75, checkpoint_every=1)
    with pytest.raises(InputError, match=rf"({what}).* at step (\d+) of 75.*learning_rate") as caught:
        train_sae(config, sparse_rows(1000), tmp_path)
    kept = load_checkpoint(tmp_path)
    assert not isinstance(kept, str)
    assert f" at step {kept.step + 1} of 75" in str(caught.value)
    assert f"the last good checkpoint, of step {kept.step}, is kept in {tmp_path}" in str(caught.value)
    assert all(bool(tensor.isfinite().all()) for name, tensor in kept.tensors.items() if "adam" not in name)


def test_a_run_that_diverges_at_once_keeps_nothing_and_stops_no_other(tmp_path: Path) -> None:
    rows = sparse_rows(1000)
    # A checkpoint of another run is not one that this run keeps.
    with pytest.raises(Stop):
        train_sae(replace(CONFIG, seed=7), rows, tmp_path / "bad", progress=stop_at(15))
    jobs = [Job(replace(CONFIG, learning_rate=rate), tmp_path / name) for name, rate in (("bad", 1e30), ("good", 3e-3))]
    with pytest.raises(Diverged, match=r"the loss became .* there is no checkpoint yet$") as caught:
        train_saes(jobs, rows)
    found = load_checkpoint(tmp_path / "bad")
    assert not isinstance(found, str)
    assert found.step == 10
    bad, good = caught.value.finished
    assert bad is None
    assert good is not None
    alone = train_sae(jobs[1].config, rows, tmp_path / "alone")
    assert good.loss == alone.loss
    assert same(SAE.load(tmp_path / "good").weights, SAE.load(tmp_path / "alone").weights)


def test_a_parent_row_of_zeros_stays_a_row_of_zeros(tmp_path: Path) -> None:
    rows = sparse_rows(1000)
    train_sae(CONFIG, rows, tmp_path / "first")
    weights = SAE.load(tmp_path / "first").weights
    weights.decoder[5] = 0
    weights.encoder[5] = 0
    report = train_sae(CONFIG, rows, tmp_path / "second", parent=Parent(weights, "zeros"))
    assert np.isfinite(report.loss)
    norms = SAE.load(tmp_path / "second").weights.decoder.norm(dim=1)
    torch.testing.assert_close(norms[norms > 0], torch.ones(int((norms > 0).sum())))


def test_rows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\(1000, 23\).*24"):
        train_sae(CONFIG, sparse_rows(1000)[:, :23], tmp_path)
    with pytest.raises(InputError, match="100 rows do not fill one batch of 256"):
        train_sae(CONFIG, sparse_rows(100), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 10}, "warm-up of 5 and a decay of 20 steps do not fit in 10"),
        ({"batch": 0}, "batch of a training run is 0"),
        ({"objective": Objective(k_aux=65)}, "k_aux 65 is above the width 64"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"seed": -1}, "seed .* is -1"),
        ({"schedule": "cos"}, "schedule 'cos' is not known; known are: linear, cosine"),
        ({"precision": "float16"}, "precision 'float16' is not known; known are: float32, bfloat16"),
    ],
)
def test_contradictory_settings_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(CONFIG, **change)  # type: ignore[arg-type]


def test_rate_rises_stays_and_falls() -> None:
    config = replace(CONFIG, steps=10, warmup=2, decay=4, learning_rate=1.0)
    assert [learning_rate(config, s) for s in range(10)] == [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("k_aux", [0, 8])
def test_auxk_teaches_dead_latents_the_error(k_aux: int) -> None:
    """Eight latents whose bias keeps them in the top 8 can express half of the space; the dead must learn the rest."""
    g = torch.Generator().manual_seed(0)
    live = torch.eye(16)[:8]
    idle = torch.nn.functional.normalize(torch.cat([torch.zeros(24, 8), torch.randn(24, 8, generator=g)], 1), dim=1)
    both = torch.cat([live, idle])
    weights = Weights(both.clone(), torch.cat([torch.full((8,), 9.0), torch.zeros(24)]), both.clone(), torch.zeros(16))
    weights.decoder_bias[:8] = -9
    dead = torch.arange(32) >= 8
    optimiser = UnitDecoderAdam(weights)
    missed = []
    for _ in range(300):
        x = torch.randn(256, 16, generator=g)
        outcome = TopK(8, k_aux=k_aux).loss(weights, Batch(x, x, dead))
        missed.append(float(outcome.loss + outcome.fve - 1) * 32)
        # Only what AuxK changes is under test: the live latents are held.
        for slope in (outcome.gradient.encoder, outcome.gradient.encoder_bias, outcome.gradient.decoder):
            slope[:8] = 0
        outcome.gradient.decoder_bias.zero_()
        optimiser.step(outcome.gradient, 1e-2)
    if k_aux:
        assert np.mean(missed[-20:]) < 0.5 * missed[0]
    else:
        assert torch.equal(weights.encoder[8:], idle)


@pytest.mark.parametrize(("n", "batch"), [(1000, 100), (1050, 100), (140_000, 3000), (131_100, 131_100)])
def test_an_epoch_draws_each_row_at_most_once_and_the_next_epoch_another_order(n: int, batch: int) -> None:
    rows = np.arange(n, dtype=np.float32)[:, None]
    sampler = RowSampler(rows, batch, seed=1)  # type: ignore[arg-type]
    steps = n // batch
    epoch = [sampler.batch(s)[:, 0] for s in range(steps)]
    drawn = torch.cat(epoch)
    assert len(set(drawn.tolist())) == len(drawn) == steps * batch
    assert not torch.equal(sampler.batch(steps)[:, 0], epoch[0])
    # Any step can be drawn at once, and knows where its rows stand.
    fresh = RowSampler(rows, batch, seed=1)  # type: ignore[arg-type]
    assert torch.equal(fresh.batch(steps - 1)[:, 0], epoch[-1])
    assert fresh.row_numbers(steps - 1).tolist() == epoch[-1].tolist()
    assert not torch.equal(RowSampler(rows, batch, seed=2).batch(0)[:, 0], epoch[0])  # type: ignore[arg-type]


def test_batches_that_are_drawn_ahead_are_the_same_batches() -> None:
    rows = np.random.default_rng(0).standard_normal((1000, 3)).astype(np.float16)
    source = CachedRows(rows, rows[::-1])
    plain, ahead = source.sampler(100, 1), Ahead(source.sampler(100, 1), last=24)
    # In order over two epochs and a half, then back, then past the last.
    for step in [*range(25), 3, 4, 30, 31]:
        for one, other in zip(plain.batch(step), ahead.batch(step), strict=True):
            assert one.dtype == torch.float16
            assert torch.equal(one, other)
        assert np.array_equal(plain.row_numbers(step), ahead.row_numbers(step))
    ahead.close()


def test_an_error_of_a_batch_drawn_ahead_comes_at_its_own_step() -> None:
    class Broken:
        def batch(self, step: int) -> tuple[Tensor, Tensor]:
            if step == 1:
                raise OSError("the disk is gone")
            return torch.zeros(1, 1), torch.zeros(1, 1)

        def row_numbers(self, step: int) -> npt.NDArray[np.int64]:
            return np.array([step])

    ahead = Ahead(Broken(), last=9)
    ahead.batch(0)
    with pytest.raises(OSError, match="the disk is gone"):
        ahead.batch(1)
    assert ahead.batch(2)[0].shape == (1, 1)
    ahead.close()


def test_folding_the_scale_keeps_reconstruction_and_unit_rows() -> None:
    g = torch.Generator().manual_seed(0)
    decoder = torch.nn.functional.normalize(torch.randn(40, 8, generator=g, dtype=torch.float64), dim=1)
    weights = Weights(
        torch.randn(40, 8, generator=g, dtype=torch.float64),
        torch.randn(40, generator=g, dtype=torch.float64),
        decoder,
        torch.randn(8, generator=g, dtype=torch.float64),
    )
    x = 50 * torch.randn(30, 8, generator=g, dtype=torch.float64)
    scale = 0.07
    inner = SAE(replace(SAE_CONFIG, d_in=8, width=40), weights)
    outer = SAE(inner.config, unscaled(weights, scale))
    torch.testing.assert_close(outer.decode(outer.encode(x)), inner.decode(inner.encode(x * scale)) / scale)
    assert torch.equal(outer.weights.decoder, decoder)


def test_adam_step_is_the_published_one_on_the_sphere() -> None:
    g = torch.Generator().manual_seed(0)
    decoder = torch.nn.functional.normalize(torch.randn(10, 6, generator=g, dtype=torch.float64), dim=1)
    weights = Weights(decoder.clone(), torch.zeros(10).double(), decoder.clone(), torch.zeros(6).double())
    optimiser = UnitDecoderAdam(weights)
    x = torch.randn(50, 6, generator=g, dtype=torch.float64)
    raw = TopK(k=3).loss(weights, Batch(x, x, torch.zeros(10).bool())).gradient
    expected = raw.decoder - (raw.decoder * decoder).sum(1, keepdim=True) * decoder
    # The gradient is brought to norm 1, after its part along the decoder rows was removed.
    others = torch.cat([raw.encoder.flatten(), raw.encoder_bias, raw.decoder_bias])
    expected = expected / (expected.square().sum() + others.square().sum()).sqrt()
    optimiser.step(raw, 0.01)
    # Adam's first step is the rate times the sign of the gradient, up to epsilon.
    stepped = decoder - 0.01 * expected / (expected.abs() + 6.25e-10)
    torch.testing.assert_close(weights.decoder, torch.nn.functional.normalize(stepped, dim=1))
    torch.testing.assert_close(weights.decoder.norm(dim=1), torch.ones(10, dtype=torch.float64))


def test_the_report_on_disk_is_the_report_returned(tmp_path: Path) -> None:
    report = train_sae(CONFIG, sparse_rows(1000), tmp_path)
    stored = json.loads((tmp_path / "training.json").read_text())["report"]
    assert TrainReport(**stored) == report
    assert report.tokens == 60 * 256


def test_training_needs_pytorch_numpy_and_safetensors_alone() -> None:
    """So that it runs on a machine with a GPU that has no more; its benchmark asks for click besides."""
    code = "import sys; sys.path[0] = sys.argv[1]; import train_gpu; "
    code += "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(root / "tests" / "benchmarks")],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    loaded = set(ast.literal_eval(done.stdout))
    assert "torch" in loaded
    assert not loaded & {"duckdb", "lance", "lancedb", "pyarrow", "pydantic", "sqlglot", "transformers"}
