"""Forgets old snapshots, and frees what only they needed: Parquet files, Lance versions, weights.

The newest snapshot and those with a tag stay, whatever their age; a snapshot from the future (the clock was set
back) counts as new. Nothing that a remaining snapshot names is touched. Cut off anywhere, the next run goes on.
"""

import os
import shutil
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path

from catalog.errors import CatalogError, InputError
from catalog.quote import TABLES
from catalog.store.catalog import Catalog
from catalog.store.commits import COMMIT_WAIT_SECONDS, WRITING
from catalog.store.locks import locked
from catalog.store.snapshots import spans, states, tags
from catalog.trust.paths import inside
from catalog.vectors.collections import Vectors
from catalog.vectors.garbage import collect, only_in, unreferenced
from catalog.vectors.references import referenced_versions


@dataclass(frozen=True)
class Freed:
    """What a clean-up removed, or would remove."""

    snapshots: list[int]
    """Expired snapshots."""
    kept: dict[str, int]
    """Tags that kept a snapshot which is old enough to go."""
    files: int = 0
    """Parquet files."""
    bytes: int = 0
    versions: dict[str, list[int]] = field(default_factory=dict)
    """Lance versions by collection."""
    vector_files: int = 0
    vector_bytes: int = 0
    weights: list[str] = field(default_factory=list)
    """Folders under weights/."""
    weight_files: int = 0
    weight_bytes: int = 0


def collect_garbage(
    catalog: Catalog,
    keep_days: float,
    *,
    dry_run: bool = False,
    wait: float = 0.0,
    now: datetime | None = None,
) -> Freed:
    """Expire the snapshots older than `keep_days`, and free their files in all stores.

    Raises InputError for an age that is no number of at least 0, CatalogLocked if a refresh runs, CatalogError, before
    anything is unlinked, if the list of files to free names one that is in use.
    """
    # Not `keep_days < 0`, which lets nan through.
    if not keep_days >= 0:
        raise InputError(f"--keep-days is {keep_days:g}: give the age from which snapshots may go, 0 or more")
    # What a refresh has written to Lance, and what a training has put under weights/, is named when it commits.
    with nullcontext() if dry_run else locked(catalog.root / "refresh.lock", wait=wait):
        every = _snapshots(catalog)
        old = _old(every, keep_days, now or datetime.now(UTC))
        named = tags(catalog)
        stale = sorted(old - set(named.values()))
        held = {name: number for name, number in named.items() if number in old}
        remaining = sorted(every.keys() - set(stale))
        if dry_run:
            return _foreseen(catalog, stale, held, remaining)
        before = _weights(catalog, every)
        if stale:
            _remember_changes(catalog, stale)
            with _nobody_writing(catalog):
                # Nobody can tag one from here on; somebody may have since the first look.
                stale = sorted(set(stale) - set(tags(catalog).values()))
                if stale:
                    catalog.rows("SELECT snapshot_id FROM ducklake_expire_snapshots('lake', versions => ?)", [stale])
        files, size = _unlink_files(catalog)
        vectors = Vectors(catalog.vectors)
        vector_files, vector_bytes = _measure(vectors.folder)
        versions = collect(vectors, referenced_versions(catalog.connection), age=timedelta(0))
        left_files, left_bytes = _measure(vectors.folder)
        gone = sorted(before - _weights(catalog, _snapshots(catalog)))
        weight_files, weight_bytes = _remove_folders(catalog.weights, gone)
        return Freed(
            stale,
            held,
            files,
            size,
            versions,
            max(0, vector_files - left_files),
            max(0, vector_bytes - left_bytes),
            gone,
            weight_files,
            weight_bytes,
        )


def _snapshots(catalog: Catalog) -> dict[int, datetime]:
    """Time of every snapshot, UTC."""
    rows = catalog.rows("SELECT snapshot_id, epoch_us(snapshot_time) FROM lake.snapshots()")
    begin = datetime(1970, 1, 1, tzinfo=UTC)
    return {number: begin + timedelta(microseconds=at) for number, at in rows}


def _old(every: dict[int, datetime], keep_days: float, now: datetime) -> set[int]:
    try:
        before = now - timedelta(days=keep_days)
    except OverflowError:
        return set()  # older than the calendar
    return {number for number, at in every.items() if at <= before and number != max(every)}


def _foreseen(catalog: Catalog, stale: list[int], held: dict[str, int], remaining: list[int]) -> Freed:
    """What would be freed."""
    scheduled = _scheduled(catalog)
    sizes = [path.stat().st_size for path in scheduled if path.exists()]
    sizes += [size for _, size in catalog.rows(_sql("files_to_free"), {"kept": remaining})]
    vectors = Vectors(catalog.vectors)
    referenced = referenced_versions(catalog.connection, remaining)
    versions = unreferenced(vectors, referenced, age=timedelta(0))
    lost = [path for name, gone in versions.items() for path in only_in(vectors, name, gone, referenced.get(name, ()))]
    gone = sorted(_weights(catalog, [*stale, *remaining]) - _weights(catalog, remaining))
    folders = [_measure(catalog.weights_of(name)) for name in gone]
    return Freed(
        stale,
        held,
        len(sizes),
        sum(sizes),
        versions,
        len(lost),
        sum(path.stat().st_size for path in lost),
        gone,
        sum(files for files, _ in folders),
        sum(size for _, size in folders),
    )


def _remember_changes(catalog: Catalog, stale: list[int]) -> None:
    """Keep which snapshot last changed each table: the steps compare it, and it is about to be forgotten."""
    there = set(_snapshots(catalog)) - set(stale)
    last = {table: number for table, number in catalog.last_changes().items() if table != "last_changes"}
    rows = [{"relation": table, "snapshot": n} for table, n in last.items() if n and n not in there]
    with catalog.write(f"gc: {len(stale)} expired", expired=spans(stale)) as tx:
        tx.replace("last_changes", rows, ["relation"])


def _unlink_files(catalog: Catalog) -> tuple[int, int]:
    """Unlink the files that no snapshot names any more: (how many, bytes)."""
    with _nobody_writing(catalog):
        scheduled = _scheduled(catalog)
        used = {path.rpartition("/")[2] for kind in ("data", "delete") for path in _paths(catalog, kind)}
        live = [path for path in scheduled if path.name in used]
        if live:
            raise CatalogError(
                f"{live[0]} is marked for deletion, and a snapshot names it: nothing was unlinked; run `saeql doctor`"
            )
        # The opening has looked at the names in the metadata; what the engine makes of them is looked at once more.
        for path in scheduled:
            inside(catalog.data, os.path.relpath(path, catalog.data))
        sizes = [path.stat().st_size for path in scheduled if path.exists()]
        if scheduled:
            catalog.rows("SELECT path FROM ducklake_cleanup_old_files('lake', cleanup_all => true)")
        return len(sizes), sum(sizes)


def _nobody_writing(catalog: Catalog) -> AbstractContextManager[None]:
    """While nobody is in a transaction: one that was begun long ago may read what is to go."""
    return locked(catalog.root / WRITING, wait=COMMIT_WAIT_SECONDS)


def _scheduled(catalog: Catalog) -> list[Path]:
    rows = catalog.rows("SELECT path FROM ducklake_cleanup_old_files('lake', dry_run => true, cleanup_all => true)")
    return [Path(path) for (path,) in rows]


def _paths(catalog: Catalog, kind: str) -> list[str]:
    return [path for (path,) in catalog.rows(f"SELECT path FROM {TABLES}.ducklake_{kind}_file")]


def _weights(catalog: Catalog, snapshots: Iterable[int]) -> set[str]:
    """Folders under weights/ that the SAEs of these snapshots have."""
    found: set[str] = set()
    for number in states(catalog.connection, "saes", snapshots):
        rows = catalog.rows(f"SELECT weights FROM lake.saes AT (VERSION => {number})")
        found |= {folder for (folder,) in rows}
    return found


def _remove_folders(home: Path, names: list[str]) -> tuple[int, int]:
    """Remove folders right under `home`: (files, bytes)."""
    files = size = 0
    for name in names:
        folder = home / name
        # A name is what a catalog says, and the catalog may be someone else's: `..` must not get anywhere.
        if folder in home.glob("*") and folder.is_dir() and not folder.is_symlink():
            count, weight = _measure(folder)
            shutil.rmtree(folder)
            files, size = files + count, size + weight
    return files, size


def _measure(folder: Path) -> tuple[int, int]:
    """(files, bytes) under a folder."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


def _sql(name: str) -> str:
    return (resources.files("catalog.versions") / "sql" / f"{name}.sql").read_text()
