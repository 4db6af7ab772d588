"""Figures and tables of a sweep against values computed by hand."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from catalog import Catalog
from queries.figures import curves, draw_figures
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
