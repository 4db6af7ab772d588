"""Scores of separation, windows around matches, and shortlists, against naive loops over words and activations.

In a made catalog every token is a word, so that concepts can be looked up in the words themselves.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from catalog import Catalog
from queries.refresh.engine import refresh
from tests.queries import made as m
from tests.queries.made import CONCEPT, CTX, WIDTH, WORDS, Document, activation, make

WORD_LISTS: dict[str, tuple[list[str], int, int]] = {
    "plain": (["matrix", "linear", "sum"], 0, 0),
    "window": (["Matrix", "matrix", "linear", "sum", "zebra"], 2, 3),
    "one": (["matrix"], 1, 0),
    "phrase": (["matrix", "set of", "set"], 0, 1),
}
SCORES = ("separation", "fisher", "cohens_d", "mean_difference", "rate_difference", "auroc", "domain")


def concept(name: str, words: list[str], **more: Any) -> dict[str, Any]:
    window = {side: more.pop(side, 0) for side in ("before", "after")}
    definition = json.dumps({"words": words, "ignore_case": True, **window})
    return {**CONCEPT, "concept": name, "definition": definition, **more}


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return m.documents(80, seed=3)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory, documents: list[Document]) -> Iterator[Catalog]:
    concepts = [concept(name, words, before=b, after=a) for name, (words, b, a) in WORD_LISTS.items()]
    concepts += [concept(f"by {score}", ["matrix", "linear", "sum"], rank_by=score, shortlist=3) for score in SCORES]
    concepts += [
        concept("default", ["matrix", "linear", "sum"], shortlist=3),
        # Of 9 latents 2.25 are above, and 0.09.
        concept("quarter", ["matrix", "linear", "sum"], shortlist_quantile=0.75),
        concept("one best", ["matrix", "linear", "sum"], shortlist_quantile=0.99),
    ]
    predicate = {"kind": "predicate", "definition": json.dumps({"predicate": "text = ' matrix'", "after": 1})}
    concepts.append({**CONCEPT, "concept": "predicate", **predicate})
    root = tmp_path_factory.mktemp("scores") / "catalog"
    with make(root, documents, shards=3, concepts=concepts).open() as catalog:
        assert [r.error for r in refresh(catalog, ("shortlist",)) if r.error] == []
        yield catalog


def belonging(documents: list[Document], words: list[str], before: int, after: int) -> dict[int, set[str]]:
    """Position -> the words in whose window it is, by looking at each word of each text."""
    found: dict[int, set[str]] = defaultdict(set)
    start = 0
    for document in documents:
        text = [WORDS[word] for word in document.words]
        for at in range(len(text)):
            # Of phrases that begin here, the longest.
            here = [w.split() for w in {w.lower() for w in words} if text[at : at + len(w.split())] == w.split()]
            if not here:
                continue
            longest = max(here, key=lambda phrase: len(" ".join(phrase)))
            for token in range(at, at + len(longest)):
                first = token // CTX * CTX
                for near in range(max(token - before, first), min(token + after + 1, first + CTX, len(text))):
                    found[start + near].add(" ".join(longest))
        start += len(text)
    return found


def dense(documents: list[Document]) -> np.ndarray:
    """[latents, tokens], in double precision."""
    rows = [[activation(d, at, f) for d in documents for at in range(len(d.words))] for f in range(WIDTH)]
    found = np.array(rows)
    found[m.ONCE, 0] = 3.5
    return found


@pytest.mark.parametrize("name", WORD_LISTS)
def test_tokens_of_a_window_belong_to_the_concept_as_far_as_their_sequence_goes(
    catalog: Catalog, documents: list[Document], name: str
) -> None:
    words, before, after = WORD_LISTS[name]
    numbered = list(dict.fromkeys(word.lower() for word in words))
    expected = {
        position: sorted(numbered.index(word) for word in found)
        for position, found in belonging(documents, words, before, after).items()
    }
    rows = catalog.rows("SELECT position, words FROM concept_positions WHERE concept = ?", [name])
    assert dict(rows) == expected
    assert len(rows) == len(expected)


def test_a_predicate_has_a_window_too_and_no_words(catalog: Catalog, documents: list[Document]) -> None:
    rows = dict(catalog.rows("SELECT position, words FROM concept_positions WHERE concept = 'predicate'"))
    assert rows == {position: [] for position in belonging(documents, ["matrix"], 0, 1)}


@pytest.mark.parametrize("name", [*WORD_LISTS, "predicate"])
def test_scores_are_those_of_plain_loops_over_the_activations(
    catalog: Catalog, documents: list[Document], name: str
) -> None:
    words, before, after = WORD_LISTS.get(name, (["matrix"], 0, 1))
    of = belonging(documents, words, before, after)
    acts = dense(documents)
    inside = np.zeros(acts.shape[1], bool)
    inside[list(of)] = True
    positive, negative = acts[:, inside].mean(1), acts[:, ~inside].mean(1)
    occurring = sorted({word for found in of.values() for word in found})
    means = np.array([acts[:, [p for p, found in of.items() if word in found]].mean(1) for word in occurring])
    rows = catalog.rows(
        "SELECT feature, mean_difference, entropy, domain, mean_positive FROM separation WHERE concept = ?", [name]
    )
    assert {row[0] for row in rows} == set(np.flatnonzero(acts.any(1)).tolist())
    for feature, difference, entropy, domain, mean in rows:
        shares = [one / means[:, feature].sum() for one in means[:, feature] if one > 0]
        even = -sum(p * math.log(p) for p in shares) / math.log(len(occurring)) if len(occurring) > 1 else 1.0
        if name == "predicate":
            even = 1.0
        score = positive[feature] / positive.sum() * even**0.7 - negative[feature] / negative.sum()
        assert mean == pytest.approx(positive[feature], rel=1e-9, abs=1e-12)
        assert difference == pytest.approx(abs(positive[feature] - negative[feature]), rel=1e-9, abs=1e-12)
        assert entropy == pytest.approx(even, rel=1e-9, abs=1e-9)
        assert domain == pytest.approx(score, rel=1e-9, abs=1e-9)
        assert -1 <= entropy <= 1 + 1e-12


def test_a_feature_of_two_words_is_less_even_than_one_of_all(catalog: Catalog) -> None:
    # WORD fires on "matrix" and "linear" alone; the noise fires on all words alike.
    entropy = dict(catalog.rows("SELECT feature, entropy FROM separation WHERE concept = 'plain'"))
    assert entropy[m.WORD] < 0.7 < 0.9 < entropy[m.NOISE]


def test_the_shortlist_is_ranked_by_the_score_that_the_concept_names(catalog: Catalog) -> None:
    for score in SCORES:
        eligible = catalog.rows(
            f"SELECT s.feature, s.{score} FROM separation AS s JOIN feature_stats AS f USING (sae, feature) "
            "WHERE s.concept = ? AND s.mean_positive > s.mean_negative AND f.firings >= 32",
            [f"by {score}"],
        )
        expected = sorted(eligible, key=lambda row: (-row[1], row[0]))[:3]
        found = catalog.rows("SELECT feature, score FROM shortlist WHERE concept = ? ORDER BY rank", [f"by {score}"])
        assert found == expected
    by_default = "SELECT feature, score, rank FROM shortlist WHERE concept = ? ORDER BY rank"
    assert catalog.rows(by_default, ["default"]) == catalog.rows(by_default, ["by cohens_d"])


@pytest.mark.parametrize(("name", "features"), [("quarter", 2), ("one best", 1)])
def test_a_quantile_is_one_of_all_latents(catalog: Catalog, name: str, features: int) -> None:
    ranks = catalog.rows("SELECT rank FROM shortlist WHERE concept = ? ORDER BY rank", [name])
    assert [rank for (rank,) in ranks] == list(range(1, features + 1))


def test_cohens_d_ranks_as_the_correlation_with_the_concept_does(catalog: Catalog, documents: list[Document]) -> None:
    acts = dense(documents)
    inside = np.zeros(acts.shape[1])
    inside[list(belonging(documents, *WORD_LISTS["window"]))] = 1
    rows = catalog.rows("SELECT feature FROM separation WHERE concept = 'window' ORDER BY cohens_d DESC")
    correlations = [np.corrcoef(acts[feature], inside)[0, 1] for (feature,) in rows]
    assert correlations == sorted(correlations, reverse=True)
