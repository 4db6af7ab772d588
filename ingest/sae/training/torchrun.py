"""Data-parallel training: `torchrun` starts processes that train one SAE together, each on its part of every batch.

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m ingest.sae.training.torchrun JOB.json

The processes map the same cache; rank 0 leaves the finished run in the job's folder, where the caller finds it. They
end with the caller, however it ends: a run of which nobody knows would write into the folder of the next one.
"""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from safetensors.torch import load_file
from torch import distributed

from catalog.errors import InputError
from catalog.store.atomic_files import write_whole
from ingest.sae import collectives
from ingest.sae.architecture import Weights
from ingest.sae.config import Objective, SAEConfig
from ingest.sae.layout.packed import packed
from ingest.sae.training.job import Job, Parent
from ingest.sae.training.loop import train_saes
from ingest.sae.training.rows import CachedRows, MappedFile, RowSource
from ingest.sae.training.run import Diverged, check_share
from ingest.sae.training.settings import TrainConfig

JOB_FILE, PARENT_FILE, SUBSET_FILE = "job.json", "parent.safetensors", "subset.npy"
STOPPED_FILES = "stopped-*.json"
"""What a process says of an error that its caller is to raise."""
GRACE = 40.0
"""Seconds that torchrun is given to end its processes, which itself gives them 30."""
_TOLD = 2000
"""Characters that are shown of the beginning and of the end of a failed run's messages."""


def train_in_processes(job: Job, source: RowSource, processes: int) -> None:
    """Train `job` on cached rows in `processes` processes; the finished run is left in its folder.

    Raises what training in one process would (Diverged, InputError), and InputError with the last messages if a
    process fails otherwise. None of them is left behind, whatever is raised here: KeyboardInterrupt too.
    """
    if not isinstance(source, CachedRows):
        raise InputError("several processes train from the cache alone: leave out `stream`, or set processes = 1")
    check_share(job.config.batch, processes)
    files = source.files()
    job.out_dir.mkdir(parents=True, exist_ok=True)
    folder = job.out_dir.absolute()
    try:
        _hand_over(job, source, files, folder)
        code, told = _torchrun(folder / JOB_FILE, processes)
        if stopped := _stopped(folder):
            raise stopped
    finally:
        _clear(folder)
    if code:
        if len(told) > 2 * _TOLD:
            # A process says what happened to it at the beginning, torchrun what that did to the others at the end.
            told = f"{told[:_TOLD]}\n...\n{told[-_TOLD:]}"
        raise InputError(f"training in {processes} processes failed:\n{told}")


def _hand_over(job: Job, source: CachedRows, files: list[MappedFile], folder: Path) -> None:
    """Leave in `folder` what `_loaded` reads."""
    _clear(folder)
    said: dict[str, Any] = {
        "config": asdict(job.config),
        "skip": job.skip,
        "files": files,
        "subset": source.subset is not None,
        "caller": os.getpid(),
    }
    if job.parent:
        write_whole(folder / PARENT_FILE, packed(job.parent.weights.named()))
        scales = {"scale": job.parent.scale, "target_scale": job.parent.target_scale}
        said["parent"] = {"digest": job.parent.digest, **scales}
    if source.subset is not None:
        np.save(folder / SUBSET_FILE, source.subset)
    write_whole(folder / JOB_FILE, json.dumps(said).encode())


def _clear(folder: Path) -> None:
    """Remove what is of one call alone."""
    for path in (*(folder / name for name in (JOB_FILE, PARENT_FILE, SUBSET_FILE)), *folder.glob(STOPPED_FILES)):
        path.unlink(missing_ok=True)


def _torchrun(job_file: Path, processes: int) -> tuple[int, str]:
    """(exit status, messages) of the training that `job_file` describes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    threads = max((os.cpu_count() or 1) // processes, 1)
    torchrun = subprocess.Popen(
        [*command, "-m", "ingest.sae.training.torchrun", str(job_file)],
        env={"OMP_NUM_THREADS": str(threads), **os.environ},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        told = torchrun.communicate()[1]
    except BaseException:
        # Killed at once, torchrun would leave its processes to go on: each is in a session of its own.
        torchrun.terminate()
        try:
            torchrun.communicate(timeout=GRACE)
        except subprocess.TimeoutExpired:
            torchrun.kill()
            torchrun.communicate()
        raise
    return torchrun.returncode, told


def _stopped(folder: Path) -> InputError | None:
    """What the processes said of why they stopped: rows that cannot be used come before a loss that they spoil."""
    said = [json.loads(path.read_text()) for path in sorted(folder.glob(STOPPED_FILES))]
    said.sort(key=lambda one: bool(one["diverged"]))
    return (Diverged if said[0]["diverged"] else InputError)(said[0]["message"]) if said else None


def _loaded(path: Path) -> tuple[Job, CachedRows]:
    """What `train_in_processes` wrote."""
    said = json.loads(path.read_text())
    config = said["config"]
    sae = SAEConfig(**{**config["sae"], "groups": tuple(config["sae"]["groups"])})
    l0_range = tuple(config["l0_range"]) if config["l0_range"] else None
    settings = {**config, "sae": sae, "objective": Objective(**config["objective"]), "l0_range": l0_range}
    parent = None
    if "parent" in said:
        parent = Parent(Weights(**load_file(path.parent / PARENT_FILE)), **said["parent"])
    files = [MappedFile(*file).open() for file in said["files"]]
    subset = np.load(path.parent / SUBSET_FILE) if said["subset"] else None
    return Job(TrainConfig(**settings), path.parent, parent, skip=said["skip"]), CachedRows(*files, subset=subset)


def _end_with(caller: int) -> None:
    """End this process, at once and whatever it does, within a second after the caller or torchrun is gone."""
    torchrun = os.getppid()

    def watch() -> None:
        while os.getppid() == torchrun:
            time.sleep(1)
            try:
                os.kill(caller, 0)
            except OSError:
                break
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@click.command()
@click.argument("job_file", type=click.Path(exists=True, path_type=Path))
def main(job_file: Path) -> None:
    """Take part in the training that JOB_FILE describes."""
    _end_with(json.loads(job_file.read_text())["caller"])
    gpu = torch.cuda.is_available()
    distributed.init_process_group("nccl" if gpu else "gloo")
    try:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if gpu else "cpu"
        if gpu:
            torch.cuda.set_device(device)
        job, rows = _loaded(job_file)
        # A process must not look for a finished run while another one writes it.
        distributed.barrier()
        train_saes([job], rows, device=device)
        distributed.barrier()
        if collectives.rank() == 0:
            click.echo(f"trained in {job.out_dir}", err=True)
    except InputError as error:
        diverged = isinstance(error, Diverged)
        said = {"diverged": diverged, "message": str(error)}
        write_whole(job_file.with_name(STOPPED_FILES.replace("*", str(collectives.rank()))), json.dumps(said).encode())
        # All see the same loss: who is first must not have the others ended before they have said what they know.
        if not diverged:
            raise
    finally:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(standalone_mode=False)
    # All is on disk. A usual end now and then runs into a library's own threads (`terminate called without an
    # active exception`), and torchrun takes that for a training that failed.
    sys.stderr.flush()
    os._exit(0)
