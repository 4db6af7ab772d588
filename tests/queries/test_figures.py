"""Figures and tables of a sweep against values computed by hand."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from catalog import Catalog
from queries.ask.guard import run
from queries.studies.ssae.figures import curves, draw_figures
from queries.studies.ssae.study import table
from tests.empty import make_empty
from tests.queries.swept import sweep


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with make_empty(tmp_path / "catalog") as opened:
        yield opened


def line(family: str, *l0: float) -> list[tuple[str, float, int, float, float]]:
    """Points of a family on the line perplexity = 200 - L0."""
    return [(family, i, 0, x, 200 - x) for i, x in enumerate(l0)]


def test_two_families_on_one_line_differ_by_nothing_wherever_the_baseline_reaches(catalog: Catalog) -> None:
    # Neither the ends nor a point of the other family stand at a whole L0.
    sweep(catalog, [*line("full", 30.4, 99.7, 198.6), *line("other", 30.4, 31.5, 99.7, 150.2, 198.6)])
    found = curves(catalog, "w", "c", "full")
    assert [(family, l0) for family, l0, *_ in found] == [
        ("full", 30.4),
        ("full", 99.7),
        ("full", 198.6),
        ("other", 30.4),
        ("other", 31.5),
        ("other", 99.7),
        ("other", 150.2),
        ("other", 198.6),
    ]
    assert [p - b for *_, p, b in found if b is not None] == [pytest.approx(0, abs=1e-9)] * 8


def test_nothing_is_extrapolated_from_the_baseline(catalog: Catalog) -> None:
    sweep(catalog, [*line("full", 40, 100), *line("other", 39.9, 70, 100.1)])
    baseline = {(family, l0): b for family, l0, _, b in curves(catalog, "w", "c", "full")}
    assert baseline["other", 39.9] is None
    assert baseline["other", 70] == pytest.approx(130)
    assert baseline["other", 100.1] is None


def test_a_baseline_of_one_point_is_known_at_that_point(catalog: Catalog) -> None:
    sweep(catalog, [*line("full", 40), *line("other", 40, 41)])
    assert [b for *_, b in curves(catalog, "w", "c", "full")] == [pytest.approx(160), pytest.approx(160), None]


def test_a_figure_says_which_points_have_no_difference(catalog: Catalog) -> None:
    pytest.importorskip("matplotlib")
    sweep(catalog, [*line("full", 40, 100), *line("dense", 39.9, 70, 100.1), *line("seed", 50, 60)])
    drawn = {path.stem: path.read_text() for path in draw_figures(catalog.root, "w", "c", "elsewhere", "full")}
    said = "2 of 7 points are not drawn: full has points from L0 40.0 to 100.0"
    assert said in drawn["figure1a"]
    assert not any(said in svg for name, svg in drawn.items() if name != "figure1a")
    # Figure 6 holds the tilted loss beside the mean on the same text, and the baseline.
    assert "<!-- seed -->" in drawn["figure1b"]
    assert "<!-- dense -->" in drawn["figure6a"]
    assert "<!-- seed -->" not in drawn["figure6a"]
    assert "figure6b" in drawn


def pair(family: str, perplexity: float) -> list[tuple[str, float, int, float, float]]:
    """Two seeds 0.2 apart at L0 60, 10 at L0 140: a mean of (perplexity + 10) / 2 with a spread of 0.1 * sqrt(2)."""
    return [
        (family, 1, 0, 60, perplexity - 0.1),
        (family, 1, 1, 60, perplexity + 0.1),
        (family, 2, 0, 140, 10),
    ]


def areas(catalog: Catalog) -> dict[str, dict[str, Any]]:
    return {row["family"]: row for row in run(table("area"), catalog).read_all().to_pylist()}


def test_ties_are_judged_against_the_whole_pool_and_against_the_best(catalog: Catalog) -> None:
    points = [*pair("full", 30), *pair("best", 28), *pair("near", 28.6), *pair("between", 29), *pair("far", 29.4)]
    sweep(catalog, [*points, ("short", 1, 0, 60, 20), ("short", 1, 1, 60, 21), ("short", 2, 0, 100, 15)], sweep="ssae")
    rows = areas(catalog)
    assert {name: row["perplexity"] for name, row in rows.items()} == {
        "best": 19,
        "near": 19.3,
        "between": 19.5,
        "far": 19.7,
        "full": 20,
        "short": None,
    }
    # Twice the spread of a difference: 2 * sqrt(0.02 + 0.02) = 0.4.
    assert {name: (row["ties_with_full"], row["ties_with_best"]) for name, row in rows.items()} == {
        "best": (False, True),
        "near": (False, True),
        "between": (False, False),
        "far": (True, False),
        "full": (True, False),
        "short": (None, None),
    }


def test_a_family_without_a_spread_ties_with_nothing_known(catalog: Catalog) -> None:
    # The best has one seed: another family's spread must not stand in for its own.
    best = [("best", 1, 0, 60, 28.0), ("best", 2, 0, 140, 10.0)]
    sweep(catalog, [*pair("full", 30), *pair("near", 28.2), *best], sweep="ssae")
    rows = areas(catalog)
    assert {name: row["ties_with_best"] for name, row in rows.items()} == {"best": None, "near": None, "full": None}


def test_families_without_an_area_have_an_order_too(catalog: Catalog) -> None:
    names = ["full", *(f"f{i}" for i in range(20))]
    sweep(catalog, [(name, 1, 0, 60, 20) for name in reversed(names)], sweep="ssae")
    assert list(areas(catalog)) == sorted(names)
