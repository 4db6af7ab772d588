"""The scorers that compare embeddings, against the encoder called by hand and scikit-learn, on a made catalog."""

import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from catalog import Catalog
from catalog.errors import CatalogError
from catalog.vectors.collections import Vectors
from queries.refresh.engine import plan, refresh
from queries.terminal.card import feature_line, label_line
from scoring.scorers.scorer import MODULES
from scoring.scorers.scorer import scorer as scorer_of
from tests.once import once
from tests.queries.made import make, refresh_made, scorer

EXAMPLES = 6


def embedded(protocol: str) -> dict[str, Any]:
    return {**scorer(protocol, examples=EXAMPLES), "protocol": protocol, "nulls": 2}


@pytest.fixture(scope="module")
def embedded_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made catalog judged by detection and by embeddings. Not to be written to."""

    def build(root: Path) -> None:
        scorers = [scorer(), embedded("embedding"), embedded("example_embedding")]
        with make(root, scorers=scorers).open() as catalog:
            refresh_made(catalog)

    return once(tmp_path_factory, "embedded", build)


@pytest.fixture(scope="module")
def judged(embedded_root: Path) -> Iterator[Catalog]:
    with Catalog(embedded_root, read_only=True) as catalog:
        yield catalog


def window_texts(catalog: Catalog) -> dict[int, str]:
    """Of each window that contexts hold, by its first position, the text."""
    rows = catalog.rows(
        "SELECT c.start, string_agg(t.text, '' ORDER BY t.position) FROM "
        "(SELECT DISTINCT start, unnest(range(start, start + length)) AS position FROM contexts) AS c "
        "JOIN token_text AS t ON t.position = c.position GROUP BY c.start"
    )
    return dict(rows)


def encoded(texts: list[str]) -> dict[str, np.ndarray]:
    from ingest.model.text_encoder import load_encoder

    vectors = load_encoder().encode(texts, batch_size=7, show_progress_bar=False)
    return {t: v / np.linalg.norm(v) for t, v in zip(texts, vectors.astype(np.float64), strict=True)}


def test_a_labels_similarity_is_its_cosine_with_the_window(judged: Catalog) -> None:
    texts = window_texts(judged)
    rows = judged.rows(
        "SELECT l.label, j.example, j.similarity, j.predicted, j.problem FROM judgements AS j "
        "JOIN labels AS l ON l.feature = j.label_feature AND l.explainer = j.explainer WHERE protocol = 'embedding'"
    )
    assert len(rows) > 40
    vectors = encoded(sorted({label for label, *_ in rows} | {texts[example] for _, example, *_ in rows}))
    for label, example, similarity, predicted, problem in rows:
        assert (predicted, problem) == (None, None)
        assert similarity == pytest.approx(vectors[label] @ vectors[texts[example]], abs=2e-5)


def test_a_windows_similarity_is_that_with_firing_train_windows_less_that_with_others(judged: Catalog) -> None:
    texts = window_texts(judged)
    train: dict[tuple[int, bool], list[str]] = defaultdict(list)
    for feature, active, start, split in judged.rows(
        "SELECT feature, active, start, split FROM scorer_windows WHERE protocol = 'example_embedding'"
    ):
        if split == "train":
            train[feature, active].append(texts[start])
    rows = judged.rows(
        "SELECT feature, label_feature, explainer, example, similarity FROM judgements "
        "WHERE protocol = 'example_embedding'"
    )
    assert {explainer for _, _, explainer, _, _ in rows} == {""}
    vectors = encoded(sorted({*(t for group in train.values() for t in group), *(texts[row[3]] for row in rows)}))
    for _, other, _, example, similarity in rows:
        window = vectors[texts[example]]
        near, far = (np.mean([window @ vectors[t] for t in train[other, on]]) for on in (True, False))
        assert similarity == pytest.approx(near - far, abs=2e-5)
    # Whatever explainers there are, a row for each feature.
    scored = judged.rows("SELECT feature, count(*) FROM scores WHERE protocol = 'example_embedding' GROUP BY ALL")
    assert {feature for feature, _ in scored} == {feature for feature, *_ in rows}
    assert {n for _, n in scored} == {1}


@pytest.mark.parametrize("protocol", ["embedding", "example_embedding"])
def test_area_and_average_precision_are_those_of_sklearn_with_classes_of_one_weight(
    judged: Catalog, protocol: str
) -> None:
    found: dict[tuple[int, int], list[tuple[bool, float]]] = defaultdict(list)
    for feature, other, active, similarity in judged.rows(
        f"SELECT feature, label_feature, active, similarity FROM judgements WHERE protocol = '{protocol}'"
    ):
        found[feature, other].append((active, similarity))
    areas = {pair: roc_auc_score(*zip(*rows, strict=True)) for pair, rows in found.items()}
    precisions = {}
    for pair, rows in found.items():
        active = np.array([on for on, _ in rows])
        weight = np.where(active, 1 / active.sum(), 1 / (~active).sum())
        precisions[pair] = average_precision_score(active, [s for _, s in rows], sample_weight=weight)
    names = ("auroc", "auroc_null", "average_precision", "average_precision_null")
    ends = ("average_precision_low", "average_precision_high", "n", "failed", "f1", "balanced_accuracy")
    rows = judged.rows(f"SELECT feature, {', '.join(names + ends)} FROM scores WHERE protocol = '{protocol}'")
    assert {feature for feature, *_ in rows} == {feature for feature, _ in found}
    for feature, area, area_null, precision, precision_null, low, high, n, failed, *rest in rows:
        nulls = [pair for pair in found if pair[0] == feature != pair[1]]
        assert len(nulls) == min(2, len(rows) - 1)
        own = found[feature, feature]
        assert (n, failed, rest) == (len(own), 0, [None, None])
        assert area == pytest.approx(areas[feature, feature])
        assert area_null == pytest.approx(np.mean([areas[pair] for pair in nulls]))
        assert precision == pytest.approx(precisions[feature, feature])
        assert precision_null == pytest.approx(np.mean([precisions[pair] for pair in nulls]))
        positives = sum(on for on, _ in own)
        roots = np.roots([1 + 1.959964**2 / positives, -2 * precision - 1.959964**2 / positives, precision**2])
        assert (low, high) == (pytest.approx(min(roots.real)), pytest.approx(max(roots.real)))


def test_no_window_of_a_judgement_is_of_a_document_that_it_is_compared_with(judged: Catalog) -> None:
    rows = judged.rows(
        "SELECT w.split, d.split FROM scorer_windows AS w "
        "ASOF JOIN documents AS d ON d.corpus = w.corpus AND d.start <= w.start"
    )
    assert {split for split, _ in rows} == {"train", "test"}
    assert all(said == of_document for said, of_document in rows)


def test_each_text_is_embedded_once_and_after_new_labels_only_those(
    embedded_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    from ingest.model import embed as module

    real = module.embed
    monkeypatch.setattr(module, "embed", lambda texts, *rest: asked.extend(texts) or real(texts, *rest))
    with Catalog(shutil.copytree(embedded_root, tmp_path / "own")) as catalog:
        version, rows = catalog.rows("SELECT version, rows FROM lance WHERE collection = 'texts'")[0]
        hashes = Vectors(catalog.vectors).read("texts", version, ["hash"])["hash"].to_pylist()
        assert len(set(hashes)) == len(hashes) == rows
        with catalog.write("another scorer") as tx:
            tx.insert("scorers", [{**embedded("embedding"), "scorer": "more", "examples": EXAMPLES + 1}])
        refresh(catalog, ("text_vectors",))
        added = catalog.value("SELECT rows FROM lance WHERE collection = 'texts'") - rows
        assert 0 < len(asked) == added
        assert len(set(asked)) == len(asked)
        asked.clear()
        results = {result.step: result for result in refresh(catalog, ("scores",))}
        assert [result.error for result in results.values() if result.error] == []
        assert results["judgements_embedding"].changes.added > 0
        assert results["judgements"].changes.added == 0
        assert asked == []
        assert {result.state for result in plan(catalog, ("scores",))} == {"current"}


def test_a_window_without_an_embedding_is_a_row_with_the_reason(embedded_root: Path, tmp_path: Path) -> None:
    with Catalog(shutil.copytree(embedded_root, tmp_path / "own")) as catalog:
        version = catalog.value("SELECT version FROM lance WHERE collection = 'texts'")
        rows = Vectors(catalog.vectors).read("texts", version)
        made = Vectors(catalog.vectors).write("texts", rows.slice(0, len(rows) // 2), ["hash"])
        with catalog.write("half of the vectors") as tx:
            tx.execute("UPDATE lake.lance SET version = ? WHERE collection = 'texts'", [made.version])
            tx.execute("DELETE FROM lake.judgements WHERE protocol = 'embedding'")
            tx.execute("UPDATE lake.runs SET fingerprint = '' WHERE step = 'judgements_embedding'")
        refresh(catalog, ("scores",))
        asked, answered, failed = catalog.rows(
            "SELECT count(*), count(similarity), count(problem) FROM judgements WHERE protocol = 'embedding'"
        )[0]
        assert failed > 0
        assert asked == answered + failed
        own = "FROM judgements WHERE protocol = 'embedding' AND feature = label_feature"
        assert catalog.rows("SELECT sum(n), sum(failed) FROM scores WHERE protocol = 'embedding'") == catalog.rows(
            f"SELECT count(similarity), count(problem) {own}"
        )


def test_a_catalog_of_before_has_detection_alone(tmp_path: Path) -> None:
    from catalog.store.connection import connect
    from catalog.store.location import Location
    from catalog.store.migrations import migrate

    (tmp_path / "data").mkdir()
    connection = connect(Location(tmp_path), read_only=False, create=True)
    migrate(connection, until=16)
    connection.execute(
        "INSERT INTO lake.scores (sae, feature, explainer, scorer, n, failed, n_null, f1) VALUES "
        "('s', 1, 'e', 'd', 9, 0, 9, 0.5)"
    )
    connection.execute(
        "INSERT INTO lake.judgements (sae, feature, label_feature, explainer, scorer, corpus, example, split, active, "
        "activation, input) VALUES ('s', 1, 1, 'e', 'd', 'c', 7, 'test', true, 1, 'i')"
    )
    migrate(connection)
    assert connection.execute("SELECT protocol, f1, auroc_null FROM lake.scores").fetchall() == [
        ("detection", 0.5, None)
    ]
    assert connection.execute("SELECT protocol, example FROM lake.judgements").fetchall() == [("detection", 7)]
    connection.close()


def test_an_unknown_protocol_is_named_with_those_that_are_known() -> None:
    with pytest.raises(CatalogError, match="no protocol 'guess' of scorers; known: detection, "):
        scorer_of("guess")
    for protocol in MODULES:
        assert callable(scorer_of(protocol).asks)
        assert callable(scorer_of(protocol).judge)


def test_a_card_says_area_where_there_is_no_f1() -> None:
    area = {"auroc": 0.75, "auroc_low": 0.6, "auroc_high": 0.9, "auroc_null": 0.5, "average_precision": 0.8}
    score = {"explainer": "e", "scorer": "near", "label": "x", "n": 9, "failed": 1, "f1": None, **area}
    told = "AUROC by near 0.75 (0.60-0.90, null 0.50, n 9, failed 1), average precision 0.80"
    assert label_line(score, scorer=True).plain == f"e: x  {told}"
    assert feature_line(score).plain == f"without a label, by near: {told.replace(' by near', '')}"
    assert feature_line({**score, "auroc": None}).plain == "without a label, by near: not scored"
