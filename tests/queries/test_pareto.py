"""The views of sweeps against values computed by hand."""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from catalog import Catalog
from queries.ask.guard import run
from tests.empty import make_empty
from tests.queries.swept import evaluation, sweep

VIEWS = ("sae_quality", "pareto", "pareto_segments", "pareto_curve", "pareto_seed_area", "pareto_area")


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pareto") / "catalog"
    make_empty(root).close()
    return root


@pytest.fixture
def catalog(empty: Path, tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(shutil.copytree(empty, tmp_path / "catalog")) as opened:
        yield opened


def asked(catalog: Catalog, sql: str) -> list[dict[str, Any]]:
    """The rows that a user gets, through the allow-list."""
    return list(run(sql, catalog).read_all().to_pylist())


@pytest.mark.parametrize("view", VIEWS)
def test_every_column_of_a_view_is_documented_and_the_allow_list_takes_it(catalog: Catalog, view: str) -> None:
    columns = run(f"SELECT * FROM {view}", catalog).schema.names
    documented = [
        name for (name,) in catalog.rows("SELECT name FROM columns_doc WHERE relation = ? AND name <> '*'", [view])
    ]
    assert sorted(columns) == sorted(documented)


def test_quality_is_relative_to_the_model_and_to_the_parent(catalog: Catalog) -> None:
    sae = {"model": "m", "hookpoint": "h", "architecture": "topk", "width": 8, "d": 4, "k": 3}
    with catalog.write("saes") as tx:
        for name, parent in (("child", "mother"), ("mother", None)):
            tx.insert("saes", [{**sae, "sae": name, "parent": parent, "weights": "-", "digest": "-", "config": "{}"}])
        tx.insert("evaluations", [evaluation("mother", 50, 20), evaluation("child", 40, 15)])
        tx.insert("evaluations", [evaluation("mother", 50, 90, split="val")])
    rows = {(row["sae"], row["split"]): row for row in asked(catalog, "SELECT * FROM sae_quality")}
    assert len(rows) == 3
    child = rows["child", "test"]
    assert child["perplexity"] == pytest.approx(15)
    assert child["perplexity_clean"] == pytest.approx(10)
    assert child["perplexity_ablated"] == pytest.approx(1000)
    assert child["relative_to_clean"] == pytest.approx(1.5)
    assert child["relative_to_parent"] == pytest.approx(0.75)
    assert (child["dead_share"], child["dense_share"], child["width"]) == (0.25, 0.125, 8)
    assert rows["mother", "test"]["relative_to_parent"] is None


def test_a_point_is_the_mean_over_seeds_with_its_spread(catalog: Catalog) -> None:
    sweep(catalog, [("dense", 1, 0, 90, 20), ("dense", 1, 1, 110, 26), ("dense", 2, 0, 50, 40)])
    one, two = asked(catalog, "SELECT * FROM pareto ORDER BY coefficient")
    assert (one["seeds"], one["l0"], one["perplexity"]) == (2, 100, pytest.approx(23))
    assert one["l0_std"] == pytest.approx(math.sqrt(200))
    assert one["perplexity_std"] == pytest.approx(math.sqrt(18))
    assert (one["perplexity_low"], one["perplexity_high"]) == (pytest.approx(20), pytest.approx(26))
    assert (two["seeds"], two["l0_std"], two["perplexity_std"]) == (1, None, None)
    assert (one["on_front"], two["on_front"]) == (True, True)


def test_the_front_is_what_nothing_dominates(catalog: Catalog) -> None:
    points = [("a", 1, 0, 60, 30), ("a", 2, 0, 80, 31), ("a", 3, 0, 100, 20), ("b", 1, 0, 60, 29), ("b", 2, 0, 90, 25)]
    # As good as another point, and so not dominated by it.
    sweep(catalog, [*points, ("b", 3, 0, 100, 20)])
    rows = asked(catalog, "SELECT family, coefficient, on_front, on_family_front FROM pareto ORDER BY ALL")
    assert [tuple(row.values()) for row in rows] == [
        ("a", 1, False, True),
        ("a", 2, False, False),
        ("a", 3, True, True),
        ("b", 1, True, True),
        ("b", 2, True, True),
        ("b", 3, True, True),
    ]


def test_the_curve_is_linear_between_points_and_ends_with_them(catalog: Catalog) -> None:
    sweep(catalog, [("a", 1, 0, 58.5, 30), ("a", 2, 0, 61, 20), ("a", 3, 0, 63.2, 31), ("b", 1, 0, 7, 5)])
    rows = asked(catalog, "SELECT family, l0, perplexity FROM pareto_curve ORDER BY family, l0")
    expected = [
        ("a", 59, 30 - 4 * 0.5),
        ("a", 60, 30 - 4 * 1.5),
        ("a", 61, 20),
        ("a", 62, 25),
        ("a", 63, 30),
        ("b", 7, 5),
    ]
    assert [(row["family"], row["l0"]) for row in rows] == [point[:2] for point in expected]
    assert [row["perplexity"] for row in rows] == [pytest.approx(point[2]) for point in expected]


def test_the_area_is_that_of_trapezoids_clipped_to_the_range(catalog: Catalog) -> None:
    sweep(catalog, [("a", 1, 0, 50, 40), ("a", 2, 0, 70, 20), ("a", 3, 0, 130, 10), ("a", 4, 0, 150, 8)])
    (row,) = asked(catalog, "SELECT * FROM pareto_area")
    # 60 to 70: 30 falls to 20; to 130: 20 falls to 10; to 140: 10 falls to 9.
    area = 10 * 25 + 60 * 15 + 10 * 9.5
    assert (row["l0_low"], row["l0_high"], row["points"], row["reason"]) == (60, 140, 4, None)
    assert row["area"] == pytest.approx(area)
    assert row["mean_perplexity"] == pytest.approx(area / 80)
    assert (row["seeds"], row["seeds_spanning"], row["seed_area_std"]) == (1, 1, None)
    assert row["seed_area"] == pytest.approx(area)


def test_ends_of_the_range_inside_one_segment(catalog: Catalog) -> None:
    sweep(catalog, [("a", 1, 0, 0, 100), ("a", 2, 0, 100, 50)], l0_low=20, l0_high=40)
    (row,) = asked(catalog, "SELECT area, mean_perplexity FROM pareto_area")
    assert row == {"area": pytest.approx(20 * 85), "mean_perplexity": pytest.approx(85)}


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        (
            [("a", 1, 0, 60.1, 3), ("a", 2, 0, 150, 2)],
            "the curve runs from L0 60.1 to 150.0, the range from 60.0 to 140.0",
        ),
        ([("a", 1, 0, 50, 3), ("a", 2, 0, 139.9, 2)], "to 139.9"),
        ([("a", 1, 0, 60, 3)], "one point is no curve"),
        ([("a", 1, 0, 60, 3), ("a", 2, 0, 60, 5)], "one point is no curve"),
    ],
)
def test_a_curve_that_does_not_span_the_range_has_a_reason_instead(
    catalog: Catalog, points: list[tuple[str, float, int, float, float]], reason: str
) -> None:
    sweep(catalog, points)
    (row,) = asked(catalog, "SELECT * FROM pareto_area")
    assert (row["area"], row["mean_perplexity"], row["seeds_spanning"], row["seed_area"]) == (None, None, 0, None)
    assert reason in row["reason"]


def test_a_curve_that_ends_with_the_range_spans_it(catalog: Catalog) -> None:
    sweep(catalog, [("a", 1, 0, 60, 30), ("a", 2, 0, 140, 10)])
    (row,) = asked(catalog, "SELECT area, reason FROM pareto_area")
    assert row == {"area": pytest.approx(80 * 20), "reason": None}


def test_an_empty_range_has_no_area(catalog: Catalog) -> None:
    sweep(catalog, [("a", 1, 0, 60, 30), ("a", 2, 0, 140, 10)], l0_low=100, l0_high=100)
    (row,) = asked(catalog, "SELECT area, reason FROM pareto_area")
    assert row == {"area": None, "reason": "the range of L0 of the sweep is empty"}


def test_seeds_have_areas_of_their_own(catalog: Catalog) -> None:
    points = [("a", 1, 0, 60, 30), ("a", 2, 0, 140, 10), ("a", 1, 1, 60, 34), ("a", 2, 1, 140, 12)]
    # The third seed has one point in the middle: no curve, and no area.
    sweep(catalog, [*points, ("a", 1, 2, 70, 32)])
    seeds = asked(catalog, "SELECT seed, area, reason FROM pareto_seed_area WHERE seed IS NOT NULL ORDER BY seed")
    assert [row["area"] for row in seeds] == [pytest.approx(1600), pytest.approx(1840), None]
    (row,) = asked(catalog, "SELECT * FROM pareto_area")
    assert (row["seeds"], row["seeds_spanning"]) == (3, 2)
    assert row["seed_area"] == pytest.approx(1720)
    assert row["seed_area_std"] == pytest.approx(math.sqrt(2 * 120**2))
    assert row["seed_mean_perplexity"] == pytest.approx(21.5)
    assert row["seed_mean_perplexity_std"] == pytest.approx(math.sqrt(2 * 120**2) / 80)
    # The means: at L0 190/3 and 140.
    assert row["reason"] is not None


def test_corpora_and_splits_have_curves_of_their_own(catalog: Catalog) -> None:
    sweep(catalog, [("a", 1, 0, 60, 30), ("a", 2, 0, 140, 10)])
    with catalog.write("more") as tx:
        for corpus, split, factor in (("c", "val", 2), ("d", "test", 3)):
            where = {"corpus": corpus, "split": split}
            tx.insert("evaluations", [evaluation("a-1-0", 60, 30 * factor, **where)])
            tx.insert("evaluations", [evaluation("a-2-0", 140, 10 * factor, **where)])
    rows = asked(catalog, "SELECT corpus, split, area, seeds FROM pareto_area ORDER BY ALL")
    assert [(r["corpus"], r["split"], r["seeds"]) for r in rows] == [
        ("c", "test", 1),
        ("c", "val", 1),
        ("d", "test", 1),
    ]
    assert [r["area"] for r in rows] == [pytest.approx(1600 * factor) for factor in (1, 2, 3)]


def test_a_sweep_of_others_does_not_touch_the_front(catalog: Catalog) -> None:
    sweep(catalog, [("a", 1, 0, 60, 30)])
    sweep(catalog, [("z", 1, 0, 50, 3)], sweep="other")
    assert [row["on_front"] for row in asked(catalog, "SELECT on_front FROM pareto")] == [True, True]
