"""Several processes that train one SAE: a caller that is killed or interrupted, rows that are bad, one that is slow."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from catalog.errors import InputError
from ingest.sae.training.checkpoint import CHECKPOINT_FILE
from ingest.sae.training.job import Job
from ingest.sae.training.loop import train_sae
from ingest.sae.training.rows import CachedRows
from ingest.sae.training.run import Diverged
from ingest.sae.training.torchrun import train_in_processes
from tests.ingest.test_sae_train import CONFIG, Stop, sparse_rows, stop_at

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def mapped(path: Path) -> CachedRows:
    rows = sparse_rows(2000)
    rows.tofile(path)
    return CachedRows(np.memmap(path, np.float16, "r", shape=rows.shape))


def test_a_batch_that_does_not_divide_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^a batch of 256 rows does not divide among 3 processes: choose a multiple"):
        train_in_processes(Job(CONFIG, tmp_path / "out"), mapped(tmp_path / "rows"), 3)
    assert not (tmp_path / "out").exists()


CALLER = """
import sys
from dataclasses import replace
from pathlib import Path
from ingest.sae.training.job import Job
from ingest.sae.training.torchrun import train_in_processes
from tests.ingest.test_sae_processes import CONFIG, mapped
folder = Path(sys.argv[1])
job = Job(replace(CONFIG, steps=1_000_000, checkpoint_every=1), folder / "out")
train_in_processes(job, mapped(folder / "rows"), 2)
"""
NOTEBOOK = f"""
import signal, time
# A shell that starts the tests in the background has it ignored, and a child inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    {CALLER.strip().replace(chr(10), chr(10) + "    ")}
except KeyboardInterrupt:
    (folder / "interrupted").touch()
time.sleep(300)
"""


def processes_that_say(text: str) -> list[int]:
    """Living processes with `text` in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and text.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def until(condition: object, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


@contextmanager
def training(program: str, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A caller that trains into `folder`/out, from its first checkpoint on; killed at the end, its processes gone."""
    caller = subprocess.Popen([sys.executable, "-c", program, str(folder)], cwd=ROOT, env=ENVIRONMENT)
    try:
        assert until((folder / "out" / CHECKPOINT_FILE).exists, 90)
        yield caller
    finally:
        caller.kill()
        caller.wait()
        gone = until(lambda: not processes_that_say(str(folder / "out")), 60)
    assert gone


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="processes are found in /proc")
def test_processes_end_with_a_caller_that_is_killed(tmp_path: Path) -> None:
    with training(CALLER, tmp_path):
        # torchrun and the two that it started.
        assert len(processes_that_say(str(tmp_path / "out"))) == 3
    assert not processes_that_say(str(tmp_path / "out"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="processes are found in /proc")
def test_processes_end_with_an_interrupted_call_although_its_caller_lives_on(tmp_path: Path) -> None:
    with training(NOTEBOOK, tmp_path) as caller:
        caller.send_signal(signal.SIGINT)
        assert until((tmp_path / "interrupted").exists, 60)
        assert processes_that_say(str(tmp_path / "out")) == []
        assert caller.poll() is None
        assert not list((tmp_path / "out").glob("*.json"))


@pytest.mark.slow
def test_rows_that_are_not_finite_are_named_as_one_process_names_them(tmp_path: Path) -> None:
    rows = sparse_rows(2000)
    rows[7, 3] = np.nan
    rows.tofile(tmp_path / "rows")
    source = CachedRows(np.memmap(tmp_path / "rows", np.float16, "r", shape=rows.shape))
    with pytest.raises(InputError, match=r"^row 7 of the activations holds NaN") as raised:
        train_in_processes(Job(CONFIG, tmp_path / "out"), source, 2)
    assert not isinstance(raised.value, Diverged)


WORKER = """
import datetime, sys, time
from pathlib import Path
from torch import distributed
from ingest.sae.training import run
from ingest.sae.training.job import Job
from ingest.sae.training.loop import train_saes
from tests.ingest.test_sae_processes import CONFIG, mapped
distributed.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
rank, load = distributed.get_rank(), run.load_checkpoint
run.load_checkpoint = lambda folder: (time.sleep(2 * rank), load(folder))[1]
folder = Path(sys.argv[1])
(report,) = train_saes([Job(CONFIG, folder / "out")], mapped(folder / f"rows{rank}"))
assert report.resumed_at == CONFIG.steps, report.resumed_at
"""


@pytest.mark.slow
def test_a_run_that_was_stopped_after_its_last_step_is_finished_by_all(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train_sae(CONFIG, mapped(tmp_path / "rows"), tmp_path / "out", progress=stop_at(CONFIG.steps))
    assert (tmp_path / "out" / CHECKPOINT_FILE).exists()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    workers = [
        subprocess.Popen(command, cwd=ROOT, env={**ENVIRONMENT, **meeting, "RANK": rank}, stderr=subprocess.PIPE)
        for rank in ("0", "1")
    ]
    said = [worker.communicate()[1].decode() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    assert not (tmp_path / "out" / CHECKPOINT_FILE).exists()
