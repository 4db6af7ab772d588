"""A batch that two processes share has the loss, the gradient and the resampled latents that one process finds."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributed as dist

from ingest.sae import collectives
from ingest.sae.architecture import Architecture, Batch, Weights
from ingest.sae.architectures.batch_topk import BatchTopK
from ingest.sae.architectures.topk import TopK
from ingest.sae.losses import penalty_family
from ingest.sae.losses.topk_family import decoder_target, encoder_input
from ingest.sae.training.adam import UnitDecoderAdam
from ingest.sae.training.resample import resample
from tests.ingest.test_sae_elementwise import KINDS, LATENTS, PATHS, N, architecture, some_batch, some_weights

REPOSITORY = Path(__file__).parents[2]
PROCESSES = 2
GROUPS = (20, 50, LATENTS)
CASES = [
    (kind, path, transcoder, tilt)
    for kind, paths in [*((kind, list(PATHS)) for kind in KINDS), *((k, ["kept"]) for k in ("topk", "batch", "nested"))]
    for path in paths
    for transcoder, tilt in ((False, 0.0), (True, 2.0))
]


def prepared(kind: str, transcoder: bool, tilt: float) -> tuple[Architecture, Weights, Batch]:
    """An architecture, weights, and the whole batch."""
    if kind in KINDS:
        return architecture(kind, not transcoder), some_weights(kind, transcoder), some_batch(transcoder, tilt)
    dead = torch.arange(LATENTS) % 7 == 0
    made: dict[str, Architecture] = {
        "topk": TopK(5, not transcoder, k_aux=3),
        "batch": BatchTopK(5, not transcoder, k_aux=8),
        "nested": BatchTopK(5, not transcoder, k_aux=20, groups=GROUPS),
    }
    return made[kind], some_weights("relu", transcoder), some_batch(transcoder, tilt)._replace(dead=dead)


def found(kind: str, path: str, transcoder: bool, tilt: float) -> dict[str, Tensor]:
    """What this process and those beside it find, each of them for its part of the batch."""
    made, weights, batch = prepared(kind, transcoder, tilt)
    share = N // collectives.processes()
    mine = slice(collectives.rank() * share, (collectives.rank() + 1) * share)
    target = batch.x[mine] if batch.target is batch.x else batch.target[mine]
    batch = batch._replace(x=batch.x[mine], target=target)
    penalty_family.SPARSE_BELOW = PATHS.get(path, penalty_family.SPARSE_BELOW)
    outcome = made.loss(weights, batch)
    results = {"loss": outcome.loss, "fve": outcome.fve, "fired": collectives.total(outcome.fired.double())}
    if outcome.smallest is not None:
        results["smallest"] = outcome.smallest
    results |= {name: collectives.total(slope.clone()) for name, slope in outcome.gradient.named().items()}
    # Latents that none of all rows makes fire are given new weights, from rows of any process.
    new = replace(weights, encoder=weights.encoder.clone(), decoder=weights.decoder.clone())
    x_in, wanted = encoder_input(weights, batch.x, not transcoder), decoder_target(weights, batch.x, batch.target)
    dead = torch.arange(LATENTS) % 11 == 3
    resample(new, UnitDecoderAdam(new), dead, x_in, wanted, outcome.row_losses, seed=5)
    return results | {"new encoder": new.encoder, "new decoder": new.decoder}


def main(rank: int, meeting: str, out: str) -> None:
    """Take part, and save what was found of every case."""
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=PROCESSES)
    torch.save([found(*case) for case in CASES], f"{out}.{rank}")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Tensor]]]:
    """Of each process what it found, case after case."""
    folder = tmp_path_factory.mktemp("world")
    called = [sys.executable, "-m", __name__, str(folder / "meeting"), str(folder / "found")]
    running = [subprocess.Popen([*called, str(rank)], cwd=REPOSITORY) for rank in range(PROCESSES)]
    assert [one.wait(timeout=120) for one in running] == [0] * PROCESSES
    return [torch.load(f"{folder / 'found'}.{rank}") for rank in range(PROCESSES)]


@pytest.mark.parametrize("i", range(len(CASES)), ids=[f"{k}-{p}-{t}" for k, p, *_, t in CASES])
def test_two_processes_find_what_one_does(
    i: int, shared: list[list[dict[str, Tensor]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(penalty_family, "SPARSE_BELOW", penalty_family.SPARSE_BELOW)
    alone: dict[str, Any] = found(*CASES[i])
    for process in shared:
        assert process[i].keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(
                process[i][name], value, rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}"
            )


if __name__ == "__main__":
    main(int(sys.argv[3]), sys.argv[1], sys.argv[2])
