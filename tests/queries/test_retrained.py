"""An SAE that is trained again: a refresh ends in the tables of a catalog that never had the old weights."""

from pathlib import Path
from typing import Any

from catalog import Catalog
from catalog.study.file import Study
from ingest.pipeline import ingest_study
from queries.refresh.engine import refresh
from tests.empty import make_empty
from tests.ingest.tiny import save_model, texts, write_lines

STUDY = """
name = "tiny"

[model]
name = "tiny"
source = "model"
device = "cpu"

[[sae]]
name = "s"
corpora = ["docs"]
harvest = {corpora}
evaluate = {corpora}
width = 48
k = 4
batch = 64
steps = {steps}

[evaluation]
tokens = 200
"""
CORPUS = """
[[corpus]]
name = "{name}"
kind = "jsonl"
files = ["{name}.jsonl"]
ctx_len = 16
shard_tokens = 300
"""
CORPORA = ("docs", "more")


def built(folder: Path, name: str, steps: int, *corpora: str) -> dict[str, list[tuple[Any, ...]]]:
    """Build the catalog `name`, or bring it up to date; its tables of what fires, and how well the SAE does."""
    sections = "".join(CORPUS.format(name=corpus) for corpus in CORPORA)
    study = Study.parse(STUDY.format(steps=steps, corpora=list(corpora)) + sections, folder)
    root = folder / name
    with Catalog(root) if root.exists() else make_empty(root) as catalog:
        ingest_study(catalog, study)
        results = refresh(catalog, ("feature_stats", "firing_ranks", "contexts_top"))
        assert [result.error for result in results if result.error] == []
        tables = ("feature_stats", "firing_ranks", "feature_sums", "contexts", "sae_quality")
        return {table: catalog.rows(f"FROM {table} ORDER BY ALL") for table in tables}


def test_a_refresh_after_a_training_holds_nothing_of_the_old_weights(tmp_path: Path) -> None:
    save_model(tmp_path / "model", "neox", bos=False)
    for seed, name in enumerate(CORPORA):
        write_lines(tmp_path / f"{name}.jsonl", texts(30, seed))
    first = built(tmp_path, "kept", 20, *CORPORA)
    assert {row[1] for row in first["feature_sums"]} == set(CORPORA)
    assert built(tmp_path, "kept", 21, "docs") == built(tmp_path, "fresh", 21, "docs")
