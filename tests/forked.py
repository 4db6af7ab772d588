"""Processes that begin at once: children of a server, one a worker, that has the heavy modules and no thread yet.

A new interpreter takes two seconds and more for its imports. Such a child can be killed as any process can; what is
about the start of a process, and about the program `saeql`, takes a real one.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import TextIO

_context = multiprocessing.get_context("forkserver")
_MODULES = ["openai", "pyarrow.dataset", "ingest.sae.model", "ingest.model.text_encoder", "queries.refresh.engine"]
_context.set_forkserver_preload(_MODULES)


class Forked:
    """A child that runs Python code with arguments; what of subprocess.Popen the tests use."""

    def __init__(self, code: str, *arguments: object, env: Mapping[str, str] | None = None) -> None:
        read, write = _context.Pipe(duplex=False)
        given = (code, list(map(str, arguments)), dict(os.environ if env is None else env), os.getcwd(), write)
        self._process = _context.Process(target=_run, args=given, daemon=True)
        self._process.start()
        write.close()
        self.stdout: TextIO = os.fdopen(os.dup(read.fileno()))
        """What it prints; ends with it."""
        read.close()
        self.pid = self._process.pid or 0

    def poll(self) -> int | None:
        """Its exit code, negative for the signal that ended it; None while it lives."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until it ends; its exit code."""
        self._process.join(timeout)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Nothing happens if it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def communicate(self) -> tuple[str, str]:
        """What it still printed, once it has ended."""
        said = self.stdout.read()
        self.stdout.close()
        self.wait()
        return said, ""


def _run(code: str, arguments: list[str], environment: dict[str, str], folder: str, out: Connection) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    os.dup2(out.fileno(), 1)
    out.close()
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.argv = ["-c", *arguments]
    try:
        exec(compile(code, "<forked>", "exec"), {"__name__": "__main__"})
    finally:
        sys.stdout.flush()
