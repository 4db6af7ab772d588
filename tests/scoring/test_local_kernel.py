"""A scorer and its plan with a model of this process, on a made catalog: rows, cost, and what a second run computes."""

import json
from pathlib import Path

import pytest

from catalog import Catalog
from queries.refresh.engine import plan, refresh
from queries.refresh.options import Options
from tests.queries.made import STEPS, make, scorer

PREDICTOR = 'system = "Does it hold what is described?"\nuser = "Description: $explanation\\n$examples\\n"\n'


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    row = scorer("local", "transformers", examples=4, template=PREDICTOR, base_url=None, batch=2)
    return make(tmp_path / "catalog", scorers=[{**row, "model": "embedded"}]).open()


def test_judgements_of_a_local_model_have_probabilities_and_cost_calls_and_tokens_alone(catalog: Catalog) -> None:
    with catalog:
        refresh(catalog, ("labels",), Options())
        counted = {result.step: result for result in plan(catalog, STEPS)}["judgements"].estimate
        assert counted is not None
        assert (counted.asks, counted.cost) == ((), 0.0)
        results = {result.step: result for result in refresh(catalog, STEPS, Options())}
        assert [result.error for result in results.values() if result.error] == []
        done = results["judgements"]
        assert done.calls == counted.calls > 0
        assert (done.cost, done.failed) == (0.0, 0)
        assert done.tokens > done.calls
        for predicted, probability in catalog.rows("SELECT predicted, probability FROM judgements"):
            assert predicted == (probability > 0.5)
        assert catalog.value("SELECT count(*) FROM scores WHERE auroc IS NULL") == 0
        # Answers are kept: rows that are lost come back without a call, and are the same.
        rows = catalog.rows("SELECT * EXCLUDE (input) FROM judgements ORDER BY ALL")
        with catalog.write("lose the judgements") as tx:
            tx.execute("DELETE FROM lake.judgements")
            tx.execute("DELETE FROM lake.runs WHERE step = 'judgements'")
        again = {result.step: result for result in refresh(catalog, STEPS, Options())}
        assert again["judgements"].calls == 0
        assert catalog.rows("SELECT * EXCLUDE (input) FROM judgements ORDER BY ALL") == rows


def test_a_model_that_is_not_there_is_said_and_other_scorers_go_on(tmp_path: Path) -> None:
    gone = {**scorer("gone", "transformers", examples=2, base_url=None), "model": str(tmp_path / "nothing")}
    with make(tmp_path / "catalog", scorers=[gone, scorer("detection", examples=4)]).open() as catalog:
        results = {result.step: result for result in refresh(catalog, STEPS, Options())}
        assert "does not exist" in str(results["judgements"].error)
        assert catalog.rows("SELECT DISTINCT scorer FROM judgements") == [("detection",)]
        assert json.loads(catalog.value("SELECT settings FROM scorers WHERE scorer = 'gone'"))
