"""A measurement ends when the cost of every SAE is known well enough; the interval against naive sums by document."""

import dataclasses
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from catalog import Catalog
from catalog.study.file import Study
from ingest.dictionaries.measure import Sample, evaluate_sample, evaluate_text
from ingest.dictionaries.paired_interval import Interval, interval, student
from ingest.model.batches import batches, load_sequences
from ingest.model.language_model import LanguageModel
from ingest.model.splice import run_clean, run_replaced
from ingest.text.corpus import ingest_corpus
from ingest.text.held_out import measured_text
from ingest.to_do import precision_of, splits_of
from tests.empty import make_empty
from tests.ingest.test_evaluation import reader
from tests.ingest.tiny import corpus_of, texts, write_lines


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory, llama: LanguageModel) -> Path:
    root = tmp_path_factory.mktemp("growing")
    with make_empty(root / "catalog") as catalog:
        ingest_corpus(catalog, corpus_of(write_lines(root / "d.jsonl", texts(300))), llama)
    return root / "catalog"


@pytest.fixture
def text(ingested: Path, tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(shutil.copytree(ingested, tmp_path / "catalog")) as catalog:
        yield catalog


def test_the_quantile_is_students() -> None:
    for freedom in (1, 2, 3, 4, 5, 7, 10, 30, 200):
        assert student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=2e-3)


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    """Documents of different length, whose tokens lean the same way within a document."""
    rng, covered, naive = np.random.default_rng(0), 0, 0
    for _ in range(400):
        counts = rng.integers(5, 60, 30).astype(float)
        tokens = [0.3 + rng.normal(0, 0.5) + rng.normal(0, 0.5, int(n)) for n in counts]
        found = interval(np.array([part.sum() for part in tokens]), counts)
        every = np.concatenate(tokens)
        assert found.mean == pytest.approx(every.mean())
        covered += abs(found.mean - 0.3) <= (found.half or 0)
        naive += abs(every.mean() - 0.3) <= 1.96 * every.std() / math.sqrt(len(every))
    assert 0.9 <= covered / 400 <= 0.98
    assert naive / 400 < 0.7


def test_one_document_has_no_interval() -> None:
    assert interval(np.array([3.0, 0.0]), np.array([6.0, 0.0])) == Interval(0.5, None)
    assert interval(np.array([3.0]), np.array([6.0])).ends == (None, None)


def test_parts_are_the_documents_by_hash_each_once(text: Catalog) -> None:
    whole = measured_text(text, "docs", "train", None)
    parts = list(whole.parts(100))
    by_hash = text.rows("SELECT start, tokens FROM documents WHERE split = 'train' ORDER BY hash[17:], hash")
    read, at = 0, 0
    for part in parts:
        ours = by_hash[at : at + len(part.starts)]
        assert sorted(start for start, _ in ours) == part.starts.tolist()
        # As many as before, or 100, with the last document and no more.
        wanted = max(read, 100)
        tokens = sum(n for _, n in ours)
        assert tokens >= wanted or part is parts[-1]
        assert tokens - ours[-1][1] < wanted
        read, at = read + tokens, at + len(ours)
    assert at == len(by_hash)


def test_a_measurement_ends_when_it_is_precise_and_says_how_precise(
    text: Catalog, llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ingest.dictionaries import spliced_run

    monkeypatch.setattr(spliced_run, "FIRST_SAMPLE", 200)
    one = reader("s")
    evaluate_sample(text, llama, [one], ["docs"], ("train",), Sample(precision=0.2))
    sql = "SELECT documents, tokens, ce_clean, ce_spliced, ce_increase_low, ce_increase_high FROM evaluations"
    ((documents, tokens, clean, spliced, low, high),) = text.rows(sql)
    whole = text.value("SELECT sum(tokens)::BIGINT FROM documents WHERE split = 'train'")
    assert 200 <= tokens < whole
    assert documents >= 8
    assert (high - low) / 2 <= 0.2 * clean
    assert (low + high) / 2 == pytest.approx(spliced - clean)
    # By hand: one document after the other.
    taken = text.rows(
        "SELECT shard, start, tokens FROM documents WHERE split = 'train' ORDER BY hash[17:], hash LIMIT ?", [documents]
    )
    sums, counts = [], []
    for shard, start, length in taken:
        sequences, total, n = load_sequences(text, "docs", shard), 0.0, 0
        for batch in batches(sequences, llama.bos, 1):
            if start <= batch.positions[0] < start + length:
                before = run_clean(llama, batch, ["layers.1"])
                x = before.outputs["layers.1"][batch.real]
                after = run_replaced(llama, before, "layers.1", one.sae.decode(one.sae.encode(x), x))
                total, n = total + float((after - before.losses).sum()), n + len(after)
        sums.append(total)
        counts.append(n)
    found = interval(np.array(sums), np.array(counts, float))
    assert list(found.ends) == [pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4)]
    # A row that was measured on all of the text is good enough for who asks for less, and not the other way round.
    assert not evaluate_sample(text, llama, [one], ["docs"], ("train",), Sample(precision=0.2)).evaluated
    assert evaluate_text(text, llama, [one], ["docs"], ("train",)).evaluated
    assert not evaluate_sample(text, llama, [one], ["docs"], ("train",), Sample(precision=0.2)).evaluated


def test_a_text_of_outliers_alone_is_a_problem_and_no_figure(text: Catalog, llama: LanguageModel) -> None:
    """Each row is far above the norm that the SAE was trained on; beside it an SAE for which none is."""
    far = dataclasses.replace(reader("far"), median_norm=1e-9)
    near = dataclasses.replace(reader("near"), median_norm=1e9)
    evaluate_text(text, llama, [far, near], ["docs"], ("val",))
    assert text.rows("SELECT sae, outliers FROM evaluations") == [("near", 0)]
    ((stage, subject, reason),) = text.rows("SELECT stage, subject, reason FROM problems")
    assert ("far" in subject, stage.startswith("evaluat")) == (True, True)
    assert "every row that is measured has a norm above 10 times the SAE's median" in reason


@pytest.mark.parametrize(
    ("sections", "splits", "precision"),
    [
        ("", ("test",), 0.02),
        ('[[sweep]]\nname = "w"\nsaes = ["sae"]\nvalues = [8, 16]\nsetting = "k"\n', ("val", "test"), 0.0),
        ('[evaluation]\nsplits = ["train"]\nprecision = 0.1\n', ("train",), 0.1),
    ],
)
def test_a_sweep_is_measured_on_all_text_of_val_too(
    sections: str, splits: tuple[str, ...], precision: float, tmp_path: Path
) -> None:
    study = Study.parse('name = "s"\n[[sae]]\nname = "sae"\n' + sections, tmp_path)
    assert (splits_of(study), precision_of(study)) == (splits, precision)
