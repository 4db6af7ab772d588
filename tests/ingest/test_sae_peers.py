"""Our checkpoints against the libraries themselves: what they write we read, and what we write they read.

The libraries run in a process of their own, from the folder in SAEQL_PEERS (else `.peers`, which `make peers` makes).
Where they are not there, what they wrote once (`data/peers/*.zip`) is read all the same. `python test_sae_peers.py`
from the repository's root writes those files anew.
"""

import io
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from ingest.sae.checkpoints.dictionary_learning import save_dictionary_learning
from ingest.sae.checkpoints.load import load_checkpoint_folder
from ingest.sae.checkpoints.saelens import save_saelens
from ingest.sae.checkpoints.sparsify import save_sparsify
from tests.ingest.test_sae_formats import HOLDS, dense, made, rows

DATA = Path(__file__).parent / "data" / "peers"
PEERS = os.environ.get("SAEQL_PEERS", str(Path(__file__).parents[2] / ".peers"))
MODULES = {"saelens": "sae_lens", "sparsify": "sparsify", "dictionary_learning": "dictionary_learning"}
SAVE = {"saelens": save_saelens, "sparsify": save_sparsify, "dictionary_learning": save_dictionary_learning}


def in_their_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    # sparsify's own kernels need a GPU wherever Triton is installed; the suite's interpreter is for ours alone.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": PEERS, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "SPARSIFY_DISABLE_TRITON": "1"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=250)


@cache
def why_not(library: str) -> str:
    """The error of importing the library, empty if there is none."""
    if not Path(PEERS).is_dir():
        return f"{PEERS} is not there"
    found = in_their_process("-c", f"import {MODULES[library]}")
    return found.stderr.strip().splitlines()[-1] if found.returncode else ""


def their_side(command: str, library: str, folder: Path) -> None:
    if why_not(library):
        pytest.skip(f"{library} cannot be imported: {why_not(library)}")
    done = in_their_process(str(DATA / "peer.py"), command, library, str(folder))
    assert not done.returncode, done.stderr


def largest(found: tuple[np.ndarray, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    """The largest difference of latents or reconstructions, relative to 1 + |what is expected|."""
    assert (found[0] > 0).any()
    pairs = list(zip(found, (expected["latents"], expected["reconstruction"]), strict=True))
    assert all(ours.shape == theirs.shape for ours, theirs in pairs)
    # Of a maximum Python keeps the first where the second is NaN.
    assert all(np.isfinite(one).all() for pair in pairs for one in pair), "values that are not finite"
    return max(float((np.abs(ours - theirs) / (1 + np.abs(theirs))).max()) for ours, theirs in pairs)


@pytest.mark.parametrize("place", [0, 1, "latents", "reconstruction"])
def test_a_nan_on_either_side_is_no_agreement(place: int | str) -> None:
    found = (np.ones((2, 3)), np.ones((2, 4)))
    expected = {"latents": found[0].copy(), "reconstruction": found[1].copy()}
    assert largest(found, expected) == 0
    (found[place] if isinstance(place, int) else expected[place])[1, 2] = np.nan
    with pytest.raises(AssertionError, match="not finite"):
        largest(found, expected)


def differences(folder: Path) -> dict[str, float]:
    """By variant, how far what we compute from the library's files is from what it computed."""
    found = {}
    for place in sorted(folder.iterdir()):
        expected = np.load(place / "expected.npz")
        found[place.name] = largest(dense(load_checkpoint_folder(place), torch.from_numpy(expected["x"])), expected)
    return found


@pytest.mark.parametrize("library", SAVE)
def test_what_a_library_wrote_once_is_read_alike(tmp_path: Path, library: str) -> None:
    with zipfile.ZipFile(DATA / f"{library}.zip") as stored:
        stored.extractall(tmp_path)
    found = differences(tmp_path)
    assert len(found) >= 5
    assert max(found.values()) < 1e-5, found


@pytest.mark.slow
@pytest.mark.parametrize("library", SAVE)
def test_what_a_library_writes_is_read_alike(tmp_path: Path, library: str) -> None:
    their_side("write", library, tmp_path)
    found = differences(tmp_path)
    assert max(found.values()) < 1e-5, found


@pytest.mark.slow
@pytest.mark.parametrize("library", SAVE)
def test_what_is_written_a_library_reads_alike(tmp_path: Path, library: str) -> None:
    x = rows()
    for case in HOLDS[library]:
        SAVE[library](tmp_path / case, made(case))
        np.save(tmp_path / case / "x.npy", x.numpy())
    their_side("read", library, tmp_path)
    found = {}
    for case in HOLDS[library]:
        found[case] = largest(dense(made(case), x), np.load(tmp_path / case / "expected.npz"))
    assert max(found.values()) < 1e-5, found


def write_data(library: str) -> None:
    """Write `data/peers/<library>.zip`: a zip of the folders that the library wrote, each with expected.npz."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        their_side("write", library, folder)
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                packed.write(path, path.relative_to(folder))
        (DATA / f"{library}.zip").write_bytes(content.getvalue())


if __name__ == "__main__":
    for name in SAVE:
        write_data(name)
