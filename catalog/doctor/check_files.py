"""Checks files: the catalog's tables name every file, and every named file is there, whole and unaltered."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from catalog.doctor.finding import Examination, Finding
from catalog.quote import TABLES
from catalog.store.catalog import Catalog
from catalog.store.shards import file_digest
from catalog.trust.paths import inside


def lost_files(examination: Examination) -> Iterator[Finding]:
    """Every Parquet file that any snapshot names exists with the size that it had when it was committed."""
    catalog = examination.catalog
    for table, path, size, _ in _named_files(catalog):
        if not path.exists():
            yield Finding("files", "error", str(path), f"is gone, and rows of {table} with it")
        elif path.stat().st_size != size:
            yield Finding("files", "error", str(path), f"has {path.stat().st_size} bytes; {table} knows it with {size}")
        if not path.is_relative_to(catalog.root):
            yield Finding("files", "warning", str(path), "lies outside of the catalog, which cannot be moved with it")
    live = Counter(path for _, path, _, ended in _named_files(catalog, deletes=False) if ended is None)
    for path, times in live.items():
        if times > 1:
            yield Finding("files", "error", str(path), f"is registered {times} times: its rows stand {times} times")


def shard_files(examination: Examination) -> Iterator[Finding]:
    """The files of `shards` have the rows, size and digest that were recorded, and belong to their table."""
    catalog = examination.catalog
    rows = catalog.rows("SELECT path, relation, rows, bytes, blake2b FROM shards ORDER BY path")
    read = range(len(rows)) if examination.sample is None else _some(len(rows), examination.sample)
    live = {(path, table) for table, path, _, ended in _named_files(catalog, deletes=False) if ended is None}
    for i, (name, relation, count, size, digest) in enumerate(rows):
        path = inside(catalog.data, name)
        if (path, relation) not in live:
            yield Finding("shards", "error", str(path), f"is recorded for {relation}, and is not registered there")
        detail = _altered(path, count, size, digest if i in read else None)
        if detail:
            yield Finding("shards", "error", str(path), detail)


def _altered(path: Path, rows: int, size: int, digest: str | None) -> str | None:
    """What differs from the record, None for nothing; a file is read whole only if `digest` is given."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = path.stat().st_size
        if found != size:
            return f"has {found} bytes, not {size}: it was cut off or altered"
        if digest is not None and (now := file_digest(path)) != digest:
            return f"has the BLAKE2b {now}, not {digest}: it was altered"
        count = pq.read_metadata(path).num_rows
    except FileNotFoundError:
        return "is gone"
    except (OSError, pa.ArrowInvalid) as error:
        return f"cannot be read as Parquet: {error}"
    return None if count == rows else f"has {count} rows, not {rows}"


def orphans(examination: Examination) -> Iterator[Finding]:
    """Files under data/ that no snapshot names, such as what a killed process left behind."""
    catalog = examination.catalog
    # The disk first: a file that is committed while we look is then in the metadata, not an orphan.
    there = [path for path in catalog.data.rglob("*") if path.is_file()]
    named = {path for _, path, _, _ in _named_files(catalog)}
    scheduled = catalog.rows(f"SELECT path, path_is_relative FROM {TABLES}.ducklake_files_scheduled_for_deletion")
    named |= {_resolved(catalog.data, path, relative) for path, relative in scheduled}
    before = time.time() - examination.age.total_seconds()
    for path in sorted(set(there) - named):
        try:
            status = path.stat()
            if status.st_mtime > before:
                continue
            if examination.fix:
                path.unlink()
        except FileNotFoundError:
            continue
        detail = f"{status.st_size} bytes that no snapshot names"
        yield Finding("orphans", "warning", str(path), detail, fixed=examination.fix)


def weight_files(examination: Examination) -> Iterator[Finding]:
    """The weights of every SAE are there, and are those that its activations were computed with."""
    catalog = examination.catalog
    for sae, folder, digest in catalog.rows("SELECT sae, weights, digest FROM saes ORDER BY sae"):
        found = sorted(catalog.weights_of(folder).glob("*.safetensors"))
        if not found:
            yield Finding("weights", "error", sae, f"{catalog.weights / folder} holds no safetensors file")
        elif digest not in {file_digest(path) for path in found}:
            detail = f"{found[0]} is not the file that was recorded: BLAKE2b {file_digest(found[0])}, not {digest}"
            yield Finding("weights", "error", sae, detail)


def _named_files(catalog: Catalog, *, deletes: bool = True) -> Iterator[tuple[str, Path, int, int | None]]:
    """(table, path, size, snapshot that ended it) of each file that any snapshot names."""
    tables = catalog.rows(
        "SELECT table_id, table_name, t.path, t.path_is_relative, s.path, s.path_is_relative "
        f"FROM {TABLES}.ducklake_table AS t JOIN {TABLES}.ducklake_schema AS s USING (schema_id)"
    )
    folders: dict[Any, tuple[str, Path]] = {}
    for table, name, path, relative, schema, schema_relative in tables:
        folders[table] = name, _resolved(_resolved(catalog.data, schema, schema_relative), path, relative)
    for kind in ("data", "delete") if deletes else ("data",):
        columns = "table_id, path, path_is_relative, file_size_bytes, end_snapshot"
        files = catalog.rows(f"SELECT {columns} FROM {TABLES}.ducklake_{kind}_file")
        for table, path, relative, size, ended in files:
            name, folder = folders[table]
            yield name, _resolved(folder, path, relative), int(size), ended


def _resolved(folder: Path, path: str, relative: Any) -> Path:
    return folder / path if relative else Path(path)


def _some(n: int, k: int) -> set[int]:
    """Other files each time, so that repeated examinations reach all of them."""
    return set(random.sample(range(n), min(n, k)))
