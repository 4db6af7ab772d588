"""A selection that stays below its budget says so, until it no longer does."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from catalog import Catalog
from ingest.model.language_model import LanguageModel
from ingest.selection.select import select_documents
from ingest.text.corpus import ingest_corpus
from tests.ingest.test_select_run import ingested, parent, spec, train
from tests.ingest.tiny import corpus_of, write_lines

__all__ = ["ingested"]

FAR = 10**6


@pytest.fixture
def small(ingested: Path, tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(shutil.copytree(ingested, tmp_path / "catalog")) as catalog:
        yield catalog


def problems(catalog: Catalog) -> list[tuple[Any, ...]]:
    return catalog.rows("SELECT subject, reason, count FROM problems WHERE stage = 'selection' ORDER BY ALL")


@pytest.mark.parametrize("method", ["random", "dense"])
def test_a_budget_beyond_the_pool_is_a_problem(small: Catalog, llama: LanguageModel, method: str) -> None:
    before = small.snapshot()
    report = select_documents(small, llama, spec(method=method, tokens=FAR))
    pool = sum(tokens for *_, tokens in train(small))
    assert report.tokens == pool
    row = ("s", f"{pool} of {FAR} tokens: the pool ends there", 1)
    assert problems(small) == [row]
    assert small.snapshot() == before + 1
    # An equal run leaves it, another selection does not touch it, and it goes when the budget is reached.
    assert select_documents(small, llama, spec(method=method, tokens=FAR)).skipped
    select_documents(small, llama, spec(method=method, name="t", tokens=pool))
    assert problems(small) == [row]
    select_documents(small, llama, spec(method=method, tokens=pool))
    assert problems(small) == []


@pytest.mark.parametrize("method", ["bm25", "bm25+tracin"])
def test_words_of_the_seed_that_run_out_are_a_problem(
    small: Catalog, llama: LanguageModel, tmp_path: Path, method: str
) -> None:
    key = small.value("SELECT hash FROM documents WHERE corpus = 'pool' AND text LIKE 'boiling%' AND split = 'train'")
    text = small.value("SELECT text FROM documents WHERE hash = ?", [key])
    lines = write_lines(tmp_path / "odd.jsonl", [f"{text} {n}" for n in range(4)] + [f"q{n}q z{n}z" for n in range(4)])
    ingest_corpus(small, corpus_of(lines, name="odd"), llama)
    with small.write("all of it is train") as tx:
        tx.execute("UPDATE lake.documents SET split = 'train' WHERE corpus = 'odd'")
    settings = {"parent": "p"} if "tracin" in method else {}
    wanted = spec(method=method, pool="odd", seed="pool", seed_documents=[key], tokens=FAR, **settings)
    report = select_documents(small, llama, wanted, parent=parent())
    assert report.documents == 4
    assert problems(small) == [
        ("s", f"{report.tokens} of {FAR} tokens: no more documents share a word with the seed", 1)
    ]


def test_method_full_has_no_budget_and_method_seed_always_reaches_it(small: Catalog, llama: LanguageModel) -> None:
    select_documents(small, llama, spec(method="full"))
    select_documents(small, llama, spec(method="seed", name="t", tokens=10**5))
    assert problems(small) == []
