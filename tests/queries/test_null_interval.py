"""The interval of the null covers what labels of others do on windows of the feature, of which both are samples."""

import duckdb
import numpy as np
import pytest

from queries.refresh.step import packaged_steps

FEATURES, LABELS, FIRING, OTHERS = 300, 5, 12, 60


def judged(rng: np.random.Generator, wide: float) -> list[tuple[object, ...]]:
    """Judgements of FEATURES x LABELS: how likely a yes is depends on the label and on the window."""
    rows: list[tuple[object, ...]] = []
    for feature in range(FEATURES):
        windows = np.clip(rng.normal(0, wide, FIRING + OTHERS), -0.3, 0.3)
        for label in range(1, LABELS + 1):
            chance = np.clip(0.3 + rng.normal(0, wide) + windows, 0, 1)
            said = rng.random(FIRING + OTHERS) < chance
            rows += [
                (
                    "s",
                    feature,
                    1000 + label,
                    "e",
                    "j",
                    "c",
                    i,
                    "test",
                    i < FIRING,
                    bool(yes),
                    None,
                    0.1,
                    "detection",
                    None,
                )
                for i, yes in enumerate(said)
            ]
        rows += [
            ("s", feature, feature, "e", "j", "c", i, "test", i < FIRING, i < FIRING, None, 0.1, "detection", None)
            for i in range(FIRING + OTHERS)
        ]
    return rows


def scored(rows: list[tuple[object, ...]]) -> list[tuple[float, float, float]]:
    """(accuracy, low, high) of the null of each feature, by the packaged step."""
    step = next(step for step in packaged_steps() if step.name == "scores")
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE judgements (sae VARCHAR, feature INTEGER, label_feature INTEGER, explainer VARCHAR, "
            "scorer VARCHAR, corpus VARCHAR, example BIGINT, split VARCHAR, active BOOLEAN, predicted BOOLEAN, "
            "probability DOUBLE, threshold DOUBLE, protocol VARCHAR, similarity DOUBLE)"
        )
        columns = list(zip(*rows, strict=True))
        names = ("a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n")
        table = {name: list(column) for name, column in zip(names, columns, strict=True)}
        import pyarrow as pa

        made = pa.table({**table, **{name: pa.array(table[name], pa.float64()) for name in ("k", "n")}})
        connection.execute("INSERT INTO judgements SELECT * FROM made")
        assert made.num_rows == len(rows)
        connection.execute(
            "CREATE TABLE firing_rates (sae VARCHAR, feature INTEGER, role VARCHAR, name VARCHAR, firing BIGINT, "
            "windows BIGINT)"
        )
        relation = connection.sql(step.query, params=dict(step.parameters))
        found = relation.project(
            "balanced_accuracy_null, balanced_accuracy_null_low, balanced_accuracy_null_high"
        ).fetchall()
    return found


@pytest.mark.parametrize("wide", [0.0, 0.1, 0.2])
def test_the_interval_of_the_null_covers_its_mean(wide: float) -> None:
    """A label that says yes as often in firing windows as in others: balanced accuracy one half."""
    found = scored(judged(np.random.default_rng(0), wide))
    assert len(found) == FEATURES
    covered = np.mean([low <= 0.5 <= high for _, low, high in found])
    assert covered >= 0.93
    # One label's interval would be wider: five say more than one.
    alone = 1.96 * np.sqrt(0.3 * 0.7 / FIRING + 0.3 * 0.7 / OTHERS) / 2
    assert np.mean([high - low for _, low, high in found]) < 2 * 0.95 * alone
