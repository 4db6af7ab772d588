"""A catalog with a little of everything in it, copied for each test: making one takes seconds."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from catalog import Catalog
from catalog.vectors.collections import Vectors
from catalog.vectors.references import name_version
from tests.catalog.small_catalog import activations, decoder, digest, documents, shard, tokens
from tests.postgres import Postgres, copied


@pytest.fixture(scope="session")
def _full(tmp_path_factory: pytest.TempPathFactory, metadata: Postgres | None) -> Path:
    root = tmp_path_factory.mktemp("template") / "catalog"
    with Catalog.create(metadata.location(root) if metadata else root) as catalog:
        weights = catalog.weights / "s" / "sae.safetensors"
        weights.parent.mkdir()
        weights.write_bytes(b"weights")
        sae = {"sae": "s", "model": "m", "hookpoint": "h", "architecture": "topk", "width": 4, "d": 8}
        with catalog.write("sae") as tx:
            tx.insert("saes", [{**sae, "weights": "s", "digest": digest(weights), "config": "{}"}])
        for number in range(2):
            with catalog.write(f"shard {number}") as tx:
                shard(catalog, tx, "documents", documents(number), number)
                shard(catalog, tx, "tokens", tokens(number), number)
            with catalog.write(f"harvest {number}") as tx:
                shard(catalog, tx, "activations", activations(number), number, "s")
        made = Vectors(catalog.vectors).write("decoder", decoder(), ["sae", "feature"])
        with catalog.write("decoder") as tx:
            name_version(tx, made)
    return root


@pytest.fixture
def root(_full: Path, tmp_path: Path, metadata: Postgres | None) -> Path:
    """Directory of a whole catalog, moved to this place by copying; the folder alone names it."""
    return copied(_full, tmp_path / "catalog", metadata)


@pytest.fixture
def store(root: Path) -> Iterator[Catalog]:
    with Catalog(root) as catalog:
        yield catalog


@pytest.fixture
def file_of(store: Catalog) -> Callable[[str], Path]:
    """The first shard file of a table."""

    def find(relation: str) -> Path:
        return store.data / store.value("SELECT path FROM shards WHERE relation = ? ORDER BY shard", [relation])

    return find
