"""A program: ingest a study in child processes, each of which kills itself at a chosen call. See tiny.run_killed."""

import importlib
import json
import os
import signal
import sys
from functools import wraps
from pathlib import Path
from typing import Any

from catalog import Catalog
from catalog.study.file import Study
from ingest.pipeline import ingest_study


def kill_at(target: str, n: int, when: str, said: str | None = None) -> None:
    """Wrap `module:attribute` so that its n-th call, with `said` among its arguments, ends this process at once."""
    module, _, attribute = target.partition(":")
    *owners, name = attribute.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    real = getattr(owner, name)
    calls = 0

    @wraps(real)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        counts = said is None or said in args
        calls += counts
        if counts and calls == n and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **kwargs)
        if counts and calls == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, wrapped)


def main() -> None:
    ends = {}
    # Nothing has started a thread yet, so the children are whole; the imports are paid for once.
    for name, (root, target, n, when) in json.load(sys.stdin).items():
        child = os.fork()
        if not child:
            kill_at(target, n, when)
            with Catalog(root) as catalog:
                ingest_study(catalog, Study.load(Path(sys.argv[1])))
            os._exit(0)
        ends[name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.stdout.write("\n" + json.dumps(ends) + "\n")


if __name__ == "__main__":
    main()
