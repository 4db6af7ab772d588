"""Sparse activations as Parquet: every (feature, position, activation) above zero, sorted by feature.

Layout, measured at 3.3 bytes per activation: ids delta-packed, activations rounded to half precision,
byte-split, zstd. A file appears whole or not at all, under a name that is never used again.
"""

import hashlib
import os
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from catalog.errors import InputError

HALF_MAX = 65504.0
ROW_GROUP = 262_144
SCHEMA = pa.schema(
    [
        pa.field("sae", pa.string(), nullable=False),
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("feature", pa.int32(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("activation", pa.float32(), nullable=False),
    ]
)


@dataclass(frozen=True)
class WrittenFile:
    """A Parquet file that stands on disk under its final name."""

    path: Path
    rows: int
    size: int
    """Bytes on disk."""
    blake2b: str
    """BLAKE2b-128 of the file's bytes, 32 hexadecimal digits."""


def stable_order(features: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """The permutation that sorts by feature and keeps equal features in order.

    numpy sorts 16-bit keys by radix, 10 times faster than 32-bit keys: wide dictionaries take two passes.
    """
    order = np.argsort(features.astype(np.uint16), kind="stable")
    if len(features) and int(features.max()) >= 1 << 16:
        order = order[np.argsort((features[order] >> 16).astype(np.uint16), kind="stable")]
    return order


def write_activations(
    folder: Path,
    sae: str,
    corpus: str,
    shard: int,
    features: npt.NDArray[np.int32],
    positions: npt.NDArray[np.int64],
    activations: npt.NDArray[np.float32],
) -> WrittenFile:
    """Write one shard of activations, `[rows]` each, positions ascending per feature.

    Activations that round to zero in half precision are zero. Raises InputError with the place of a value
    that half precision cannot hold, and OSError if the disk is full: nothing is left behind then.
    """
    bad = ~(activations <= HALF_MAX)
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"activation {activations[at]} of feature {features[at]} at position {positions[at]} of corpus "
            f"{corpus!r} is beyond half precision (at most {HALF_MAX:.0f}): scale the SAE down"
        )
    halves = activations.astype(np.float16)
    kept = np.flatnonzero(halves > 0)
    kept = kept[stable_order(features[kept])]
    values = halves[kept].astype(np.float32)
    n = len(kept)

    def constant(value: str | int, dtype: pa.DataType) -> pa.Array:
        """One value n times, as a dictionary of one entry: no bytes per row in memory or on disk."""
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int8)), pa.array([value], dtype))

    columns = {
        "sae": constant(sae, pa.string()),
        "corpus": constant(corpus, pa.string()),
        "shard": constant(shard, pa.int32()),
        "feature": pa.array(features[kept].astype(np.int32)),
        "position": pa.array(positions[kept].astype(np.int64)),
        "activation": pa.array(values),
    }
    return write_parquet(
        pa.table(columns),
        folder,
        f"{sae}-{corpus}-{shard}",
        column_encoding={
            "feature": "DELTA_BINARY_PACKED",
            "position": "DELTA_BINARY_PACKED",
            "activation": "BYTE_STREAM_SPLIT",
        },
    )


def write_parquet(
    table: pa.Table, folder: Path, stem: str, column_encoding: dict[str, str] | None = None
) -> WrittenFile:
    """Write `table` into `folder` by atomic rename, named after its content and a fresh UUID."""
    folder.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex
    partial = folder / f".{token}.partial"
    encoded = column_encoding or {}
    try:
        with partial.open("wb") as out:
            pq.write_table(
                table,
                out,
                row_group_size=ROW_GROUP,
                compression="zstd",
                compression_level=1,
                use_dictionary=[name for name in table.column_names if name not in encoded],
                column_encoding=encoded or None,
                data_page_size=1 << 18,
                version="2.6",
                store_schema=False,
            )
            out.flush()
            os.fsync(out.fileno())
        digest = file_digest(partial)
        path = folder / f"{''.join(c if c.isalnum() else '_' for c in stem)}-{digest[:12]}-{token[:12]}.parquet"
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    return WrittenFile(path, table.num_rows, path.stat().st_size, digest)


def file_digest(path: Path) -> str:
    """BLAKE2b-128 of a file's bytes, 32 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
