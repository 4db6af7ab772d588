"""Writes sparse activations as Parquet: every (feature, position, activation) above zero, sorted by feature.

Layout, measured at 3.3 bytes per activation: ids delta-packed, activations rounded to the 11 bits of half precision
(values beyond its range likewise, so that the file takes those of any SAE), byte-split, zstd. A file appears whole or
not at all, under a name that is never used again.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catalog.errors import InputError
from catalog.store.shards import WrittenFile, write_parquet

HALF_MAX = 65504.0
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

    Activations that round to zero in half precision are zero. Raises InputError with the place of a value that is not
    finite, and OSError if the disk is full: nothing is left behind then.
    """
    bad = ~np.isfinite(activations)
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"activation {activations[at]} of feature {features[at]} at position {positions[at]} of corpus {corpus!r} "
            "is not finite: the SAE's weights do not go with these rows"
        )
    values = _eleven_bits(activations)
    kept = np.flatnonzero(values > 0)
    kept = kept[stable_order(features[kept])]
    values = values[kept]
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


def _eleven_bits(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Finite values rounded to half precision, those beyond its range to as many bits."""
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16).astype(np.float32)
    far = np.flatnonzero(np.abs(values) > HALF_MAX)
    mantissas, exponents = np.frexp(values[far])
    halves[far] = np.ldexp(mantissas.astype(np.float16).astype(np.float32), exponents)
    return halves
