"""Runs as the process of a user's query: opens the catalog, checks and runs the query, writes its rows to a pipe.

`door.py` starts it and kills it. It ends itself when the other side of its standard input is gone, so that no
caller, however it ended, leaves a query behind. Its writable memory is bounded, and no core is dumped.
"""

import gc
import json
import math
import os
import pickle
import select
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from catalog import Catalog, Location
from catalog.errors import InputError, QueryRefused, QueryStopped, SaeqlError, UnknownName
from catalog.store.connection import answered
from catalog.store.location import METADATA
from catalog.store.snapshots import resolve
from queries.ask.lean import with_numpy, without_numpy
from queries.ask.limits import in_bytes, process_bytes, value_bytes

if TYPE_CHECKING:
    import pyarrow as pa

_MESSAGE = 8_000
_GROUP_ROWS = 16_384
_FRAME_BYTES = 4 << 20
_KEPT_BYTES = 100 << 20
"""A process that has mapped so much more than before takes no other query: that one would have less memory."""
_SERVER_SECONDS = 1.0
_REFUSED = (QueryRefused.__name__, UnknownName.__name__)
_spill: Path | None = None


def main() -> None:
    """Answer requests until the caller is gone."""
    answers = os.dup(1)
    # What a library prints must not come between the frames.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    threading.Thread(target=_end_with_caller, daemon=True).start()
    without_numpy()
    # Imported while the engine attaches the catalog, which does not hold the interpreter.
    _loading.start()
    opened = _Opened()
    while request := _request(opened):
        if not _answer(request, opened, answers):
            return


def _load() -> None:
    """Import what the first query needs when the catalog is open."""
    import_module("pyarrow.ipc")
    import_module("queries.ask.guard")
    gc.freeze()
    gc.enable()


_loading = threading.Thread(target=_load, daemon=True)


def _unpickled(request: bytes) -> Any:
    """What `door.ask` sent; a parameter may be a number of NumPy's."""
    if b"numpy" in request:
        with_numpy()
    return pickle.loads(request)


def _end_with_caller() -> None:
    watch = select.poll()
    watch.register(0, 0)  # a hang-up is always told
    watch.poll()
    if _spill:
        shutil.rmtree(_spill, ignore_errors=True)
    os._exit(0)


def _request(opened: "_Opened") -> bytes:
    """The next request; who waits for one gives a server's connection back soon."""
    if opened.catalog and opened.catalog.location.server and not select.select([0], [], [], _SERVER_SECONDS)[0]:
        opened.close()
    head = _read(8)
    return _read(int.from_bytes(head, "big")) if head else b""


def _read(size: int) -> bytes:
    parts = []
    while size:
        part = os.read(0, size)
        if not part:
            return b""
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class _Opened:
    """The catalog that was asked last, kept open as long as its file is the same one."""

    def __init__(self) -> None:
        self.key: Any = None
        self.catalog: Catalog | None = None
        self.engine_bytes = self.mapped = 0

    def get(self, location: Location, at: int | str | None) -> Catalog:
        """The catalog for reading, as it is or was at a snapshot or tag."""
        if at is not None and not (str(at).isascii() and str(at).isdigit()):
            at = resolve(self.get(location, None), at)
        key = (location, None if at is None else int(at), _identity(location))
        if self.catalog is None or key != self.key:
            self.close()
            global _spill
            _spill = location.root / "cache" / f"spill-{os.getpid()}"
            os.environ["SAEQL_SPILL"] = str(_spill)
            self.catalog, self.key = Catalog(location, read_only=True, snapshot=key[1]), key
            self.engine_bytes = _bound(self.catalog)
            # What is imported maps memory too, and is no query's.
            if _loading.ident:
                _loading.join()
            self.mapped = self.mapped or _mapped()
        return self.catalog

    def close(self) -> None:
        """Close what is open."""
        if self.catalog:
            self.catalog.close()
        self.catalog = self.key = None


def _identity(location: Location) -> tuple[int, int] | None:
    with suppress(OSError):
        status = os.stat(location.root / METADATA)
        return status.st_dev, status.st_ino
    return None


def _bound(catalog: Catalog) -> int:
    """Bound the memory of this process; returns what the engine may use of it."""
    import resource

    rows = catalog.rows("SELECT current_setting('memory_limit'), current_setting('threads')")
    engine, threads = in_bytes(rows[0][0]), int(rows[0][1])
    limit = process_bytes(engine, threads)
    for name, value in (("RLIMIT_DATA", limit), ("RLIMIT_CORE", 0)):
        kind = getattr(resource, name)
        # The soft limit alone: the next catalog may be opened under another SAEQL_MEMORY.
        with suppress(OSError, ValueError):
            resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))
    return engine


def _answer(request: bytes, opened: _Opened, answers: int) -> bool:
    """Answer one request; returns whether this process can take another."""
    location, sql, parameters, at, sent, whole = _unpickled(request)
    told = {}
    try:
        with _told(), answered(location):
            catalog = opened.get(location, at)
            _write(answers, "R", b"")
            import pyarrow as pa

            from queries.ask.guard import execute

            tables = {name: pa.ipc.open_stream(body).read_all() for name, body in sent.items()}
            reader = execute(sql, catalog, parameters, tables=tables)
            _write(answers, "B", _stream(reader.schema, []))
            left = opened.engine_bytes if whole else math.inf
            for batch in _grouped(reader):
                left -= batch.nbytes
                if left < 0:
                    raise QueryStopped(
                        f"the result is larger than the {opened.engine_bytes / 1e9:.1f} GB of SAEQL_MEMORY: ask for "
                        "less (LIMIT, fewer columns, sums), raise it, or write it with `saeql sql --parquet FILE`"
                    )
                for part in _parts(batch, value_bytes(opened.engine_bytes)):
                    _write(answers, "B", _stream(reader.schema, [part]))
    except SaeqlError as error:
        told = {"kind": type(error).__name__, "message": _short(str(error))}
    # What was refused did not run; after any other failure the engine may be in any state.
    free = told.get("kind") in (None, *_REFUSED) and _mapped() < opened.mapped + _KEPT_BYTES
    _write(answers, "E" if told else "D", json.dumps({"free": free, **told}).encode())
    return free


@contextmanager
def _told() -> Iterator[None]:
    """Whatever goes wrong, as an error of ours."""
    try:
        yield
    except SaeqlError:
        raise
    except (MemoryError, duckdb.OutOfMemoryException) as error:
        raise QueryStopped(f"the query needs more memory than SAEQL_MEMORY allows: {error}") from error
    except RecursionError as error:
        raise QueryRefused("the query is nested too deeply: split it into CTEs") from error
    except Exception as error:
        raise InputError(f"the query failed: {type(error).__name__}: {str(error)[:200]}") from error


def _short(message: str) -> str:
    """A message may quote a value, of any length; half of a surrogate pair, in a given name, is spelled out."""
    message = message.encode(errors="backslashreplace").decode()
    return message if len(message) <= _MESSAGE else f"{message[:_MESSAGE]}..."


def _grouped(reader: "pa.RecordBatchReader") -> "Iterator[pa.RecordBatch]":
    """Batches of up to 16,384 rows, fewer of large ones: the engine's own are small, as a row may hold a document."""
    import pyarrow as pa

    group: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in reader:
        group.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows >= _GROUP_ROWS or size >= _FRAME_BYTES:
            yield pa.concat_batches(group) if len(group) > 1 else batch
            group, rows, size = [], 0, 0
    if group:
        yield pa.concat_batches(group)


def _parts(batch: "pa.RecordBatch", row_bytes: int) -> "Iterator[pa.RecordBatch]":
    """The rows of a batch in parts of a few MB, so that the receiver's memory is bounded too."""
    size, rows = batch.nbytes, batch.num_rows
    if size <= _FRAME_BYTES or rows == 0:
        yield batch
    elif rows == 1:
        if size > row_bytes:
            raise QueryStopped(
                f"a row of the result has {size / 1e6:,.0f} MB, and SAEQL_MEMORY allows {row_bytes / 1e6:,.0f} MB: "
                "take a part of it, or raise SAEQL_MEMORY"
            )
        yield batch
    else:
        yield from _parts(batch.slice(0, rows // 2), row_bytes)
        yield from _parts(batch.slice(rows // 2), row_bytes)


def _stream(schema: "pa.Schema", batches: "list[pa.RecordBatch]") -> memoryview:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return memoryview(sink.getvalue())


def _write(answers: int, kind: str, body: bytes | memoryview) -> None:
    for part in (kind.encode() + len(body).to_bytes(8, "big"), body):
        view = memoryview(part)
        while view:
            view = view[os.write(answers, view) :]


def _mapped() -> int:
    """Bytes of writable memory that this process has mapped, which is what its limit counts; 0 if nobody tells."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
