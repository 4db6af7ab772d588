"""Runs a user's query in a process of its own, within a limit of time and one of memory; every query comes this way.

Invariant: whatever the engine does, the caller goes on. A process that is over its time, that crashes, or whose
caller was interrupted is killed; a process whose caller is gone ends itself (see `child.py`). Processes that ended
a query well are kept for the next one, since to start one takes half a second.
"""

import json
import os
import pickle
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from catalog import errors
from catalog.errors import InputError, QueryStopped, SaeqlError
from catalog.store.location import Location
from queries.ask.limits import timeout as limit_of

if TYPE_CHECKING:
    import pyarrow as pa

_HEAD = 9
"""A frame is a letter, the length of its body in 8 bytes, and the body."""
_KEPT = 2
_OPENING_SECONDS = 60.0
_PIPE_BYTES = 1 << 20
_START = (
    "import gc, sys; gc.disable(); sys.path[:] = sys.argv.pop().split(chr(10)); "
    "from queries.ask.child import main; main()"
)
"""The collector would look at the modules again and again while they are loaded; `main` turns it on."""


def ask(
    location: Location,
    sql: str,
    parameters: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    at: int | str | None = None,
    tables: "Mapping[str, pa.Table] | None" = None,
    timeout: float | None = None,
    whole: bool = False,
) -> "pa.RecordBatchReader":
    """Check a user's query and run it on the catalog, as it is or was `at` a snapshot or tag; rows arrive in batches.

    `parameters` fill `?` or `$name`; `tables` are Arrow tables that the query may name beside those of the catalog.
    `timeout` is in seconds, see `limits.timeout`. Its clock stands while the catalog is opened, and while the
    receiver of the rows sleeps: a person who pages through a result is in no hurry. `whole` says that the receiver will
    hold all rows at once: a result of more than SAEQL_MEMORY is then refused.
    Raises QueryRefused, UnknownName, CatalogError, InputError, and QueryStopped for a query over a limit, also
    while rows are read.
    """
    seconds = limit_of(timeout)
    location = location.absolute()
    try:
        sent = {name: _arrow_bytes(table) for name, table in (tables or {}).items()}
        request = pickle.dumps((location, sql, parameters, at, sent, whole))
    except Exception as error:
        raise InputError(f"a parameter cannot be sent to the query's process: {error}") from error
    worker = _Worker.taken()
    try:
        worker.send(request, location.root)
        # Arrow is imported while the other process opens the catalog.
        import pyarrow as pa

        clock = _Clock(seconds)
        schema = pa.ipc.open_stream(worker.frame(clock)).schema
    except BaseException:
        worker.release()
        raise
    return pa.RecordBatchReader.from_batches(schema, _batches(worker, clock))


def _batches(worker: "_Worker", clock: "_Clock") -> "Iterator[pa.RecordBatch]":
    import pyarrow as pa

    try:
        while (body := worker.frame(clock)) is not None:
            yield from pa.ipc.open_stream(body).read_all().to_batches()
    finally:
        worker.release()


def _arrow_bytes(table: "pa.Table") -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


class _Clock:
    """What a query has used of its time: waiting for the engine, and work on its rows in this thread."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.used = 0.0
        self.running = False
        """Whether the catalog is open, before which the time is counted apart."""
        self._worked = time.thread_time()

    def start(self) -> None:
        """The query runs from now on."""
        self.used, self.running, self._worked = 0.0, True, time.thread_time()

    def wait(self, source: select.poll) -> None:
        """Return when there is something to read. Raises QueryStopped when the time is over."""
        self.used += max(0.0, time.thread_time() - self._worked)
        limit = self.seconds if self.running else max(self.seconds, _OPENING_SECONDS)
        ready: Any = None
        while not ready:
            since = time.monotonic()
            ready = source.poll(max(0.0, min(limit - self.used, 1.0)) * 1000)
            self.used += time.monotonic() - since
            if self.used >= limit:
                raise QueryStopped(self._over())
        self._worked = time.thread_time()

    def _over(self) -> str:
        if not self.running:
            return f"the catalog could not be opened within {_OPENING_SECONDS:g} s: does its disk or server answer?"
        return (
            f"the query was stopped after {self.seconds:g} s, its time limit: ask for less, or set the limit in "
            "seconds with --timeout or SAEQL_TIMEOUT, 0 for none"
        )


class _Worker:
    """A process that answers queries, one at a time."""

    _idle: "ClassVar[list[_Worker]]"
    _turn: ClassVar[threading.Lock]

    def __init__(self, settings: tuple[tuple[str, str], ...]):
        self.settings = settings
        self.spill: Path | None = None
        self.free = False
        """Whether its last query ended well."""
        # -S: no `site`, whose hooks take a fifth of the start; the path is given instead. -P: not the current folder.
        paths = "\n".join([str(Path(__file__).parents[2]), *filter(None, sys.path)])
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-P", "-c", _START, paths],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Arrow's own allocator maps a gigabyte at once, which would count against the limit of memory.
            env={**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"},
            # A group of its own: a terminal's Ctrl-C goes to the caller, who kills it.
            process_group=0,
            bufsize=0,
        )
        pipes = [pipe for pipe in (self.process.stdin, self.process.stdout) if pipe]
        self.input, self.output = (pipe.fileno() for pipe in pipes)
        _widen(self.output)
        self.poll = select.poll()
        self.poll.register(self.output, select.POLLIN)

    @classmethod
    def taken(cls) -> "_Worker":
        """One that waits and was started under the same settings, else a new one."""
        settings = _settings()
        with cls._turn:
            for index, worker in enumerate(cls._idle):
                if worker.settings == settings and worker.process.poll() is None:
                    return cls._idle.pop(index)
        return cls(settings)

    def release(self) -> None:
        """Let it wait for the next query if this one ended well, else end it."""
        over = [] if self.free else [self]
        if self.free:
            with self._turn:
                self._idle.append(self)
                over = self._idle[:-_KEPT]
                del self._idle[:-_KEPT]
        for worker in over:
            worker.kill()

    def send(self, request: bytes, root: Path) -> None:
        """Hand over a request; an end of the process shows when its answer is read."""
        self.free = False
        self.spill = root / "cache" / f"spill-{self.process.pid}"
        with suppress(BrokenPipeError):
            view = memoryview(len(request).to_bytes(8, "big") + request)
            while view:
                view = view[os.write(self.input, view) :]

    def frame(self, clock: _Clock) -> bytearray | None:
        """The body of the next part of the answer, None at its end. Raises what the answer says."""
        while True:
            head = self._read(_HEAD, clock)
            kind, body = chr(head[0]), self._read(int.from_bytes(head[1:], "big"), clock)
            if kind == "B":
                return body
            if kind == "R":
                clock.start()
                continue
            told = json.loads(body)
            self.free = told["free"]
            if kind == "E":
                raise _raised(told)
            return None

    def _read(self, size: int, clock: _Clock) -> bytearray:
        body = bytearray(size)
        view = memoryview(body)
        while view:
            clock.wait(self.poll)
            got = os.readv(self.output, [view])
            if not got:
                raise self._ended()
            view = view[got:]
        return body

    def _ended(self) -> QueryStopped:
        code = self.process.wait()
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if code in (-signal.SIGSEGV, -signal.SIGBUS):
            why = "the engine crashed: values nested thousands deep do this; give it flatter ones"
        elif code in (-signal.SIGABRT, -signal.SIGKILL):
            why = "it was most likely out of memory: ask for less, or raise SAEQL_MEMORY"
        else:
            why = "run it again to see whether it ends so each time"
        return QueryStopped(f"the process of the query ended before its answer ({name}): {why}")

    def kill(self) -> None:
        """End the process, and remove what it spilled."""
        if self.process.returncode is None:
            self.process.kill()
            # To give gigabytes back takes the system a while, which an interrupted person need not wait for.
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.3)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()
        if self.spill and self.spill.exists():
            shutil.rmtree(self.spill, ignore_errors=True)


def prepare() -> None:
    """Start the process that will answer the next query: it loads the engine while the caller reads a command line."""
    with _Worker._turn:
        if not _Worker._idle:
            _Worker._idle.append(_Worker(_settings()))


def _settings() -> tuple[tuple[str, str], ...]:
    """What a process takes from the environment that it is started in."""
    return tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith(("SAEQL_", "PG", "XDG_", "HOME"))))


def _forget() -> None:
    """Begin without processes, also after a fork, which shares its parent's pipes and must not use them."""
    _Worker._idle, _Worker._turn = [], threading.Lock()


_forget()
os.register_at_fork(after_in_child=_forget)


def _raised(told: dict[str, Any]) -> SaeqlError:
    kind = getattr(errors, told["kind"], None)
    known = isinstance(kind, type) and issubclass(kind, SaeqlError)
    return kind(told["message"]) if known else InputError(told["message"])  # type: ignore[misc]


def _widen(pipe: int) -> None:
    """A pipe of 1 MiB instead of 64 KiB, where the system has such."""
    import fcntl

    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
