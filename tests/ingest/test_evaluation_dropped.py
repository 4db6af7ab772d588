"""What is out of date on text that is no longer measured goes, and nothing else does."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from catalog import Catalog
from catalog.study.file import Study
from ingest.dictionaries.measure import drop_stale, evaluate_text
from ingest.model.language_model import LanguageModel
from ingest.pipeline import ingest_study
from tests.ingest.test_evaluation import _ingested, reader, text
from tests.ingest.test_run import write_study

__all__ = ["_ingested", "text"]

BOTH = {(corpus, split) for corpus in ("docs", "more") for split in ("val", "test")}


def rows(catalog: Catalog) -> list[tuple[Any, ...]]:
    return catalog.rows("SELECT sae, corpus, split FROM evaluations ORDER BY ALL")


def problems(catalog: Catalog) -> list[str]:
    return [subject for (subject,) in catalog.rows("SELECT subject FROM problems WHERE stage = 'evaluation'")]


def test_rows_on_text_that_became_unusable_go_with_the_reason(text: Catalog, llama: LanguageModel) -> None:
    evaluate_text(text, llama, [reader("a"), reader("b", 1)], ["docs", "more"])
    text.connection.execute("UPDATE lake.documents SET split = 'train' WHERE corpus = 'more' AND split = 'val'")
    before = text.snapshot()
    report = evaluate_text(text, llama, [reader("a")], ["more"], ("val",))
    assert report.dropped == [("a", "more", "val")]
    assert problems(text) == ["more:val"]
    assert text.snapshot() == before + 1
    # Only of the SAEs that were to be measured, and on that text.
    assert rows(text) == sorted([("a", *one) for one in BOTH - {("more", "val")}] + [("b", *one) for one in BOTH])
    again = evaluate_text(text, llama, [reader("a")], ["more"], ("val",))
    assert (again.dropped, text.snapshot()) == ([], before + 1)
    # The reason is known, and yet there is a row.
    assert evaluate_text(text, llama, [reader("b", 1)], ["more"], ("val",)).dropped == [("b", "more", "val")]
    assert problems(text) == ["more:val"]
    text.connection.execute("UPDATE lake.documents SET split = 'val' WHERE corpus = 'more' AND split = 'train'")
    evaluate_text(text, llama, [reader("a"), reader("b", 1)], ["more"], ("val",))
    assert (len(rows(text)), problems(text)) == (8, [])


def test_a_part_that_is_measured_leaves_the_rest(text: Catalog, llama: LanguageModel) -> None:
    evaluate_text(text, llama, [reader("a")], ["docs", "more"])
    assert evaluate_text(text, llama, [reader("a")], ["docs"], ("test",), max_tokens=40).dropped == []
    assert rows(text) == sorted(("a", *one) for one in BOTH)


ASKED: dict[str, set[tuple[str, str]]] = {"a": {("docs", "test"), ("more", "test")}, "b": set()}


def test_what_is_not_asked_stays_while_it_is_true(text: Catalog, llama: LanguageModel) -> None:
    readers = [reader("a"), reader("b", 1), reader("c", 2)]
    evaluate_text(text, llama, readers, ["docs", "more"])
    before = text.snapshot()
    assert (drop_stale(text, llama, readers, ASKED), text.snapshot(), len(rows(text))) == (0, before, 12)
    # Of an SAE that could not be made nothing is known.
    assert drop_stale(text, llama, readers[:1], ASKED, 40) == 2
    assert rows(text) == sorted([("a", *one) for one in ASKED["a"]] + [(sae, *one) for sae in "bc" for one in BOTH])


def test_what_is_neither_asked_nor_true_goes_in_one_snapshot_that_counts_it(
    text: Catalog, llama: LanguageModel
) -> None:
    readers = [reader("a"), reader("b", 1), reader("c", 2)]
    evaluate_text(text, llama, readers, ["docs", "more"])
    with text.write("problems") as tx:
        for subject in ("docs:val", "more:test", "a on docs:val", "a on more:val", "c on docs:val"):
            tx.insert("problems", [{"stage": "evaluation", "subject": subject, "reason": "-", "count": 1}])
    # One document less, of all that is measured on docs; and other weights.
    first = "(SELECT min(document) FROM documents WHERE corpus = 'docs' AND split = 'val')"
    text.connection.execute(f"UPDATE lake.documents SET split = 'test' WHERE corpus = 'docs' AND document = {first}")
    readers[1] = replace(readers[1], digest="other weights")
    before = text.snapshot()
    assert drop_stale(text, llama, readers, ASKED) == 5
    still = [("a", *one) for one in BOTH - {("docs", "val")}]
    assert rows(text) == sorted(still + [("c", *one) for one in BOTH])
    assert sorted(problems(text)) == ["a on more:val", "c on docs:val", "more:test"]
    assert text.snapshot() == before + 1
    message = "SELECT commit_message FROM lake.snapshots() ORDER BY snapshot_id DESC LIMIT 1"
    assert text.connection.execute(message).fetchall() == [("5 evaluations that are neither asked for nor up to date",)]
    assert (drop_stale(text, llama, readers, ASKED), text.snapshot()) == (0, before + 1)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, neox_folder: Path, empty_catalog: Path) -> Path:
    """A folder with a catalog that was measured on val and test, 40 tokens each, and its study file."""
    folder = tmp_path_factory.mktemp("measured")
    path = write_study(folder, neox_folder, "steps = 20", documents=60)
    shutil.copytree(empty_catalog, folder / "catalog")
    _ingest(folder / "catalog", path, 'tokens = 40\nsplits = ["val", "test"]')
    return folder


def _ingest(root: Path, path: Path, measuring: str) -> list[tuple[Any, ...]]:
    body = path.read_text().partition("[evaluation]")[0]
    path.write_text(f"{body}[evaluation]\n{measuring}\n")
    with Catalog(root) as catalog:
        ingest_study(catalog, Study.load(path))
        return catalog.rows("SELECT split, max_tokens FROM evaluations ORDER BY ALL")


@pytest.mark.parametrize(
    ("measuring", "left"),
    [
        ('tokens = 40\nsplits = ["val"]', [("test", 40), ("val", 40)]),
        ('tokens = 50\nsplits = ["val"]', [("val", 50)]),
        ('tokens = 30\nsplits = ["val", "test"]', [("test", 30), ("val", 30)]),
        ("tokens = 0", [("test", 40), ("val", 40)]),
    ],
)
def test_a_study_has_the_rows_that_it_asks_for_and_those_that_are_as_new(
    measured: Path, tmp_path: Path, measuring: str, left: list[tuple[str, int]]
) -> None:
    folder = Path(shutil.copytree(measured, tmp_path / "measured"))
    assert _ingest(folder / "catalog", folder / "study.toml", measuring) == left
