"""Rows that several processes map are those of the caller, whatever their type and wherever in the file they begin."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from catalog.errors import InputError
from ingest.sae.training.job import Job
from ingest.sae.training.rows import CachedRows, MappedFile
from ingest.sae.training.scaled_rows import Rows
from ingest.sae.training.torchrun import JOB_FILE, _hand_over, _loaded
from tests.ingest.test_sae_train import CONFIG, sparse_rows


def in_npy(path: Path) -> Rows:
    np.save(path.with_suffix(".npy"), sparse_rows(2000))
    return np.load(path.with_suffix(".npy"), mmap_mode="r")


def in_float32(path: Path) -> Rows:
    rows = sparse_rows(2000).astype(np.float32)
    rows.tofile(path)
    return np.memmap(path, np.float32, "r", shape=rows.shape)


def plain(path: Path, mode: str = "r") -> Rows:
    rows = sparse_rows(2000)
    rows.tofile(path)
    return np.memmap(path, np.float16, mode, shape=rows.shape)


def a_slice(path: Path) -> Rows:
    return plain(path)[500:][200:1500]


def a_slice_of_npy(path: Path) -> Rows:
    return in_npy(path)[1000:]


@pytest.mark.parametrize("made", [plain, in_npy, in_float32, a_slice, a_slice_of_npy])
def test_processes_map_the_callers_rows(tmp_path: Path, made: Callable[[Path], Rows]) -> None:
    rows = made(tmp_path / "rows")
    source = CachedRows(rows, in_npy(tmp_path / "target")[: len(rows)], subset=np.arange(0, len(rows), 2))
    _hand_over(Job(CONFIG, tmp_path), source, source.files(), tmp_path)
    job, theirs = _loaded(tmp_path / JOB_FILE)
    assert job.config == CONFIG
    assert theirs.digest == source.digest
    assert MappedFile.of(rows).open().tobytes() == rows.tobytes()
    for ours, other in zip(source.sampler(256, 0).batch(3), theirs.sampler(256, 0).batch(3), strict=True):
        assert ours.dtype == other.dtype
        assert bool((ours == other).all())


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda path: sparse_rows(200), "lie in memory"),
        (lambda path: plain(path)[np.arange(20)], "lie in memory"),
        (lambda path: plain(path)[::2], "not as they stand in the file"),
        (lambda path: plain(path)[:, :4], "not as they stand in the file"),
        (lambda path: plain(path, "c"), "not as they stand in the file"),
    ],
)
def test_what_cannot_be_mapped_is_refused(tmp_path: Path, made: Callable[[Path], Rows], said: str) -> None:
    with pytest.raises(InputError, match=said):
        CachedRows(made(tmp_path / "rows")).files()
