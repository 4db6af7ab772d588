"""Three writers and four readers at once, on either kind of metadata: no row is lost, doubled or seen by half."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from catalog import Catalog
from catalog.doctor.examine import examine
from tests.benchmarks.concurrency import contend, lock_of_a_step


@pytest.mark.slow
def test_writers_and_readers_at_once(root: Path) -> None:
    # On a busy machine the processes take most of six seconds to begin.
    since = time.monotonic()
    subprocess.run([sys.executable, "-c", "import duckdb, catalog.store.catalog"], cwd=Path(__file__).parents[2])
    found = contend(root, seconds=max(6, 15 * (time.monotonic() - since)))
    assert found["commits"] >= 3
    assert found["moved"] > 0, "the writers never met: nothing was tested"
    assert found["reads"] > 4
    with Catalog(root) as catalog:
        assert {finding.severity for finding in examine(catalog, only=["files", "keys", "views"])} == {"ok"}


@pytest.mark.slow
def test_the_lock_is_held_for_a_part_of_what_a_step_takes(root: Path) -> None:
    found = lock_of_a_step(root, rows=20_000)
    assert found["commit_lock_ms"] < found["write_lock_ms"] / 2
    assert found["commit_lock_ms"] < found["commit_whole_ms"] / 2
