"""Opens, tags, numbers and drops a Lance collection as files."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from catalog.errors import CatalogError, InputError

if TYPE_CHECKING:
    import lance

_MOST_VERSIONS = 10_000
"""So many versions are gone over at most to reach one that was lost; each costs milliseconds."""


def open_dataset(path: Path, version: int | None = None) -> "lance.LanceDataset":
    """The collection in a folder. Raises CatalogError if its files are to be looked for anywhere else."""
    import lance

    dataset = lance.dataset(str(path), version=version)
    for fragment in dataset.get_fragments():
        for file in fragment.data_files():
            # A manifest may name other folders; the catalog may be somebody else's.
            if file.base_id is not None or Path(file.path).name != file.path:
                raise CatalogError(f"{path} takes vectors from {file.path!r}, which is not a file of its own")
    return dataset


def lance_error(error: Exception) -> str:
    """Lance's error without the place in its own source."""
    return str(error).strip().partition("\n")[0].partition(", /")[0]


def made_at(entry: Mapping[str, Any]) -> datetime:
    """When a version was written; Lance gives local time without a zone."""
    made: datetime = entry["timestamp"]
    return made.astimezone(UTC)


def opened(path: Path) -> "tuple[lance.LanceDataset | None, pa.Table | None]":
    """(The newest version, its rows) of a collection, None for what is not there or cannot be read."""
    if not (path / "_versions").exists():
        return None, None
    try:
        dataset = open_dataset(path)
    except (OSError, ValueError):
        aside = path.with_suffix(".damaged")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        return None, None
    try:
        return dataset, dataset.to_table()
    except (OSError, ValueError):
        return dataset, None


def numbered_above(dataset: "lance.LanceDataset", above: int) -> "lance.LanceDataset":
    """The same rows as a version whose number is above `above`. Raises CatalogError for a number that none has."""
    if above - dataset.version > _MOST_VERSIONS:
        raise CatalogError(f"the catalog names version {above} of {dataset.uri}, which no such catalog comes to")
    between = []
    while dataset.version <= above:
        between.append(dataset.version)
        dataset.restore()  # type: ignore[no-untyped-call]
    if between:
        drop_versions(dataset, between)
    return dataset


def tag_version(dataset: "lance.LanceDataset", version: int) -> None:
    if f"v{version}" not in dataset.tags.list():
        dataset.tags.create(f"v{version}", version)


def drop_versions(dataset: "lance.LanceDataset", versions: list[int]) -> None:
    """Versions that are neither tagged nor the newest, with the files that only they use."""
    dataset.cleanup_old_versions(versions=versions, error_if_tagged_old_versions=False, delete_unverified=True)


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if "No space left" in str(error):
            raise InputError(f"the disk that holds {path} is full: make room, run again") from error
        raise
