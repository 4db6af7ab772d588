"""Figures at the true rate: against scikit-learn on weighted windows, repeated draws, and a census of all windows."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, matthews_corrcoef, precision_score

from catalog import Catalog
from queries.refresh.engine import refresh
from queries.refresh.options import Options
from queries.terminal.card import label_line
from scoring.kernels.kernel import Run
from scoring.kernels.rate_scores import rate_scores
from scoring.true_rate import Drawn, always, at_rate


def drawn(rng: np.random.Generator, firing: int = 60, others: int = 90, documents: int = 40) -> Drawn:
    active = np.arange(firing + others) < firing
    score = np.round(rng.normal(active.astype(float), 1), 1)
    weight = rng.uniform(0.2, 3, firing + others)
    return Drawn(active, weight, (score > 0.5).astype(float), score, rng.integers(0, documents, firing + others))


@pytest.mark.parametrize("rate", [0.01, 0.2, 0.5, 0.9])
def test_figures_are_those_of_windows_weighed_by_hand(rate: float) -> None:
    one = drawn(np.random.default_rng(1))
    on, off = one.active, ~one.active
    weights = np.where(on, rate * one.weight / one.weight[on].sum(), (1 - rate) / off.sum())
    found = at_rate(one, rate, 0)
    assert found is not None
    said = one.predicted > 0
    assert found.precision[0] == pytest.approx(precision_score(on, said, sample_weight=weights))
    assert found.f1[0] == pytest.approx(f1_score(on, said, sample_weight=weights))
    assert found.correlation[0] == pytest.approx(matthews_corrcoef(on, said, sample_weight=weights))
    assert one.probability is not None
    area = average_precision_score(on, one.probability, sample_weight=weights)
    assert found.average_precision[0] == pytest.approx(area)
    yes = f1_score(on, np.ones(len(on)), sample_weight=weights)
    assert always(rate) == pytest.approx(yes)


def test_the_example_of_the_definition() -> None:
    active = np.arange(20) < 10
    said = np.array([1] * 8 + [0] * 2 + [1] + [0] * 9, float)
    one = Drawn(active, np.ones(20), said, None, np.arange(20))
    for rate, f1 in ((0.5, 0.84), (0.01, 0.14)):
        found = at_rate(one, rate, 0)
        assert found is not None
        assert found.f1[0] == pytest.approx(f1, abs=0.005)
        assert found.average_precision == (None, None, None)


@pytest.mark.parametrize("documents", [8, 60])
def test_intervals_cover_the_truth_about_as_often_as_they_say(documents: int) -> None:
    """Documents whose judge is better or worse throughout; strata of very different weight and recall."""
    rng, covered, repeats = np.random.default_rng(2), 0, 150
    share, recall, alarm, rate = np.array([0.7, 0.2, 0.1]), np.array([0.3, 0.6, 0.95]), 0.05, 0.05
    r = float(share @ recall)
    truth = 2 * rate * r / (rate + rate * r + (1 - rate) * alarm)
    for i in range(repeats):
        stratum = np.repeat([0, 1, 2, 3], [30, 30, 30, 150])
        place = rng.integers(0, documents, len(stratum))
        lean = rng.normal(0, 0.05, documents)[place]
        chance = np.clip(np.append(recall, alarm)[stratum] + lean, 0, 1)
        one = Drawn(
            stratum < 3,
            np.append(share, 0)[stratum] / 30,
            (rng.random(len(stratum)) < chance).astype(float),
            None,
            place,
        )
        found = at_rate(one, rate, i)
        assert found is not None
        _, low, high = found.f1
        assert low is not None
        assert high is not None
        covered += low <= truth <= high
    assert covered / repeats >= 0.88


def test_a_bootstrap_is_over_documents_and_the_same_for_the_same_seed() -> None:
    one = drawn(np.random.default_rng(3))
    assert at_rate(one, 0.1, 7) == at_rate(one, 0.1, 7)
    wide = Drawn(one.active, one.weight, one.predicted, one.probability, one.document)
    # Thirty copies of each window in its own document say no more than one.
    many = Drawn(*(np.tile(x, 30) for x in (wide.active, wide.weight, wide.predicted, wide.probability, wide.document)))  # type: ignore[arg-type]
    few, same = at_rate(one, 0.1, 7), at_rate(many, 0.1, 7)
    assert few is not None
    assert same is not None
    assert same.f1 == pytest.approx(few.f1)


def test_few_documents_get_wilsons_interval_and_no_interval_of_the_area() -> None:
    one = drawn(np.random.default_rng(4), documents=5)
    found = at_rate(one, 0.1, 0)
    assert found is not None
    assert found.average_precision[1:] == (None, None)
    assert found.f1[1] is not None
    right = Drawn(one.active, np.ones(150), one.active.astype(float), None, one.document)
    sure = at_rate(right, 0.1, 0)
    assert sure is not None
    assert (sure.f1[0], sure.f1[2]) == (1, 1)
    z2 = 1.959964**2
    # By hand: 60 of 60 and 0 of 90.
    low, high = 60 / (60 + z2), z2 / (90 + z2)
    ends = [0.2 * low / (0.1 + 0.1 * low), 0.2 / (0.2 + 0.9 * high)]
    assert sure.f1[1] == pytest.approx(1 - math.hypot(1 - ends[0], 1 - ends[1]))


def test_a_judge_that_ranks_windows_has_an_area_and_nothing_else() -> None:
    one = drawn(np.random.default_rng(5))
    both = at_rate(one, 0.1, 3)
    ranked = at_rate(Drawn(one.active, one.weight, None, one.probability, one.document), 0.1, 3)
    assert both is not None
    assert ranked is not None
    assert ranked.average_precision == both.average_precision
    assert ranked.average_precision[1] is not None
    assert {ranked.recall, ranked.precision, ranked.f1, ranked.correlation} == {(None, None, None)}


def test_rows_hold_figures_of_a_label_and_of_the_mean_of_others() -> None:
    one = drawn(np.random.default_rng(6))
    assert one.predicted is not None
    assert one.probability is not None
    windows = [
        {
            **{"active": bool(a), "weight": float(w) if a else None, "predicted": bool(p), "score": float(s)},
            **{"others": 0.25, "document": int(d)},
        }
        for a, w, p, s, d in zip(one.active, one.weight, one.predicted, one.probability, one.document, strict=True)
    ]
    key = {"sae": "s", "feature": 1, "explainer": "e", "scorer": "d"}
    rows: list[dict[str, Any]] = [key | {"rate": 0.1, "windows": windows}]
    rows.append(
        key | {"feature": 2, "rate": 0.1, "windows": [w | {"predicted": None, "others": None} for w in windows]}
    )
    rows.append(key | {"feature": 3, "rate": 0.0, "windows": windows})
    told: list[tuple[int, int]] = []
    run = cast(Run, SimpleNamespace(progress=lambda done, of: told.append((done, of))))
    (found,) = rate_scores(rows, run)
    assert [row["feature"] for row in found] == [1, 2]
    alone = at_rate(one, 0.1, 0)
    assert alone is not None
    assert (found[0]["recall"], found[0]["f1"]) == (alone.recall[0], alone.f1[0])
    # Others say yes to a quarter of either class: precision is the rate.
    assert found[0]["f1_null"] == pytest.approx(2 * 0.1 * 0.25 / (0.1 + 0.25))
    assert found[0]["f1_always"] == pytest.approx(0.2 / 1.1)
    assert (found[1]["f1"], found[1]["f1_null"]) == (None, None)
    assert found[1]["average_precision"] == found[0]["average_precision"]
    assert told[-1] == (3, 3)


def test_what_is_undefined_is_none() -> None:
    active = np.arange(50) < 25
    never = Drawn(active, np.ones(50), np.zeros(50), None, np.arange(50))
    found = at_rate(never, 0.1, 0)
    assert found is not None
    assert (found.precision, found.correlation) == ((None, None, None), (None, None, None))
    assert found.f1[0] == 0
    assert at_rate(Drawn(active[:25], np.ones(25), np.ones(25), None, np.arange(25)), 0.1, 0) is None


def test_the_drawn_windows_tell_what_all_windows_would(own: Path) -> None:
    """A census: every test window judged, as every activation is known. The intervals of a draw hold its F1."""

    def figures(catalog: Catalog, per_stratum: int, per_split: int) -> dict[int, tuple[float, ...]]:
        settings = {"contexts_stratum.per_stratum": per_stratum, "contexts_random.per_split": per_split}
        failed = [one.error for one in refresh(catalog, options=Options(settings, keep=frozenset({"labels"})))]
        assert not any(failed)
        return {row[0]: row[1:] for row in catalog.rows("SELECT feature, f1, f1_low, f1_high FROM rate_scores")}

    with Catalog(own) as catalog:
        with catalog.write("more features, and no limit of judgements") as tx:
            tx.execute("UPDATE lake.concepts SET shortlist = 30")
            tx.execute("UPDATE lake.scorers SET examples = 100000")
        assert not any(one.error for one in refresh(catalog))
        sampled = figures(catalog, 2, 50)
        few = catalog.value("SELECT count(*) FROM judgements WHERE feature = label_feature")
        census = figures(catalog, 100_000, 100_000)
        assert catalog.value("SELECT count(*) FROM judgements WHERE feature = label_feature") > 2 * few
    both = [feature for feature in sampled.keys() & census.keys() if sampled[feature][0] is not None]
    assert len(both) >= 12
    held = [sampled[one][1] - 1e-9 <= census[one][0] <= sampled[one][2] + 1e-9 for one in both]
    assert sum(held) >= 0.9 * len(held)
    # Far from what balanced windows say, or nothing would be shown.
    off = [abs(sampled[one][0] - census[one][0]) for one in both]
    assert np.mean(off) < 0.1


def test_a_label_is_shown_with_its_f1_at_the_rate() -> None:
    label = {
        **{
            "explainer": "e",
            "label": "x",
            "f1": 0.84,
            "f1_low": 0.7,
            "f1_high": 0.9,
            "f1_null": None,
            "n": 20,
            "failed": 0,
        },
        **{"rate": 0.01, "f1_at_rate": 0.14, "f1_at_rate_low": 0.05, "f1_at_rate_high": 0.3},
    }
    told = "fires in 1.00% of windows, F1 at that rate 0.14 (0.05-0.30)"
    assert label_line(label).plain == f"e: x  F1 0.84 (0.70-0.90, n 20, failed 0); {told}"
    assert "at that rate" not in label_line({**label, "f1_at_rate": None}).plain
