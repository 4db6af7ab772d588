"""A dense selection that is killed while it embeds goes on from the last chunk that was committed."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from catalog import Catalog
from catalog.doctor.examine import examine
from catalog.vectors.collections import Vectors
from ingest.model.language_model import LanguageModel
from ingest.selection.dense import collection_of
from ingest.selection.select import select_documents
from tests.ingest.killed_ingest import kill_at
from tests.ingest.test_select_run import chosen, ingested, spec
from tests.ingest.tiny import loaded

__all__ = ["ingested"]

REPOSITORY = Path(__file__).parents[2]
CHUNK = 25


def vectors(catalog: Catalog) -> dict[str, list[float]]:
    """By hash, those of the version that the catalog names."""
    collection, version = catalog.rows("SELECT collection, version FROM lance")[0]
    assert collection == collection_of("all-MiniLM-L6-v2")
    table = Vectors(catalog.vectors).read(collection, version)
    return dict(zip(table["hash"].to_pylist(), table["vector"].to_pylist(), strict=True))


@pytest.mark.slow
def test_a_selection_killed_between_vectors_and_their_commit_goes_on_from_the_chunk_before(
    ingested: Path, llama: LanguageModel, llama_folder: Path, tmp_path: Path
) -> None:
    whole, killed = (Path(shutil.copytree(ingested, tmp_path / name)) for name in ("whole", "killed"))
    with Catalog(whole) as catalog:
        total = select_documents(catalog, llama, spec(method="dense")).embedded
        expected, there = chosen(catalog), vectors(catalog)
    assert total > 2 * CHUNK
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(killed), str(llama_folder)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL
    with Catalog(killed) as catalog:
        assert catalog.rows("FROM selected") == []
        report = select_documents(catalog, llama, spec(method="dense"))
        assert report.embedded == total - CHUNK
        assert [row[:3] for row in chosen(catalog)] == [row[:3] for row in expected]
        found = vectors(catalog)
        assert found.keys() == there.keys()
        np.testing.assert_allclose([found[key] for key in there], list(there.values()), atol=1e-5)
        assert [one for one in examine(catalog) if one.severity == "error"] == []


if __name__ == "__main__":
    from ingest.selection import dense

    root, model = sys.argv[1:]
    dense.CHUNK = CHUNK
    kill_at("catalog.vectors.collections:Vectors.append", 2, "after")
    with Catalog(root) as catalog:
        select_documents(catalog, loaded(Path(model)), spec(method="dense"))
