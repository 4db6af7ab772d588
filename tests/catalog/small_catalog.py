"""The parts of a catalog with two shards of one corpus, one SAE and one collection, for the tests of this folder."""

import uuid
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from catalog import Catalog
from catalog.store.transaction import Transaction

TOKENS = 40
"""Of each of two shards."""


def digest(path: Path) -> str:
    return blake2b(path.read_bytes(), digest_size=16).hexdigest()


def shard(
    catalog: Catalog, tx: Transaction, relation: str, rows: pa.Table, number: int, sae: str | None = None
) -> Path:
    """Write and register one shard, as ingest does."""
    folder = catalog.data / "main" / relation
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"c-{number}-{uuid.uuid4().hex}.parquet"
    schema = pa.schema([f.with_nullable(False) if f.name != "shingle" else f for f in rows.schema])
    pq.write_table(rows.cast(schema), path)
    tx.register(relation, path)
    record = {
        "path": str(path.relative_to(catalog.data)),
        "relation": relation,
        "corpus": "c",
        "sae": sae,
        "shard": number,
        "rows": len(rows),
        "bytes": path.stat().st_size,
        "blake2b": digest(path),
        "inputs": "i",
    }
    tx.insert("shards", [record])
    return path


def documents(number: int) -> pa.Table:
    start = number * TOKENS
    fields = {"corpus": "c", "document": number, "hash": f"h{number}", "shard": number, "split": "train"}
    row = {**fields, "start": start, "tokens": TOKENS, "source": "s", "text": "a" * TOKENS}
    kinds = {"document": pa.int32(), "shard": pa.int32(), "start": pa.int64(), "tokens": pa.int32()}
    return pa.table({name: pa.array([value], kinds.get(name, pa.string())) for name, value in row.items()})


def tokens(number: int) -> pa.Table:
    at = np.arange(number * TOKENS, (number + 1) * TOKENS)
    offset = (at % TOKENS).astype(np.int32)
    return pa.table(
        {
            "corpus": ["c"] * TOKENS,
            "shard": pa.array([number] * TOKENS, pa.int32()),
            "position": at,
            "document": pa.array([number] * TOKENS, pa.int32()),
            "sequence": np.full(TOKENS, at[0]),
            "length": pa.array([TOKENS] * TOKENS, pa.int16()),
            "token": offset,
            "char_start": offset,
            "char_end": offset + 1,
            "shingle": at,
        }
    )


def activations(number: int, *, shift: int = 0) -> pa.Table:
    at = np.arange(number * TOKENS, (number + 1) * TOKENS) + shift
    return pa.table(
        {
            "sae": ["s"] * TOKENS,
            "corpus": ["c"] * TOKENS,
            "shard": pa.array([number] * TOKENS, pa.int32()),
            "feature": pa.array(at % 4, pa.int32()),
            "position": at,
            "activation": pa.array(np.full(TOKENS, 0.5), pa.float32()),
        }
    )


def decoder(width: int = 4, *, salt: int = 0) -> pa.Table:
    values = np.random.default_rng(salt).normal(size=width * 8).astype(np.float32)
    return pa.table(
        {
            "sae": ["s"] * width,
            "feature": pa.array(range(width), pa.int32()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(values), 8),
        }
    )
