"""Draws the figures of "Decoding Dark Matter" (Muhamed et al. 2024) from the catalog's tables, as SVG files.

matplotlib is an extra (`pip install saeql[plot]`): the tables say the same.
"""

from collections.abc import Callable
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from catalog import Catalog
from catalog.errors import InputError

_COVERAGE = (
    "SELECT sae, 2::DOUBLE ** bucket, share FROM tail_coverage WHERE corpus = ? AND split = 'test' ORDER BY sae, bucket"
)
_TAIL = (
    "SELECT sae, 100 * token_share, proportion FROM tail_curve WHERE corpus = ? AND split = 'test' ORDER BY sae, point"
)
_RANKS = "SELECT sae, rank, firings FROM firing_ranks WHERE corpus = ? AND split = 'test' ORDER BY sae, rank"
_DIFFERENCES = (
    "SELECT sae, bin, features FROM firing_differences AS d WHERE corpus = ? AND split = 'test' "
    "AND baseline <> 'general' ORDER BY sae, bin"
)
TILTED = ("dense", "dense-term")
"""Families of figure 6, beside the baseline: the same text under the mean and under the tilted loss."""
_AREAS = (
    "SELECT family, corpus, mean_perplexity FROM pareto_area WHERE sweep = ? AND split = 'test' "
    "AND mean_perplexity IS NOT NULL ORDER BY corpus, mean_perplexity"
)


def draw_figures(root: Path, sweep: str, domain: str, ood: str, baseline: str) -> list[Path]:
    """Draw what the catalog under `root` has tables for into `plots/`; the files.

    Raises InputError if matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise InputError("plots need matplotlib: pip install 'saeql[plot]'")
    import matplotlib

    matplotlib.use("svg")
    folder = root / "plots"
    folder.mkdir(exist_ok=True)
    drawn = []
    with Catalog(root, read_only=True) as catalog:
        figures: list[tuple[str, Callable[[Any], None], tuple[str, str, str]]] = []
        for number, of_tilt, corpus in (("1", "6a", domain), ("4", "6b", ood)):
            points = curves(catalog, sweep, corpus, baseline)
            relative = [(f, l0, p - b) for f, l0, p, b in points if b is not None]
            absolute = [(f, l0, p) for f, l0, p, _ in points]
            tilted = [point for point in absolute if point[0] in (baseline, *TILTED)]
            said = f"test of {corpus}, SAE spliced in"
            within = said + _left_out(points, baseline)
            figures.append((f"{number}a", _lines(relative), (within, "L0", f"perplexity less that of {baseline}")))
            figures.append((f"{number}b", _lines(absolute), (said, "L0", "perplexity")))
            figures.append((of_tilt, _lines(tilted), (f"{said}: the tilted loss", "L0", "perplexity")))
        domain_of = f"test of {domain}"
        tail = catalog.rows(_COVERAGE, [domain])
        figures.append(("2a", _lines(tail, log="x"), (domain_of, "token frequency", "share of tokens with a feature")))
        curve = catalog.rows(_TAIL, [domain])
        figures.append(("2b", _lines(curve, "-"), (domain_of, "% of tokens, rarest first", "cumulative, normalised")))
        ranks = catalog.rows(_RANKS, [domain])
        figures.append(("3a", _lines(ranks, "-", log="y"), (domain_of, "rank of feature", "firings")))
        areas = catalog.rows(_AREAS, [sweep])
        figures.append(("5", _bars(areas), ("mean perplexity over the L0 range", "", "perplexity")))
        differences = catalog.rows(_DIFFERENCES, [domain])
        said = f"less those of {baseline}: sign x (1 + octave)"
        figures.append(("7", _lines(differences, "-"), (domain_of, f"firings {said}", "features")))
        for number, draw, labels in figures:
            drawn.append(_save(folder / f"figure{number}.svg", draw, labels))
    return drawn


def curves(catalog: Catalog, sweep: str, corpus: str, baseline: str) -> list[tuple[str, float, float, float | None]]:
    """(family, L0, perplexity, perplexity of `baseline` at that L0, or None beyond its points) on test, by L0."""
    sql = (resources.files("queries.studies.ssae") / "curves.sql").read_text()
    return catalog.rows(sql, {"sweep": sweep, "corpus": corpus, "baseline": baseline})


def _left_out(points: list[tuple[str, float, float, float | None]], baseline: str) -> str:
    """What a caption says of the points that have no difference."""
    beyond = sum(b is None for *_, b in points)
    if not beyond:
        return ""
    reach = [l0 for family, l0, *_ in points if family == baseline]
    why = (
        f"{baseline} has points from L0 {min(reach):.1f} to {max(reach):.1f}" if reach else f"{baseline} has no points"
    )
    return f"\n{beyond} of {len(points)} points are not drawn: {why}"


def _series(rows: list[tuple[Any, ...]]) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for name, x, y in rows:
        if x is not None and y is not None:
            found.setdefault(str(name), []).append((float(x), float(y)))
    return found


def _lines(rows: list[tuple[Any, ...]], style: str = "o-", log: str = "") -> Callable[[Any], None]:
    """One line for each name in (name, x, y)."""

    def draw(axes: Any) -> None:
        for name, points in _series(rows).items():
            axes.plot([x for x, _ in points], [y for _, y in points], style, label=name, markersize=3)
        if "x" in log:
            axes.set_xscale("log")
        if "y" in log:
            axes.set_yscale("symlog")

    return draw


def _bars(rows: list[tuple[Any, ...]]) -> Callable[[Any], None]:
    """(group, series, height) as bars."""

    def draw(axes: Any) -> None:
        names = list(dict.fromkeys(row[0] for row in rows))
        series = list(dict.fromkeys(row[1] for row in rows))
        heights = {(group, one): height for group, one, height in rows}
        for i, one in enumerate(series):
            places = [n + i / (len(series) + 1) for n in range(len(names))]
            axes.bar(places, [heights.get((n, one), 0) for n in names], 1 / (len(series) + 1), label=one)
        axes.set_xticks(range(len(names)), names, rotation=30)
        if heights:
            axes.set_ylim(bottom=0.98 * min(heights.values()))

    return draw


def _save(path: Path, draw: Callable[[Any], None], labels: tuple[str, str, str]) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    draw(axes)
    title, x, y = labels
    axes.set(title=title, xlabel=x, ylabel=y)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)
    figure.savefig(path)
    return path
