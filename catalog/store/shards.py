"""Writes Parquet files of the catalog whole, digests them, and registers each once."""

import hashlib
import os
import uuid
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from catalog.store.transaction import Transaction

ROW_GROUP = 262_144


@dataclass(frozen=True)
class WrittenFile:
    """A Parquet file that stands on disk under its final name."""

    path: Path
    rows: int
    size: int
    """Bytes on disk."""
    blake2b: str
    """BLAKE2b-128 of the file's bytes, 32 hexadecimal digits."""


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


def register_shard(
    tx: Transaction, relation: str, file: WrittenFile, corpus: str, sae: str | None, shard: int, inputs: str
) -> None:
    """Make a written file part of a table, with its record in `shards`."""
    tx.register(relation, file.path)
    tx.insert(
        "shards",
        [
            {
                "path": str(file.path.relative_to(tx.data)),
                "relation": relation,
                "corpus": corpus,
                "sae": sae,
                "shard": shard,
                "rows": file.rows,
                "bytes": file.size,
                "blake2b": file.blake2b,
                "inputs": inputs,
            }
        ],
    )
