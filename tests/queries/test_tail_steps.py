"""Tail coverage and firing counts against loops over all tokens and activations, of a real and of a made catalog."""

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from catalog import Catalog
from catalog.errors import StepError
from queries.refresh.engine import Options, plan, refresh
from queries.refresh.step import packaged_steps
from tests.catalog.small_catalog import shard
from tests.queries.made import WIDTH, WORDS

STEPS = ("token_frequency", "firing_differences", "feature_stats")
"""Those that need neither a model nor an SAE's weights."""


@pytest.fixture(scope="module")
def made(raw_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made catalog with a second SAE, fine-tuned from the first, and a logit lens for both."""
    root = Path(shutil.copytree(raw_root, tmp_path_factory.mktemp("tail") / "catalog"))
    sae = {"model": "m", "hookpoint": "h", "architecture": "topk", "width": WIDTH, "d": 4, "k": 4}
    sae |= {"weights": "none", "digest": "none", "config": "{}"}
    with Catalog(root) as catalog:
        with catalog.write("more SAEs") as tx:
            tx.insert("saes", [{**sae, "sae": "child", "parent": "s"}, {**sae, "sae": "silent", "parent": "s"}])
            tx.insert("saes", [{**sae, "sae": "wide", "width": WIDTH + 1, "parent": "s"}])
            # Whose harvest stopped half way.
            tx.insert("saes", [{**sae, "sae": "half", "parent": "s"}])
            row = {"sweep": "w", "family": "f", "setting": "sparsity", "coefficient": 1.0, "seed": 0}
            tx.insert("sweeps", [{**row, "sae": "s", "baseline": "child"}])
        for name, kept in {"child": "position % 3 <> 0 AND feature <> 1", "silent": "false", "wide": "true"}.items():
            for number in range(2):
                _harvest(catalog, name, number, kept)
        _harvest(catalog, "half", 0, "true")
        rows = []
        for name in ("s", "child"):
            rng = np.random.default_rng(len(name))
            for feature in range(WIDTH):
                for rank, token in enumerate(rng.permutation(len(WORDS))[:12].tolist(), start=1):
                    row = {"sae": name, "feature": feature, "rank": rank, "token": token, "logit": 1.0}
                    rows.append({**row, "side": "top" if rank < 12 else "bottom"})
        _insert(catalog, "logit_lens", rows)
        assert [r.error for r in refresh(catalog, STEPS) if r.error] == []
        # A refresh would ask for the weights first, to fill logit_lens.
        for step in ("covered_tokens", "tail_coverage", "tail_curve"):
            _insert(catalog, step, run_query(catalog, step))
    return root


def _insert(catalog: Catalog, table: str, rows: list[dict[str, Any]]) -> None:
    with catalog.write(table) as tx, catalog.scratch() as scratch:
        tx.execute(f"INSERT INTO lake.{table} FROM {scratch.rows(rows, like=table)}")


def _harvest(catalog: Catalog, name: str, number: int, kept: str) -> None:
    moved = f"SELECT * REPLACE ('{name}' AS sae) FROM activations WHERE sae = 's' AND shard = {number} AND {kept}"
    found = catalog.arrow(f"{moved} ORDER BY feature, position")
    schema = catalog.arrow("FROM lake.activations LIMIT 0").schema
    with catalog.write(f"harvest {name}") as tx:
        shard(catalog, tx, "activations", pa.table(found.to_pydict(), schema), number, name)


@pytest.fixture(scope="module", params=["real", "made"])
def catalog(request: pytest.FixtureRequest) -> Iterator[Catalog]:
    root = request.getfixturevalue({"real": "built", "made": "made"}[request.param])
    with Catalog(root, read_only=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def made_catalog(made: Path) -> Iterator[Catalog]:
    with Catalog(made, read_only=True) as opened:
        yield opened


def run_query(catalog: Catalog, name: str, **parameters: Any) -> list[dict[str, Any]]:
    """The rows of a step's query over what the tables hold now."""
    step = next(step for step in packaged_steps() if step.name == name)
    cursor = catalog.connection.execute(step.query, {**step.parameters, **parameters})
    names = [column[0] for column in cursor.description or []]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def table(catalog: Catalog, name: str) -> list[dict[str, Any]]:
    cursor = catalog.connection.execute(f"SELECT * FROM {name} ORDER BY ALL")
    names = [column[0] for column in cursor.description or []]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def split_of(catalog: Catalog) -> dict[int, str]:
    """The split of each position of the one corpus."""
    splits = dict(catalog.rows("SELECT document, split FROM documents"))
    return {position: splits[document] for position, document in catalog.rows("SELECT position, document FROM tokens")}


def counts(catalog: Catalog, split: str) -> Counter[int]:
    splits = split_of(catalog)
    tokens = catalog.rows("SELECT position, token FROM tokens")
    return Counter(token for position, token in tokens if splits[position] == split)


def firings(catalog: Catalog, sae: str, split: str | None) -> Counter[int]:
    splits = split_of(catalog)
    fired = catalog.rows("SELECT feature, position FROM activations WHERE sae = ?", [sae])
    return Counter(feature for feature, position in fired if split is None or splits[position] == split)


def covered(catalog: Catalog, sae: str, k: int = 10, least: int = 1) -> set[int]:
    """Tokens among the k top logits of a live feature."""
    live = firings(catalog, sae, None)
    lens = catalog.rows("SELECT feature, rank, token FROM logit_lens WHERE sae = ? AND side = 'top'", [sae])
    return {token for feature, rank, token in lens if rank <= k and live[feature] >= least}


def saes_with_a_lens(catalog: Catalog) -> list[str]:
    return [sae for (sae,) in catalog.rows("SELECT DISTINCT sae FROM logit_lens ORDER BY sae")]


def test_token_frequencies_are_counts_of_each_split(catalog: Catalog) -> None:
    expected = {(split, token): n for split in ("train", "val", "test") for token, n in counts(catalog, split).items()}
    found = {(row["split"], row["token"]): row["occurrences"] for row in table(catalog, "token_frequency")}
    assert found == expected


def test_a_token_is_covered_by_the_live_features_that_write_it(catalog: Catalog) -> None:
    expected = []
    for sae in saes_with_a_lens(catalog):
        live = firings(catalog, sae, None)
        ranks: dict[int, list[int]] = {}
        for feature, rank, token in catalog.rows(
            "SELECT feature, rank, token FROM logit_lens WHERE sae = ? AND side = 'top' AND rank <= 10", [sae]
        ):
            if live[feature]:
                ranks.setdefault(token, []).append(rank)
        expected += [
            {"sae": sae, "token": token, "features": len(found), "rank": min(found)}
            for token, found in sorted(ranks.items())
        ]
    assert table(catalog, "covered_tokens") == expected


def test_what_counts_as_live_and_as_top_are_parameters(made_catalog: Catalog) -> None:
    for k, least in ((1, 1), (3, 50), (11, 10**9)):
        rows = run_query(made_catalog, "covered_tokens", k=k, min_firings=least)
        for sae in ("s", "child"):
            assert {row["token"] for row in rows if row["sae"] == sae} == covered(made_catalog, sae, k, least)


def test_coverage_of_each_octave_of_frequency(catalog: Catalog) -> None:
    found = {(row["sae"], row["bucket"]): row for row in table(catalog, "tail_coverage")}
    expected = set()
    for sae in saes_with_a_lens(catalog):
        has = covered(catalog, sae)
        octaves: dict[int, list[tuple[int, int]]] = {}
        for token, n in counts(catalog, "test").items():
            octaves.setdefault(n.bit_length() - 1, []).append((token, n))
        for octave, tokens in octaves.items():
            expected.add((sae, octave))
            row = found[sae, octave]
            assert row["tokens"] == len(tokens)
            assert row["covered"] == sum(token in has for token, _ in tokens)
            assert row["occurrences"] == sum(n for _, n in tokens)
            assert row["covered_occurrences"] == sum(n for token, n in tokens if token in has)
            assert row["share"] == row["covered"] / row["tokens"]
            assert row["split"] == "test"
    assert found.keys() == expected


@pytest.mark.parametrize("points", [100, 7])
def test_the_curve_runs_straight_through_tokens_of_equal_frequency(catalog: Catalog, points: int) -> None:
    stored = table(catalog, "tail_curve")
    assert stored == sorted(run_query(catalog, "tail_curve"), key=lambda row: (row["sae"], row["point"]))
    rows = run_query(catalog, "tail_curve", points=points)
    for sae in saes_with_a_lens(catalog):
        has, tokens = covered(catalog, sae), counts(catalog, "test")
        ends, upto, words = [0], [0], [0]
        for frequency in sorted(set(tokens.values())):
            same = [token for token, n in tokens.items() if n == frequency]
            ends.append(ends[-1] + len(same))
            upto.append(upto[-1] + len(has & set(same)))
            words.append(words[-1] + frequency * len(same))
        mine = sorted((row for row in rows if row["sae"] == sae), key=lambda row: row["point"])
        assert [row["point"] for row in mine] == list(range(1, points + 1))
        at = np.arange(1, points + 1) * len(tokens) / points
        assert [row["token_share"] for row in mine] == pytest.approx(np.arange(1, points + 1) / points)
        assert [row["covered"] for row in mine] == pytest.approx(np.interp(at, ends, upto))
        assert [row["proportion"] for row in mine] == pytest.approx(np.interp(at, ends, upto) / upto[-1])
        assert [row["occurrence_share"] for row in mine] == pytest.approx(np.interp(at, ends, words) / words[-1])
        assert mine[-1]["proportion"] == 1


def test_an_sae_without_a_covered_token_has_a_flat_curve(made: Path, tmp_path: Path) -> None:
    with Catalog(shutil.copytree(made, tmp_path / "copy")) as catalog:
        catalog.connection.execute("DELETE FROM lake.covered_tokens WHERE sae = 's'")
        rows = [row for row in run_query(catalog, "tail_curve") if row["sae"] == "s"]
        assert {(row["covered"], row["proportion"]) for row in rows} == {(0, None)}
        assert len(rows) == 100
        rows = [row for row in run_query(catalog, "tail_coverage") if row["sae"] == "s"]
        assert {(row["covered"], row["covered_occurrences"], row["share"]) for row in rows} == {(0, 0, 0)}


def test_another_split_is_a_parameter(made_catalog: Catalog) -> None:
    for step in ("tail_coverage", "tail_curve", "firing_ranks"):
        assert {row["split"] for row in run_query(made_catalog, step, split="val")} == {"val"}
        assert run_query(made_catalog, step, split="none such") == []
    rows = run_query(made_catalog, "tail_coverage", split="val")
    assert sum(row["tokens"] for row in rows if row["sae"] == "s") == len(counts(made_catalog, "val"))


def test_features_are_ranked_by_firings_dead_ones_last(catalog: Catalog) -> None:
    width = dict(catalog.rows("SELECT sae, width FROM saes"))
    rows = table(catalog, "firing_ranks")
    harvested = {row["sae"] for row in rows}
    assert harvested == width.keys() - {"half"}
    for sae in harvested:
        fired = firings(catalog, sae, "test")
        order = sorted(range(width[sae]), key=lambda feature: (-fired[feature], feature))
        mine = [(row["rank"], row["feature"], row["firings"]) for row in rows if row["sae"] == sae]
        assert mine == [(rank, feature, fired[feature]) for rank, feature in enumerate(order, start=1)]


def test_firing_differences_are_a_histogram_in_octaves_of_both_signs(made_catalog: Catalog) -> None:
    def bin_of(difference: int) -> int:
        return (difference > 0) * difference.bit_length() - (difference < 0) * (-difference).bit_length()

    expected: Counter[tuple[str, str, int]] = Counter()
    fired = {sae: firings(made_catalog, sae, "test") for sae in ("s", "child", "silent")}
    # `wide` has features of other numbers, `half` counts over a part of the text.
    for sae, baseline in (("child", "s"), ("silent", "s"), ("s", "child")):
        for feature in range(WIDTH):
            expected[sae, baseline, bin_of(fired[sae][feature] - fired[baseline][feature])] += 1
    rows = table(made_catalog, "firing_differences")
    assert {(row["sae"], row["baseline"], row["bin"]): row["features"] for row in rows} == expected
    for row in rows:
        assert row["low"] <= row["high"]
        assert {bin_of(row["low"]), bin_of(row["high"])} == {row["bin"]}
        assert row["low"] == 0 or {bin_of(row["low"] - 1), bin_of(row["high"] + 1)}.isdisjoint({row["bin"]})
    assert {row["bin"] for row in rows if row["sae"] == "silent"} >= {0}


def test_a_second_refresh_has_nothing_to_do(made: Path, tmp_path: Path) -> None:
    with Catalog(shutil.copytree(made, tmp_path / "copy")) as catalog:
        assert {result.state for result in refresh(catalog, STEPS)} == {"current"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"covered_tokens.k": 11}, "covered_tokens.k is 11, but logit_lens.k is 10 and no more are kept"),
        ({"logit_lens.k": 5}, "covered_tokens.k is 10, but logit_lens.k is 5 .* or covered_tokens.k at most 5"),
    ],
)
def test_more_top_tokens_than_the_logit_lens_keeps_are_refused(
    made_catalog: Catalog, settings: dict[str, int], said: str
) -> None:
    with pytest.raises(StepError, match=said):
        plan(made_catalog, STEPS, Options(settings=settings))
    enough = Options(settings={"covered_tokens.k": 11, "logit_lens.k": 11})
    assert {result.step for result in plan(made_catalog, STEPS, enough)} >= set(STEPS)
