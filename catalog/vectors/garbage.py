"""Finds versions of collections that no snapshot names, and drops them with their files."""

import shutil
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from catalog.errors import CatalogError
from catalog.store.locks import locked
from catalog.vectors.collections import LOCK_WAIT_SECONDS, Vectors
from catalog.vectors.lance_files import drop_versions, made_at, open_dataset, tag_version


def unreferenced(
    vectors: Vectors, referenced: Mapping[str, set[int]], *, age: timedelta = timedelta(hours=1)
) -> dict[str, list[int]]:
    """Versions older than `age` that no snapshot names, by collection.

    Lance never drops the newest version; it counts only if it holds files that no named one has.
    """

    found = {}
    before = datetime.now(UTC) - age
    for collection in vectors.collections():
        try:
            dataset = open_dataset(vectors.path_of(collection))
        except (OSError, ValueError):
            continue  # what cannot be opened is damaged, not garbage
        entries = dataset.versions()
        kept = referenced.get(collection, set()) & {int(entry["version"]) for entry in entries}
        stale = []
        for entry in entries:
            version = int(entry["version"])
            if version in kept or made_at(entry) > before:
                continue
            if version != dataset.version or not _files(vectors, collection, [version]) <= _files(
                vectors, collection, kept
            ):
                stale.append(version)
        if stale:
            found[collection] = stale
    return found


def collect(
    vectors: Vectors, referenced: Mapping[str, set[int]], *, age: timedelta = timedelta(hours=1)
) -> dict[str, list[int]]:
    """Drop what `unreferenced` finds, and its files; returns it. A version in `referenced` is never touched.

    Hold `refresh.lock`: a version that is written but not yet committed is named by nobody. Raises
    CatalogError, and drops nothing of that collection, if a referenced version is not there.
    """

    with locked(vectors.folder / "lance.lock", wait=LOCK_WAIT_SECONDS):
        found = unreferenced(vectors, referenced, age=age)
        for collection, stale in found.items():
            kept = referenced.get(collection, set())
            dataset = open_dataset(vectors.path_of(collection))
            there = {int(entry["version"]) for entry in dataset.versions()}
            if not kept:
                if there == set(stale):
                    shutil.rmtree(vectors.path_of(collection))
                continue
            if not kept <= there:
                missing = ", ".join(map(str, sorted(kept - there)))
                raise CatalogError(f"{vectors.path_of(collection)} lacks version {missing}: nothing of it was dropped")
            for version in kept:
                tag_version(dataset, version)
            for tag, details in dataset.tags.list().items():
                if details["version"] in stale:
                    dataset.tags.delete(tag)
            if dataset.version in stale:
                # The newest cannot be dropped: put a copy of a named one, which shares its files, on top.
                vectors.open(collection, max(kept)).restore()  # type: ignore[no-untyped-call]
                dataset = open_dataset(vectors.path_of(collection))
            drop_versions(dataset, stale)
        return found


def only_in(vectors: Vectors, collection: str, versions: Iterable[int], kept: Iterable[int]) -> list[Path]:
    """The data files that would go with `versions`, as long as `kept` stay."""
    names = _files(vectors, collection, versions) - _files(vectors, collection, kept)
    paths = [vectors.path_of(collection) / "data" / name for name in sorted(names)]
    return [path for path in paths if path.exists()]


def _files(vectors: Vectors, collection: str, versions: Iterable[int]) -> set[str]:
    fragments = (f for version in versions for f in vectors.open(collection, version).get_fragments())
    return {file.path for fragment in fragments for file in fragment.data_files()}
