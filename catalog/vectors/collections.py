"""Reads and writes vectors in Lance, versioned together with the tables.

Lance is written first, as a new tagged version; the DuckLake commit that follows names it. So the snapshot
decides which version is read, and a crash in between leaves a version that nobody names, for `collect`.
Lance's own `optimize()` is never called: it drops versions after seven days, tagged or not.

lance takes 0.7 s to import, so it is imported when a vector is touched. A collection is the directory
`vectors/<name>.lance`, which lancedb opens too.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from catalog.errors import CatalogError, InputError, StepError, UnknownName
from catalog.store.locks import locked
from catalog.vectors.changed_rows import VECTOR, checked, difference
from catalog.vectors.lance_files import (
    drop_versions,
    full_disk,
    lance_error,
    numbered_above,
    open_dataset,
    opened,
    tag_version,
)

if TYPE_CHECKING:
    import lance
    import numpy as np
    import numpy.typing as npt

LOCK_WAIT_SECONDS = 60.0
_MAX_FRAGMENTS = 32
_SMALL_FRAGMENT = 8192
"""Rows: what grows by appending is written anew when it has many fragments that hold fewer, so at a like cost each."""
_LAST_VERSION = 2**64 - 1
"""Lance names a version's manifest after what is left up to here, so that the newest comes first."""
_DATA_FILE = re.compile(rb"[0-9A-Za-z-]+\.lance")
_UPSERT_SHARE = 0.5
"""Above this share of touched rows a collection is written anew: as many bytes, and no holes."""


@dataclass(frozen=True)
class Version:
    """A tagged version of a collection, to be named by the next commit."""

    collection: str
    version: int
    rows: int
    added: int = 0
    changed: int = 0
    removed: int = 0


class Vectors:
    """The collections under one `vectors/` folder."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def collections(self) -> list[str]:
        """Names of the collections on disk, sorted; one whose first write was cut off is none yet."""
        return sorted(path.parent.stem for path in self.folder.glob("*.lance/_versions"))

    def lost(self, collection: str, version: int) -> str:
        """Why a version that a snapshot names cannot be read, or is not protected; empty if it is whole.

        Files are looked for, not opened, and lance is not imported: `doctor` looks further.
        """
        path = self.path_of(collection)
        manifests = [path / "_versions" / f"{number}.manifest" for number in (_LAST_VERSION - version, version)]
        found = [manifest for manifest in manifests if manifest.is_file()]
        if not found:
            return f"vectors/{path.name} lacks version {version}"
        if not (path / "_refs" / "tags" / f"v{version}.json").is_file():
            return f"version {version} of vectors/{path.name} has lost its tag"
        there = {file.name.encode() for file in path.glob("data/*.lance")}
        # In front of a name its length stands, a byte that may be a letter or digit itself.
        named = _DATA_FILE.findall(found[0].read_bytes())
        gone = [name.decode() for name in named if not {name, name[1:]} & there]
        return f"vectors/{path.name} has lost files of version {version}" if gone else ""

    def write(self, collection: str, rows: pa.Table, key: Sequence[str], above: int = 0) -> Version:
        """Make the collection hold exactly `rows`, as a new tagged version; only changed rows are written.

        What is there and cannot be read is made anew: with a number above `above`, the last one that snapshots name,
        so that none of them takes the new rows for its own. A collection that does not open at all is put aside
        as `NAME.damaged`.

        `rows` has the `key` columns, `vector` as FixedSizeList<float32>[d], and what else is to be kept beside
        it. If nothing changed, the newest version is returned. Raises StepError if a key is NULL or stands
        twice, or if a vector is missing or not finite.
        """
        import lance

        rows = checked(collection, rows, key)
        path = self.path_of(collection)
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / "lance.lock", wait=LOCK_WAIT_SECONDS), full_disk(path):
            dataset, there = opened(path)
            if dataset is None or there is None or dataset.version < above:
                mode = "create" if dataset is None else "overwrite"
                return _tagged(
                    collection, numbered_above(lance.write_dataset(rows, str(path), mode=mode), above), len(rows)
                )
            if there.schema.remove_metadata() != rows.schema.remove_metadata():
                dataset = lance.write_dataset(rows, str(path), mode="overwrite")
                return _tagged(collection, dataset, added=len(rows), removed=len(there))
            touched, gone, changed = difference(rows, there, key)
            counts = {"added": len(touched) - changed, "changed": changed, "removed": len(gone)}
            work = len(touched) + len(gone)
            if work > _UPSERT_SHARE * len(there) or (work and len(dataset.get_fragments()) >= _MAX_FRAGMENTS):
                dataset = lance.write_dataset(rows, str(path), mode="overwrite")
                return _tagged(collection, dataset, **counts)
            if len(gone):
                dataset.merge_insert(list(key)).when_matched_delete().execute(gone)
            between = dataset.version if len(gone) and len(touched) else None
            if len(touched):
                upsert = dataset.merge_insert(list(key)).when_matched_update_all().when_not_matched_insert_all()
                upsert.execute(touched)
            made = _tagged(collection, dataset, **counts)
            if between is not None:
                drop_versions(dataset, [between])
            return made

    def append(self, collection: str, rows: pa.Table, key: Sequence[str], version: int | None) -> Version:
        """Make the collection hold what `version` holds (None: nothing) and `rows`, as a new tagged version.

        What is there is not read, so that the cost is that of `rows`: the caller answers for it that `version` has
        none of their keys. What was written after `version`, and named by nobody, is left out. Without rows `version`
        is returned. Raises StepError for rows as `write` does, and if they have other columns than `version`.
        """
        import lance

        rows = checked(collection, rows, key)
        path = self.path_of(collection)
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / "lance.lock", wait=LOCK_WAIT_SECONDS), full_disk(path):
            if version is None:
                mode = "overwrite" if (path / "_versions").exists() else "create"
                return _tagged(collection, lance.write_dataset(rows, str(path), mode=mode), added=len(rows))
            dataset = self.open(collection, version)
            if dataset.schema.remove_metadata() != rows.schema.remove_metadata():
                raise StepError(f"rows for the collection {collection} have other columns than its version {version}")
            if not len(rows):
                return Version(collection, version, dataset.count_rows())
            fragments = len(dataset.get_fragments())
            if fragments >= _MAX_FRAGMENTS and dataset.count_rows() < fragments * _SMALL_FRAGMENT:
                batches = chain(dataset.to_batches(), rows.to_batches())
                dataset = lance.write_dataset(batches, str(path), rows.schema, mode="overwrite")
                return _tagged(collection, dataset, added=len(rows))
            restored = None
            if version != dataset.latest_version:
                dataset.restore()  # type: ignore[no-untyped-call]
                restored = dataset.version
            made = _tagged(collection, lance.write_dataset(rows, str(path), mode="append"), added=len(rows))
            if restored is not None:
                drop_versions(self.open(collection, made.version), [restored])
            return made

    def read(
        self,
        collection: str,
        version: int,
        columns: Sequence[str] | None = None,
        places: "npt.NDArray[np.int64] | None" = None,
    ) -> pa.Table:
        """All rows of a version, or those at `places` in their order. Raises CatalogError if it cannot be read."""
        names = None if columns is None else list(columns)
        try:
            dataset = self.open(collection, version)
            return dataset.to_table(columns=names) if places is None else dataset.take(pa.array(places), columns=names)
        except (OSError, ValueError) as error:
            raise self._unreadable(collection, version, error) from error

    def search(
        self,
        collection: str,
        version: int,
        vector: "npt.NDArray[np.floating[Any]] | Sequence[float]",
        k: int,
        where: str | None = None,
        *,
        exact: bool = True,
    ) -> pa.Table:
        """The `k` rows most like `vector` `[d]`, best first, with a column `similarity` (cosine, -1 to 1).

        `where` is a trusted predicate, applied before the search. Every row is compared; `exact=False` uses an
        index if the collection has one. Raises InputError if the vector does not fit the collection.
        """
        import numpy as np

        query = np.asarray(vector, np.float32)
        dataset = self._named(collection, version)
        width = dataset.schema.field(VECTOR).type.list_size
        if query.shape != (width,) or not np.isfinite(query).all() or not query.any():
            raise InputError(
                f"a search in {collection} needs {width} finite numbers that are not all zero, "
                f"not an array of shape {list(query.shape)}"
            )
        if k < 1:
            raise InputError(f"k is {k}; a search returns at least 1 row")
        nearest = {"column": VECTOR, "q": query, "k": k, "metric": "cosine", "use_index": not exact}
        kept = [name for name in dataset.schema.names if name != VECTOR]
        try:
            found = dataset.to_table(columns=[*kept, "_distance"], nearest=nearest, filter=where, prefilter=True)
        except (OSError, ValueError) as error:
            raise self._unreadable(collection, version, error) from error
        similarity = np.float32(1) - found.column("_distance").to_numpy()
        found = found.drop_columns(["_distance"]).append_column("similarity", pa.array(similarity, pa.float32()))
        # Equal similarities would stand in the order of the files, which differs from version to version.
        ties = [f.name for f in found.schema if pa.types.is_integer(f.type) or pa.types.is_string(f.type)]
        return found.sort_by([("similarity", "descending"), *((name, "ascending") for name in ties)])

    def some(self, collection: str, version: int, where: str) -> list[list[float]]:
        """The vectors of the rows for which `where`, a trusted predicate, holds. Raises CatalogError as `read`."""
        try:
            found = self._named(collection, version).to_table(columns=[VECTOR], filter=where)
        except (OSError, ValueError) as error:
            raise self._unreadable(collection, version, error) from error
        return list(found[VECTOR].to_pylist())

    def _named(self, collection: str, version: int) -> "lance.LanceDataset":
        """A version that a snapshot names. Raises CatalogError if it is not there."""
        if not self.path_of(collection).exists():
            raise CatalogError(f"{self.path_of(collection)} is gone: `saeql refresh` makes it anew")
        return self.open(collection, version)

    def open(self, collection: str, version: int) -> "lance.LanceDataset":
        """The pylance dataset at a version. Raises UnknownName or CatalogError if it is not there."""
        path = self.path_of(collection)
        if not path.exists():
            known = ", ".join(self.collections()) or "none"
            raise UnknownName(f"there is no collection {collection!r} under {self.folder}; known: {known}")
        try:
            return open_dataset(path, version)
        except (OSError, ValueError) as error:
            # Lance says where in its own source it was noticed, over several lines.
            said = lance_error(error)
            raise CatalogError(f"{path} has no version {version}: {said}; `saeql refresh` makes it anew") from error

    def tagged(self, collection: str) -> set[int]:
        """Versions of the collection that carry a tag."""

        return {int(details["version"]) for details in open_dataset(self.path_of(collection)).tags.list().values()}

    def tag(self, collection: str, version: int) -> None:
        """Protect a version from clean-ups."""
        tag_version(self.open(collection, version), version)

    def _unreadable(self, collection: str, version: int, error: Exception) -> CatalogError:
        path = self.path_of(collection)
        return CatalogError(
            f"{path} cannot be read at version {version}: {lance_error(error)}; `saeql refresh` makes it anew"
        )

    def path_of(self, collection: str) -> Path:
        """The folder of a collection. Raises CatalogError for what is no name of one."""
        if not re.fullmatch(r"[A-Za-z0-9_-]+", collection):
            raise CatalogError(f"{collection!r} is no name for a collection: use letters, digits, _ and -")
        return self.folder / f"{collection}.lance"


def _tagged(
    collection: str, dataset: "lance.LanceDataset", added: int = 0, changed: int = 0, removed: int = 0
) -> Version:
    tag_version(dataset, dataset.version)
    return Version(collection, int(dataset.version), dataset.count_rows(), added, changed, removed)
