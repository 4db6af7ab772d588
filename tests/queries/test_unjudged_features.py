"""Features that a scorer cannot judge for want of windows are counted, beside those that it judges."""

from typing import Any

import pytest

from catalog import Catalog
from queries.refresh.engine import refresh
from queries.refresh.unjudged import unjudged
from tests.queries.made import WORD, scorer

MANY = 1000


def of(protocol: str, name: str | None = None, **settings: Any) -> dict[str, Any]:
    provider = "openai" if protocol == "intruder" else "lexical"
    return {**scorer(name or protocol, provider, 10, **settings), "protocol": protocol}


def counted(catalog: Catalog) -> dict[str, int]:
    rows = [row for row in unjudged(catalog) if row["reason"].startswith("features with too few windows")]
    assert {row["stage"] for row in rows} <= {"judgements"}
    return {row["subject"].removeprefix("SAE s, scorer "): row["count"] for row in rows}


def test_features_without_enough_windows_are_counted_by_scorer(mine: Catalog) -> None:
    with mine.write("scorers") as tx:
        kinds = [of("embedding"), of("example_embedding"), of("fuzzing"), of("intruder", batch=3)]
        tx.insert("scorers", [*kinds, of("fuzzing", "hard", negatives="firing"), of("intruder", "vast", batch=MANY)])
    judgeable = mine.value("SELECT count(DISTINCT feature) FROM scorer_windows WHERE scorer = 'vast'")
    labelled = mine.value("SELECT count(label) FROM labels")
    assert 0 < labelled < judgeable
    # A trial of so many windows has nobody; all others find windows enough.
    assert counted(mine) == {"vast": judgeable}
    with mine.write("as from text where one feature fires in one window") as tx:
        kept = mine.value(
            f"SELECT min(start) FROM contexts WHERE feature = {WORD} AND split = 'test' AND kind = 'stratum' "
            f"AND activation >= (SELECT any_value(threshold) FROM scorer_windows WHERE feature = {WORD})"
        )
        firing = f"feature = {WORD} AND split = 'test' AND kind = 'stratum'"
        tx.execute(f"DELETE FROM lake.contexts WHERE {firing} AND start <> {kept}")
    assert counted(mine) == {"vast": judgeable, "hard": 1, "intruder": 1}
    with mine.write("and no silent window") as tx:
        tx.execute(f"DELETE FROM lake.contexts WHERE feature = {WORD} AND kind = 'random' AND activation = 0")
        tx.execute(f"DELETE FROM lake.contexts WHERE feature = {WORD} AND split = 'train' AND kind = 'stratum'")
    found = counted(mine)
    below = mine.value(f"SELECT count(*) FROM contexts WHERE feature = {WORD} AND split = 'test' AND kind = 'random'")
    expected = {"vast": judgeable, "hard": 1, "intruder": 1, "fuzzing": 1, "example_embedding": 1}
    assert found == (expected if below else {**expected, "embedding": 1})


@pytest.mark.parametrize("settings", ["no", "[]", "null", '{"batch": "x", "negatives": [1]}', '{"batch": 0}'])
def test_settings_that_are_none_are_one_error_that_names_the_scorer(settings: str, mine: Catalog) -> None:
    with mine.write("somebody else's scorers") as tx:
        tx.insert("scorers", [{**of(protocol), "settings": settings} for protocol in ("fuzzing", "intruder")])
    unjudged(mine)
    results = {result.step: result for result in refresh(mine, ("scores", "scores_intruder"))}
    for protocol in ("fuzzing", "intruder"):
        result = results[f"judgements_{protocol}"]
        assert result.state == "failed"
        assert f"the scorer '{protocol}' of the catalog has no usable" in str(result.error)
