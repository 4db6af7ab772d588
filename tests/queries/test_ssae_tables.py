"""The study's tables where something was not run: a text without val, a family that is missing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from catalog import Catalog
from queries.ask.guard import run
from queries.studies.ssae.figures import draw_figures
from queries.studies.ssae.study import table
from tests.empty import make_empty
from tests.queries.swept import evaluation, insert

SAE = {"model": "m", "hookpoint": "h", "architecture": "relu", "width": 8, "d": 4, "weights": "-", "digest": "-"}
SAE |= {"config": "{}"}
TARGETS = (20.0, 145.0)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with make_empty(tmp_path / "catalog") as opened:
        yield opened


def measure(catalog: Catalog, families: dict[str, tuple[float, ...]]) -> None:
    """Runs of each family at each target, one seed for each perplexity on the domain's val; ood has test alone."""
    saes, sweeps, found = [], [], []
    for family, perplexities in families.items():
        for target in TARGETS:
            for seed, val in enumerate(perplexities):
                sae = f"{family}-{target:g}-{seed}"
                saes.append({**SAE, "sae": sae})
                row = {"sweep": "ssae", "sae": sae, "family": family, "setting": "l0", "coefficient": target}
                sweeps.append({**row, "seed": seed, "l0_low": 60.0, "l0_high": 140.0})
                found += [
                    evaluation(sae, target, val, corpus="domain", split="val"),
                    evaluation(sae, target, 30 + seed, corpus="domain"),
                    evaluation(sae, target, 50 + seed, corpus="ood"),
                ]
    insert(catalog, "saes", saes)
    insert(catalog, "sweeps", sweeps)
    insert(catalog, "evaluations", found)


def rows(catalog: Catalog, name: str) -> list[dict[str, Any]]:
    return run(table(name), catalog).read_all().to_pylist()


def test_points_are_chosen_on_the_domains_val_and_shown_on_every_text(catalog: Catalog) -> None:
    # Of `even`, two seeds are as good on val: the first is taken.
    measure(catalog, {"full": (22.0, 20.0, 21.0), "even": (20.0, 20.0)})
    points = rows(catalog, "points")
    assert [(p["corpus"], p["family"], p["target"], p["seed"], p["perplexity"]) for p in points] == [
        (corpus, family, target, seed, base + seed)
        for corpus, base in (("domain", 30), ("ood", 50))
        for family, seed in (("even", 0), ("full", 1))
        for target in TARGETS
    ]


def test_the_other_texts_val_chooses_nothing(catalog: Catalog) -> None:
    measure(catalog, {"full": (20.0, 21.0)})
    insert(catalog, "evaluations", [evaluation("full-20-1", 20, 1.0, corpus="ood", split="val")])
    assert {(p["corpus"], p["seed"]) for p in rows(catalog, "points")} == {("domain", 0), ("ood", 0)}


def test_the_areas_of_other_families_need_none_of_the_whole_pool(catalog: Catalog) -> None:
    measure(catalog, {"dense": (20.0, 20.5), "seed": (21.0, 21.5)})
    areas = rows(catalog, "area")
    assert [(a["corpus"], a["family"]) for a in areas] == [
        ("domain", "dense"),
        ("domain", "seed"),
        ("ood", "dense"),
        ("ood", "seed"),
    ]
    assert {(a["less_full"], a["ties_with_full"]) for a in areas} == {(None, None)}
    assert {a["ties_with_best"] for a in areas} == {True}
    assert [a["perplexity"] for a in areas] == [pytest.approx(value, abs=0.01) for value in (30.5, 30.5, 50.5, 50.5)]


def test_figures_are_drawn_without_the_whole_pool(catalog: Catalog) -> None:
    pytest.importorskip("matplotlib")
    measure(catalog, {"dense": (20.0,)})
    drawn = {path.stem: path.read_text() for path in draw_figures(catalog.root, "ssae", "domain", "ood", "full")}
    assert "2 of 2 points are not drawn: full has no points" in drawn["figure1a"]
    assert "<!-- dense -->" in drawn["figure5"]
