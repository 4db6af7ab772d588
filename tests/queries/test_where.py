"""A refresh of some keys alone leaves the rows, and the problems, of all others as they were."""

import json
from pathlib import Path
from typing import Any

import pytest

from catalog import Catalog
from queries.refresh.engine import Options, StepResult, plan, refresh
from queries.refresh.options import where
from tests.queries.made import CONCEPT, documents, make


def concept(name: str, *words: str) -> dict[str, Any]:
    return {**CONCEPT, "concept": name, "definition": json.dumps({"words": list(words), "ignore_case": True})}


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """Three concepts, one of which matches no token; their positions are found."""
    concepts = [concept("x", "matrix"), concept("y", "linear"), concept("nowhere", "qqqq")]
    return make(tmp_path / "catalog", documents(30, seed=5), concepts=concepts).open()


def counts(catalog: Catalog) -> dict[str, int]:
    return dict(catalog.rows("SELECT concept, count(*) FROM concept_positions GROUP BY concept"))


def some(catalog: Catalog, condition: str) -> StepResult:
    (result,) = [
        result
        for result in refresh(catalog, ("concept_positions",), Options(where=where(condition, catalog)))
        if result.step == "concept_positions"
    ]
    assert result.error is None
    return result


def test_what_a_condition_leaves_out_stays_where_all_that_it_names_is_stale(catalog: Catalog) -> None:
    refresh(catalog, ("concept_positions",))
    before = counts(catalog)
    assert before.keys() == {"x", "y"}
    problems = catalog.rows("SELECT subject, reason FROM problems WHERE stage = 'concept_positions'")
    assert [subject for subject, _ in problems] == ["nowhere"]
    with catalog.write("another definition") as tx:
        definition = concept("x", "matrix", "value")["definition"]
        tx.execute("UPDATE lake.concepts SET definition = ? WHERE concept = 'x'", [definition])
    options = Options(where=where("concept = 'x'", catalog))
    planned = next(r for r in plan(catalog, ("concept_positions",), options) if r.step == "concept_positions")
    assert planned.changes.removed == 0
    result = some(catalog, "concept = 'x'")
    after = counts(catalog)
    assert after["x"] > before["x"]
    assert after["y"] == before["y"]
    assert result.changes.removed == 0
    assert catalog.rows("SELECT subject, reason FROM problems WHERE stage = 'concept_positions'") == problems
    refresh(catalog, ("concept_positions",))
    assert counts(catalog) == after


def test_a_plan_tells_what_keep_leaves(mine: Catalog) -> None:
    catalog = mine
    labels = catalog.value("SELECT count(*) FROM labels")
    assert labels
    with catalog.write("other input") as tx:
        tx.execute("UPDATE lake.labels SET input = 'other'")
        tx.execute("DELETE FROM lake.runs WHERE step = 'labels'")
    options = Options(keep=frozenset({"labels"}))
    planned = next(r for r in plan(catalog, ("labels",), options) if r.step == "labels")
    assert (planned.left, planned.changes.changed) == (labels, 0)
