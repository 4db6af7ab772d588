"""A program: refresh catalogs in child processes that are killed at a chosen moment. See disturbed.Killer.

A line on stdin is one refresh; the line that comes back is how it ended, after how many seconds.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openai  # noqa: F401  (here once, not in each child)
import pyarrow.dataset  # noqa: F401

import ingest.sae.model  # noqa: F401
from catalog import Catalog
from ingest.model.text_encoder import load_encoder
from queries.refresh.engine import refresh
from queries.refresh.fingerprint import kernel_source
from queries.refresh.step import packaged_steps
from scoring.kernels import judgements, labels
from tests.ingest.killed_ingest import kill_at

STEPS = ("scores", "contexts_top", "label_vectors", "decoder_vectors")
"""With what these read: every kind of step."""
BATCHES = {labels: 3, judgements: 6}
"""How many are committed together: several batches even of a few."""


def refresh_all(root: Path | str, steps: Sequence[str] = STEPS) -> list[Any]:
    """Refresh; the errors."""
    with Catalog(root) as catalog:
        return [result.error for result in refresh(catalog, tuple(steps)) if result.error]


def child(job: dict[str, Any]) -> None:
    """Refresh in this process, which may not live to its end."""
    end = 1
    try:
        if "target" in job:
            kill_at(job["target"], job["n"], job["when"], job.get("said"))
        for kernel, size in BATCHES.items():
            kernel.BATCH = size
        errors = refresh_all(job["root"], job.get("steps", STEPS))
        sys.stderr.write("".join(f"{error}\n" for error in errors))
        end = len(errors)
    finally:
        os._exit(end)


def main() -> None:
    # Nothing has started a thread yet, so the children are whole; what takes long is loaded once.
    load_encoder()
    for step in packaged_steps():
        kernel_source(step.kernel or "")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        job = json.loads(line)
        begun = time.monotonic()
        number = os.fork()
        if not number:
            child(job)
        if "after" in job:
            time.sleep(job["after"])
            os.kill(number, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
        sys.stdout.write(json.dumps([code, time.monotonic() - begun]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
