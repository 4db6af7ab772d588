"""Each SQL step against a second, naive implementation: loops over the activations, of a real and of a made catalog."""

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from catalog import Catalog
from queries.refresh.engine import refresh
from queries.refresh.step import packaged_steps
from queries.terminal.progress import described
from tests.empty import make_empty
from tests.queries import made as m
from tests.queries.made import CONCEPT, Document, make, refresh_made

WINDOW, SHINGLE = 32, 16


@dataclass
class World:
    """A refreshed catalog, and all its tokens and activations as plain arrays."""

    catalog: Catalog

    def __post_init__(self) -> None:
        rows = self.catalog.rows
        self.documents = {
            number: (digest, split, start)
            for number, digest, split, start in rows("SELECT document, hash, split, start FROM documents")
        }
        tokens = rows("SELECT position, document, sequence, length, token, shard FROM tokens ORDER BY position")
        assert [row[0] for row in tokens] == list(range(len(tokens)))
        _, self.document, self.sequence, self.length, self.token, self.shard = (
            np.array(column) for column in zip(*tokens, strict=True)
        )
        self.width = self.catalog.value("SELECT width FROM saes")
        self.dense = np.zeros((self.width, len(tokens)))
        fired = self.catalog.connection.execute("SELECT feature, position, activation FROM activations").fetchnumpy()
        self.dense[fired["feature"], fired["position"]] = fired["activation"]
        self.positive = np.zeros(len(tokens), bool)
        self.positive[[row[0] for row in rows("SELECT position FROM concept_positions")]] = True
        self.shortlist = [row[0] for row in rows("SELECT feature FROM shortlist ORDER BY rank")]

    def split(self, position: int) -> str:
        return str(self.documents[self.document[position]][1])

    def place(self, position: int) -> tuple[str, int]:
        """What a position is called whatever the order of arrival."""
        digest, _, start = self.documents[self.document[position]]
        return digest, position - start

    def contexts(self, kind: str) -> list[dict[str, Any]]:
        cursor = self.catalog.connection.execute("SELECT * FROM contexts WHERE kind = ? ORDER BY ALL", [kind])
        names = [column[0] for column in cursor.description or []]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def leaked(self) -> set[int]:
        """Positions outside of train that begin 16 tokens which stand in one train document too."""
        runs = {
            p: tuple(self.token[p : p + SHINGLE])
            for p in range(len(self.token) - SHINGLE + 1)
            if self.document[p] == self.document[p + SHINGLE - 1]
        }
        seen = {run for p, run in runs.items() if self.split(p) == "train"}
        return {p for p, run in runs.items() if self.split(p) != "train" and run in seen}


@pytest.fixture(scope="module", params=["real", "made"])
def world(request: pytest.FixtureRequest, built: Path, made_root: Path) -> Iterator[World]:
    with Catalog(built if request.param == "real" else made_root, read_only=True) as catalog:
        yield World(catalog)


@pytest.fixture(scope="module")
def made_world(made_root: Path) -> Iterator[World]:
    with Catalog(made_root, read_only=True) as catalog:
        yield World(catalog)


def run_query(catalog: Catalog, name: str, **parameters: Any) -> list[dict[str, Any]]:
    """The rows of a step's query over what the tables hold now."""
    step = next(step for step in packaged_steps() if step.name == name)
    cursor = catalog.connection.execute(step.query, {**step.parameters, **parameters})
    names = [column[0] for column in cursor.description or []]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def naive_bin(value: float) -> int:
    """8 equal parts of each octave, from 2^-15; all that is below goes to bin 0."""
    mantissa, exponent = math.frexp(value)
    return max(8 * (exponent - 1 + 15) + int((2 * mantissa - 1) * 8), 0)


def edge_below(value: float) -> float:
    """The lower end of the bin that holds the value: 8 equal parts of each octave, 0 below 2^-15."""
    mantissa, exponent = math.frexp(value)
    return math.ldexp(math.floor(16 * mantissa) / 16, exponent) if value >= 2.0**-15 else 0.0


def threshold(world: World, feature: int, fraction: float = 0.3) -> float:
    """Where a window begins to fire, by the activations themselves."""
    fired = world.dense[feature][world.dense[feature] > 0]
    return edge_below(fraction * edge_below(float(np.quantile(fired, 0.99, method="inverted_cdf"))))


# --- sums and statistics


def test_feature_sums_are_exact_integers_per_shard(world: World) -> None:
    expected = {}
    for shard in np.unique(world.shard):
        for feature in range(world.width):
            fired = world.dense[feature, world.shard == shard]
            fired = fired[fired > 0].tolist()
            if fired:
                scaled = [int(a * 2**24) for a in fired]
                assert [s / 2**24 for s in scaled] == fired
                bins = dict(Counter(naive_bin(a) for a in fired))
                expected[shard, feature] = (len(fired), sum(scaled), sum(s * s for s in scaled), max(fired), bins)
    found = {
        (shard, feature): (n, int(total), int(squares), maximum, bins)
        for shard, feature, n, total, squares, maximum, bins in world.catalog.rows(
            "SELECT shard, feature, firings, total, squares, maximum, bins FROM feature_sums"
        )
    }
    assert found == expected


def test_every_half_precision_number_lands_in_its_bin(tmp_path: Path) -> None:
    halves = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    with make_empty(tmp_path) as catalog:
        with catalog.write("numbers") as tx:
            catalog.connection.register("halves", pa.table({"feature": range(len(halves)), "a": halves}))
            tx.execute("INSERT INTO lake.activations SELECT 's', 'c', 0, feature, 0, a FROM halves")
        found = {row["maximum"]: row for row in run_query(catalog, "feature_sums")}
    assert len(found) == len(halves) == 31743
    assert max(found) == 65504
    assert min(found) == 2.0**-24
    for value, row in found.items():
        assert row["bins"] == {naive_bin(value): 1}
        assert row["total"] == int(value * 2**24)
        assert row["squares"] == int(value * 2**24) ** 2


def test_feature_stats_are_those_of_numpy_and_dead_features_are_present(world: World) -> None:
    rows = world.catalog.rows(
        "SELECT feature, firings, tokens, density, mean, std, maximum, histogram, deciles, percentile_99 "
        "FROM feature_stats ORDER BY feature"
    )
    assert [row[0] for row in rows] == list(range(world.width))
    for feature, firings, tokens, density, mean, std, maximum, histogram, deciles, percentile in rows:
        fired = world.dense[feature][world.dense[feature] > 0]
        assert (firings, tokens) == (len(fired), world.dense.shape[1])
        assert density == pytest.approx(len(fired) / world.dense.shape[1], rel=1e-12)
        coarse = Counter(naive_bin(a) // 4 for a in fired)
        assert histogram == [coarse[b] for b in range(64)]
        if not firings:
            assert (mean, std, maximum, deciles, percentile) == (None, None, None, None, None)
            continue
        assert percentile == edge_below(float(np.quantile(fired, 0.99, method="inverted_cdf")))
        assert mean == pytest.approx(fired.mean(), rel=1e-12)
        assert std == pytest.approx(fired.std(), rel=1e-9, abs=1e-6 * fired.mean())
        assert maximum == fired.max()
        assert len(deciles) == 9
        assert deciles == sorted(deciles)
        ranks = np.quantile(fired, np.arange(1, 10) / 10, method="inverted_cdf")
        for ours, exact in zip(deciles, ranks, strict=True):
            if exact >= 2.0**-15:
                assert 1 / 1.126 <= ours / exact <= 1.126


def test_the_made_catalog_has_a_dead_feature_and_the_edges_of_half_precision(made_world: World) -> None:
    assert not made_world.dense[m.DEAD].any()
    assert set(made_world.dense[m.EDGES]) == {0.0, *m.EDGE_VALUES}


# --- leaks and contexts


def test_leaks_are_the_shingles_that_stand_in_train_text(world: World) -> None:
    found = {row[0] for row in world.catalog.rows("SELECT position FROM leaks")}
    assert found == world.leaked()
    assert found


def test_top_contexts_are_the_strongest_sequences(world: World) -> None:
    found = defaultdict(list)
    for row in sorted(world.contexts("top"), key=lambda row: (row["feature"], row["rank"])):
        found[row["feature"]].append(row)
    for feature in range(world.width):
        best: dict[int, tuple[float, int]] = {}
        for position in np.flatnonzero(world.dense[feature]):
            sequence, activation = int(world.sequence[position]), float(world.dense[feature, position])
            if activation > best.get(sequence, (0.0, 0))[0]:
                best[sequence] = activation, int(position)
        ranked = sorted(best.values(), key=lambda pair: (-pair[0], *world.place(pair[1])))[:20]
        rows = found[feature]
        assert [(row["activation"], row["peak"]) for row in rows] == ranked
        assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))


@pytest.mark.parametrize("kind", ["top", "stratum", "random"])
def test_a_window_stays_inside_its_sequence_and_has_its_split(world: World, kind: str) -> None:
    rows = world.contexts(kind)
    assert rows
    for row in rows:
        start, length = row["start"], row["length"]
        first, n = world.sequence[start], world.length[start]
        assert first <= start
        assert start + length <= first + n
        assert length <= WINDOW
        assert kind == "random" or length == min(WINDOW, n)
        assert row["split"] == world.split(start)
        if kind != "random":
            assert start <= row["peak"] < start + length
            assert world.dense[row["feature"], row["peak"]] == row["activation"]
        inside = world.dense[row["feature"], start : start + length]
        assert inside.max() >= row["activation"] if kind == "top" else inside.max() == row["activation"]


def test_features_whose_firings_crowd_in_few_sequences_get_all_their_contexts(made_world: World) -> None:
    strong = made_world.dense[m.CROWDED] >= 50
    assert strong.sum() > 80, "more strong activations than the threshold looks for"
    assert len(set(made_world.sequence[strong])) < 20, "in fewer sequences than contexts are wanted"
    rows = [row for row in made_world.contexts("top") if row["feature"] == m.CROWDED]
    assert len(rows) == 20
    assert min(row["activation"] for row in rows) < 2


def test_stratified_windows_are_as_strong_as_their_peak(world: World) -> None:
    for row in world.contexts("stratum"):
        inside = world.dense[row["feature"], row["start"] : row["start"] + row["length"]]
        assert inside.max() == row["activation"]
        assert row["peak"] == row["start"] + int(np.argmax(inside))


def eligible_peaks(world: World, feature: int) -> dict[str, list[tuple[str, int, int]]]:
    """(document hash, place in it, position) of each window's peak, by split: naively, token by token."""
    leaked, found = world.leaked(), defaultdict(list)
    for p in np.flatnonzero(world.dense[feature]):
        first, n = int(world.sequence[p]), int(world.length[p])
        start = max(first, min(int(p) - 16, first + n - WINDOW))
        end = start + min(WINDOW, n)
        repeats = any(q in leaked for q in range(start, end - SHINGLE + 1))
        strongest = p == start + np.argmax(world.dense[feature, start:end])
        if n >= 8 and strongest and (not repeats or world.split(p) == "train"):
            found[world.split(p)].append((*world.place(start), int(p)))
    return found


def test_strata_are_deciles_of_the_peaks_of_all_windows_of_a_split(world: World) -> None:
    """By sorting all peaks; those that share a bin of 1/32 octave share the decile of its middle."""
    rows = defaultdict(list)
    for row in world.contexts("stratum"):
        rows[row["feature"], row["split"]].append(row)
    seen = 0
    for feature in world.shortlist:
        for split, windows in eligible_peaks(world, feature).items():
            peaks = sorted(float(world.dense[feature, p]) for *_, p in windows)
            bins = [math.floor(64 * math.frexp(a)[0]) + 32 * math.frexp(a)[1] for a in peaks]
            decile = {b: int(10 * (bins.index(b) + bins.count(b) / 2) / len(bins)) + 1 for b in set(bins)}
            strata: dict[int, list[tuple[str, int, int]]] = defaultdict(list)
            for window in windows:
                a = float(world.dense[feature, window[2]])
                strata[decile[math.floor(64 * math.frexp(a)[0]) + 32 * math.frexp(a)[1]]].append(window)
            expected = set()
            for stratum, members in strata.items():
                by_hash = sorted(members, key=lambda w: hashlib.md5(f"{w[0]}:{w[1]}".encode()).hexdigest())
                share, probability = len(members) / len(windows), min(20 / len(members), 1)
                for rank, (*_, p) in enumerate(by_hash[:20], start=1):
                    expected.add((stratum, rank, p, round(share, 9), round(probability, 9)))
            found = {
                (r["stratum"], r["rank"], r["peak"], round(r["share"], 9), round(r["probability"], 9))
                for r in rows[feature, split]
            }
            assert found == expected
            seen += len(found)
    assert seen == sum(map(len, rows.values()))


def test_inclusion_probabilities_count_the_windows(world: World) -> None:
    """Horvitz and Thompson's estimate of a total that is known: each drawn window stands for 1 / probability others."""
    totals: Counter[tuple[int, str]] = Counter()
    for row in world.contexts("stratum"):
        totals[row["feature"], row["split"]] += 1 / row["probability"]
    for feature in world.shortlist:
        for split, windows in eligible_peaks(world, feature).items():
            assert totals[feature, split] == pytest.approx(len(windows))


@pytest.mark.parametrize("kind", ["stratum", "random"])
def test_no_sampled_val_or_test_window_repeats_train_text(world: World, kind: str) -> None:
    leaked = world.leaked()
    held_out = [row for row in world.contexts(kind) if row["split"] != "train"]
    assert held_out
    for row in held_out:
        assert not leaked & set(range(row["start"], row["start"] + row["length"] - SHINGLE + 1))


def laid_windows(world: World, split: str) -> list[tuple[int, int]]:
    """(start, length) of the windows of a split that are laid end to end, those that repeat train text left out."""
    leaked, found = world.leaked(), []
    for p in range(len(world.token)):
        n = min(WINDOW, int(world.sequence[p] + world.length[p]) - p)
        laid = (p - world.sequence[p]) % WINDOW == 0 and n >= 8 and world.split(p) == split
        if laid and (split == "train" or not leaked & set(range(p, p + n - SHINGLE + 1))):
            found.append((p, n))
    return found


def test_random_windows_are_drawn_whatever_the_feature_does_in_them(world: World) -> None:
    taken, silent = defaultdict(list), 0
    for row in world.contexts("random"):
        inside = world.dense[row["feature"], row["start"] : row["start"] + row["length"]]
        assert row["activation"] == inside.max()
        assert row["peak"] == (row["start"] + int(np.argmax(inside)) if inside.any() else None)
        silent += not inside.any()
        taken[row["feature"], row["split"]].append(row)
    assert 0 < silent < sum(map(len, taken.values()))
    for feature in world.shortlist:
        for split in ("train", "val", "test"):
            eligible, rows = laid_windows(world, split), taken[feature, split]
            assert {(row["start"], row["length"]) for row in rows} <= set(eligible)
            assert len({row["start"] for row in rows}) == len(rows) == min(200, len(eligible))
            assert sorted(row["rank"] for row in rows) == list(range(1, len(rows) + 1))
            assert all(row["probability"] == pytest.approx(len(rows) / len(eligible)) for row in rows)
    full = [frozenset(r["start"] for r in rows) for (_, split), rows in taken.items() if len(rows) == 200]
    assert len(full) > 1
    assert len(set(full)) == len(full)


def test_firing_windows_and_rates_are_those_of_all_windows(world: World) -> None:
    rows = world.catalog.rows("SELECT feature, split, windows, bins FROM firing_windows")
    assert {row[0] for row in rows} == set(world.shortlist)
    rates = {
        (feature, split): (least, windows, firing)
        for feature, split, least, windows, firing in world.catalog.rows(
            "SELECT feature, split, threshold, windows, firing FROM firing_rates WHERE role = 'scorer'"
        )
    }
    for feature, split, windows, bins in rows:
        peaks = [world.dense[feature, p : p + n].max() for p, n in laid_windows(world, split)]
        assert (windows, bins) == (len(peaks), dict(Counter(naive_bin(a) for a in peaks if a > 0)))
        least = threshold(world, feature)
        assert rates[feature, split] == (least, windows, sum(a > 0 and a >= least for a in peaks))


@pytest.mark.slow
def test_contexts_do_not_depend_on_the_order_of_arrival(made_world: World, tmp_path: Path) -> None:
    texts = m.documents()
    make(tmp_path, [texts[0], *reversed(texts[1:])], shards=5)
    with Catalog(tmp_path) as catalog:
        refresh_made(catalog)
        other = World(catalog)
        assert other.shortlist == made_world.shortlist
        for kind in ("top", "stratum", "random"):
            same = ("feature", "split", "stratum", "rank", "length", "activation")
            found = [
                sorted((*(row[name] for name in same), world.place(row["start"])) for row in world.contexts(kind))
                for world in (made_world, other)
            ]
            assert found[0] == found[1], kind
        labels = "SELECT feature, label, problem FROM labels ORDER BY ALL"
        assert catalog.rows(labels) == made_world.catalog.rows(labels)
        scores = "SELECT feature, n, failed, f1, auroc, f1_null FROM scores ORDER BY ALL"
        assert catalog.rows(scores) == made_world.catalog.rows(scores)


def test_a_short_test_window_does_not_suffer_for_its_neighbour(tmp_path: Path) -> None:
    """16 tokens of train text in the document that follows are not in the window before it."""
    passage = tuple(range(16))
    texts: dict[str, list[Document]] = {"train": [], "test": []}
    for salt in range(400):
        tail = tuple(salt // 30**i % 30 for i in range(3))
        for words in ((*passage, *tail), tail * 3):
            text = Document(words)
            if text.split in texts and len(texts[text.split]) < 300:
                texts[text.split].append(text)
    short = next(t for t in texts["test"] if len(t.words) == 9)
    leaky = next(t for t in texts["test"] if len(t.words) == 19)
    train = next(t for t in texts["train"] if len(t.words) == 19)
    made = make(tmp_path, [train, short, leaky], shards=1)
    with made.open() as catalog:
        with catalog.write("shortlist") as tx:
            tx.insert("shortlist", [{"sae": "s", "concept": "x", "feature": 8, "rank": 1, "separation": 1.0}])
        refresh_leaks = run_query(catalog, "leaks")
        with catalog.write("leaks") as tx:
            tx.insert("leaks", refresh_leaks)
        assert [row["position"] for row in refresh_leaks] == [made.starts[leaky.hash]]
        starts = {row["start"] for row in run_query(catalog, "contexts_random") if row["split"] == "test"}
    assert starts == {made.starts[short.hash]}


# --- concepts


def with_concepts(root: Path, texts: list[str], *concepts: dict[str, Any]) -> Catalog:
    """A catalog of these words, and these concepts."""
    documents = [Document(tuple(m.WORDS.index(word) for word in text.split())) for text in texts]
    return make(root, documents, shards=1, concepts=[{**CONCEPT, **concept} for concept in concepts]).open()


@pytest.fixture(scope="module")
def matrix_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of two words."""
    root = tmp_path_factory.mktemp("matrix")
    with_concepts(root, ["the matrix"]).close()
    return root


def concept_tokens(catalog: Catalog) -> dict[str, list[int]]:
    found = defaultdict(list)
    for concept, position in catalog.rows("SELECT concept, position FROM concept_positions ORDER BY ALL"):
        found[concept].append(position)
    return dict(found)


def said(**definition: Any) -> str:
    return json.dumps(definition)


def test_words_and_phrases_match_whole_words_in_any_case(tmp_path: Path) -> None:
    texts = ["the matrix of linear system value", "system linear matrix"]
    with with_concepts(
        tmp_path,
        texts,
        {"concept": "word", "definition": said(words=["MATRIX"], ignore_case=True)},
        {"concept": "phrase", "definition": said(words=["linear  system"], ignore_case=True)},
        {"concept": "part", "definition": said(words=["matri", "matrix", "atrix"], ignore_case=False)},
        {"concept": "case", "definition": said(words=["MATRIX", "the"], ignore_case=False)},
        {"concept": "pattern", "definition": said(words=["m.trix", "value"], ignore_case=True)},
    ) as catalog:
        results = refresh(catalog, ("concept_positions",))
        assert [r.state for r in results] == ["done"]
        assert concept_tokens(catalog) == {
            "word": [1, 8],
            "phrase": [3, 4],
            "part": [1, 8],
            "case": [0],
            "pattern": [5],
        }


def test_spans_name_documents_by_hash_or_number_and_predicates_see_the_tokens(tmp_path: Path) -> None:
    texts = ["the matrix of value", "linear system value"]
    second = Document(tuple(m.WORDS.index(word) for word in texts[1].split())).hash
    with with_concepts(
        tmp_path,
        texts,
        # " the matrix": characters 0-3 and 4-10; a span of one character reaches the token that it lies in.
        {"concept": "spans", "kind": "spans", "definition": said(spans=[[0, 6, 7], [second, 0, 8]])},
        {"concept": "predicate", "kind": "predicate", "definition": said(predicate="text = ' value' OR document = 9")},
    ) as catalog:
        assert [r.error for r in refresh(catalog, ("concept_positions",))] == [None]
        assert concept_tokens(catalog) == {"spans": [1, 4, 5], "predicate": [3, 6]}


@pytest.mark.parametrize(
    "predicate",
    [
        "true) OR (true",
        "true) UNION SELECT position FROM tokens WHERE (true",
        "true; DROP TABLE lake.tokens",
        "position IN (SELECT 1 FROM read_csv('/etc/passwd'))",
        "getenv('HOME') <> ''",
        "no_such_column = 1",
        "random() < 0.5",
        "text =",
    ],
)
def test_a_hostile_predicate_is_refused_by_name(matrix_root: Path, predicate: str) -> None:
    concept = {**CONCEPT, "concept": "bad", "kind": "predicate", "definition": said(predicate=predicate)}
    with Catalog(matrix_root) as catalog:
        with catalog.write("concept") as tx:
            tx.replace("concepts", [concept], ["concept"])
        (result,) = refresh(catalog, ("concept_positions",))
        assert result.state == "failed"
        assert "'bad'" in str(result.error)
        assert concept_tokens(catalog) == {}


def test_a_predicate_stays_in_its_corpus(tmp_path: Path) -> None:
    concept = {"concept": "all", "kind": "predicate", "corpora": ["c"], "definition": said(predicate="true OR false")}
    with with_concepts(tmp_path, ["the matrix"], concept) as catalog:
        with catalog.write("another corpus") as tx:
            tx.execute("INSERT INTO lake.documents SELECT 'd' AS corpus, * EXCLUDE (corpus) FROM lake.documents")
            tx.execute(
                "INSERT INTO lake.tokens "
                "SELECT 'd', shard, position + 50, * EXCLUDE (corpus, shard, position) FROM lake.tokens"
            )
        refresh(catalog, ("concept_positions",))
        assert catalog.rows("SELECT corpus, position FROM concept_positions ORDER BY ALL") == [("c", 0), ("c", 1)]


def test_concepts_without_a_match_are_problems_and_stop_nothing(tmp_path: Path) -> None:
    """Of words, spans and predicates; one of a document that is not there; one that takes everything."""
    with with_concepts(
        tmp_path,
        ["the matrix"],
        {"concept": "nothing", "definition": said(words=["zebra"], ignore_case=True)},
        {"concept": "everything", "kind": "predicate", "definition": said(predicate="position >= 0")},
        {"concept": "never", "kind": "predicate", "definition": said(predicate="false")},
        {"concept": "blank", "kind": "spans", "definition": said(spans=[[0, 90, 91]])},
        {"concept": "lost", "kind": "spans", "definition": said(spans=[[0, 0, 4], [7, 0, 4], ["f" * 32, 0, 1]])},
        {"concept": "fine", "definition": said(words=["matrix"], ignore_case=True)},
    ) as catalog:
        results = {r.step: r for r in refresh(catalog, ("shortlist", "feature_stats"))}
        assert {r.state for r in results.values()} == {"done"}
        assert concept_tokens(catalog) == {"everything": [0, 1], "lost": [0], "fine": [1]}
        assert catalog.rows("SELECT DISTINCT concept FROM separation ORDER BY ALL") == [("fine",), ("lost",)]
        ours = "problems WHERE stage = 'concept_positions'"
        reasons = dict(catalog.rows(f"SELECT subject, reason FROM {ours}"))
        assert catalog.value(f"SELECT sum(count)::BIGINT FROM {ours}") == len(reasons)
        # Two words are too few for a shortlist, which is another problem of each concept that has a separation.
        others = catalog.rows("SELECT stage, subject FROM problems WHERE stage <> 'concept_positions' ORDER BY ALL")
        assert others == [("shortlist", f"SAE s, concept {concept}") for concept in ("fine", "lost")]
        assert reasons.keys() == {"nothing", "everything", "never", "blank", "lost"}
        for concept in ("nothing", "never", "blank"):
            assert reasons[concept].startswith("it matches no token of its corpora")
        assert reasons["everything"].startswith("it matches every token of its corpora")
        assert reasons["lost"].startswith("it has spans of 2 documents that its corpora lack, such as 7")
        warnings = results["concept_positions"].warnings
        assert sorted(warnings) == sorted(f"concept {concept!r}: {reason}" for concept, reason in reasons.items())
        assert "warning: concept 'nothing': it matches no token" in described(results["concept_positions"])

        with catalog.write("one is mended, one is gone") as tx:
            mended = said(words=["the"], ignore_case=True)
            tx.execute("UPDATE lake.concepts SET definition = ? WHERE concept = 'nothing'", [mended])
            tx.execute("DELETE FROM lake.concepts WHERE concept = 'never'")
        refresh(catalog, ("concept_positions",))
        assert catalog.rows(f"SELECT subject FROM {ours} ORDER BY ALL") == [("blank",), ("everything",), ("lost",)]


def test_concept_sums_are_those_of_its_tokens(world: World) -> None:
    found = {
        (shard, feature): (n, int(total), int(squares), bins)
        for shard, feature, n, total, squares, bins in world.catalog.rows(
            "SELECT shard, feature, firings, total, squares, bins FROM concept_sums"
        )
    }
    expected = {}
    for shard in np.unique(world.shard):
        for feature in range(world.width):
            fired = world.dense[feature, (world.shard == shard) & world.positive]
            scaled = [int(a * 2**24) for a in fired[fired > 0].tolist()]
            if scaled:
                bins = dict(Counter(naive_bin(s / 2**24) for s in scaled))
                expected[shard, feature] = (len(scaled), sum(scaled), sum(s * s for s in scaled), bins)
    assert found == expected


# --- separation


def test_separation_is_what_numpy_says_of_the_dense_vectors(world: World) -> None:
    cursor = world.catalog.connection.execute("SELECT * FROM separation ORDER BY feature")
    names = [column[0] for column in cursor.description or []]
    rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    assert [row["feature"] for row in rows] == np.flatnonzero(world.dense.any(1)).tolist()
    for row in rows:
        inside, outside = world.dense[row["feature"], world.positive], world.dense[row["feature"], ~world.positive]
        gap = inside.mean() - outside.mean()
        pooled = (len(inside) * inside.var() + len(outside) * outside.var()) / (len(inside) + len(outside))
        exact = {
            "positives": len(inside),
            "negatives": len(outside),
            "mean_positive": inside.mean(),
            "mean_negative": outside.mean(),
            "rate_positive": (inside > 0).mean(),
            "rate_negative": (outside > 0).mean(),
            "separation": gap**2 / (inside.std() + outside.std() + 1e-6),
            "fisher": gap**2 / (inside.var() + outside.var() + 1e-6),
            "cohens_d": gap / math.sqrt(pooled),
            "rate_difference": (inside > 0).mean() - (outside > 0).mean(),
        }
        for name, value in exact.items():
            assert row[name] == pytest.approx(value, rel=1e-6, abs=1e-12), (row["feature"], name)
        auroc = roc_auc_score(world.positive, world.dense[row["feature"]])
        assert abs(row["auroc"] - auroc) <= row["auroc_bound"] + 1e-12
        assert 0 <= row["auroc_bound"] < 0.1


def test_the_auroc_of_the_shortlist_is_exact(world: World) -> None:
    rows = world.catalog.rows("SELECT feature, auroc FROM shortlist_auroc")
    assert {row[0] for row in rows} == set(world.shortlist)
    for feature, auroc in rows:
        assert auroc == pytest.approx(roc_auc_score(world.positive, world.dense[feature]), abs=1e-9)


def test_the_shortlist_is_the_head_of_the_separation(world: World) -> None:
    size = world.catalog.value("SELECT shortlist FROM concepts")
    eligible = [
        (-score, feature)
        for feature, score, inside, outside in world.catalog.rows(
            "SELECT feature, cohens_d, mean_positive, mean_negative FROM separation"
        )
        if inside > outside and np.count_nonzero(world.dense[feature]) >= 32
    ]
    assert world.shortlist == [feature for _, feature in sorted(eligible)[:size]]


# --- vectors


def test_the_logit_lens_is_the_decoder_times_the_unembedding(built: Path) -> None:
    from safetensors.numpy import load_file
    from transformers import AutoModelForCausalLM

    from ingest.embedded import MODEL_DIR

    network = AutoModelForCausalLM.from_pretrained(MODEL_DIR).float()
    norm = next(p for name, p in network.named_parameters() if name.endswith("norm.weight") and "layers" not in name)
    unembed = (network.get_output_embeddings().weight * norm).detach().numpy().astype(np.float64)
    with Catalog(built, read_only=True) as catalog:
        folder, width = catalog.rows("SELECT weights, width FROM saes")[0]
        tensors = load_file(catalog.weights / folder / "sae_weights.safetensors")
        decoder = tensors["W_dec"]
        logits = decoder.astype(np.float64) @ unembed.T
        rows = catalog.rows("SELECT feature, side, rank, token, logit FROM logit_lens")
    assert len(rows) == width * 20
    ordered = np.sort(logits, 1)
    for feature, side, rank, token, logit in rows:
        assert logit == pytest.approx(logits[feature, token], abs=1e-4)
        assert logit == pytest.approx(ordered[feature, -rank if side == "top" else rank - 1], abs=1e-4)


# --- labels, judgements, scores


def test_labels_rest_on_train_and_val_windows_alone(world: World) -> None:
    step = next(step for step in packaged_steps() if step.name == "labels")
    rows = world.catalog.arrow(step.query, step.parameters).to_pylist()
    assert sorted(row["feature"] for row in rows) == sorted(world.shortlist)
    for row in rows:
        assert {example["split"] for example in row["examples"]} == {"train", "val"}
        assert {e["split"] for e in row["examples"] if e["kind"] == "top"} == {"train"}
        for example in row["examples"]:
            start, n = example["start"], len(example["tokens"])
            assert world.split(start) == example["split"]
            assert example["activations"] == world.dense[row["feature"], start : start + n].tolist()
        peaks = np.array([world.dense[row["feature"], p : p + n].max() for p, n in laid_windows(world, "train")])
        assert row["threshold"] == threshold(world, row["feature"])
        assert row["rate"] == pytest.approx((peaks >= max(row["threshold"], 1e-9)).mean())


def test_judgements_are_of_test_windows_that_no_explainer_saw(world: World) -> None:
    judged = world.catalog.rows(
        "SELECT j.feature, example, j.split, active, j.activation, j.threshold, j.stratum, max(length) "
        "FROM judgements AS j "
        "JOIN contexts AS c ON c.feature = j.feature AND c.start = j.example AND c.kind <> 'top' GROUP BY ALL"
    )
    assert len(judged) == world.catalog.value("SELECT count(*) FROM (SELECT DISTINCT feature, example FROM judgements)")
    train = {tuple(world.token[p : p + SHINGLE]) for p in np.flatnonzero(world_train(world))}
    for feature, start, split, active, activation, least, stratum, length in judged:
        assert split == world.split(start) == "test"
        strongest = world.dense[feature, start : start + length].max()
        assert least == threshold(world, feature)
        assert (activation, active) == (strongest, bool(strongest > 0 and strongest >= least))
        assert (stratum > 0) == active
        runs = {tuple(world.token[p : p + SHINGLE]) for p in range(start, start + length - SHINGLE + 1)}
        assert not runs & train
    assert {active for *_, active, _, _, _, _ in judged} == {True, False}


def test_a_feature_that_fires_in_most_windows_is_said_to_be_dense_and_not_judged(mine: Catalog) -> None:
    with mine.write("a threshold above zero alone") as tx:
        tx.execute("UPDATE lake.scorers SET threshold = 0")
        tx.execute("UPDATE lake.explainers SET threshold = 0")
    refresh_made(mine)
    world = World(mine)
    expected = {}
    for feature in world.shortlist:
        windows = [w for split in ("train", "val", "test") for w in laid_windows(world, split)]
        expected[feature] = np.mean([world.dense[feature, p : p + n].any() for p, n in windows])
    dense = {feature for feature, rate in expected.items() if rate > 0.5}
    assert dense
    assert dense < set(world.shortlist)
    problems = dict(mine.rows("SELECT feature, problem FROM labels WHERE label IS NULL"))
    assert dense <= problems.keys()
    assert all(problems[feature].startswith("it fires on nearly everything: in ") for feature in dense)
    assert not dense & {feature for (feature,) in mine.rows("SELECT DISTINCT feature FROM judgements")}
    (said,) = mine.rows("SELECT subject, count FROM problems WHERE reason LIKE '%more than half of all windows%'")
    assert said == ("SAE s, scorer detection", len(dense))
    for feature, rate in mine.rows("SELECT feature, rate FROM scores"):
        assert rate == pytest.approx(expected[feature])


def world_train(world: World) -> Any:
    """Whether 16 tokens of one train document begin here."""
    last = np.minimum(np.arange(len(world.token)) + SHINGLE - 1, len(world.token) - 1)
    whole = (world.document[last] == world.document) & (np.arange(len(world.token)) + SHINGLE <= len(world.token))
    return whole & np.array([world.split(p) == "train" for p in range(len(world.token))])


def test_up_to_so_many_windows_of_each_class_are_judged_and_a_null_label_is_never_the_own(world: World) -> None:
    pairs = defaultdict(Counter)
    for feature, other, active in world.catalog.rows("SELECT feature, label_feature, active FROM judgements"):
        pairs[feature, other][active] += 1
    owns = {feature for feature, other in pairs if feature == other}
    nulls = Counter(feature for feature, other in pairs if feature != other)
    assert owns == set(nulls)
    assert set(nulls.values()) == {min(world.catalog.value("SELECT nulls FROM scorers"), len(owns) - 1)}
    examples = world.catalog.value("SELECT examples FROM scorers")
    sizes: dict[int, Counter[bool]] = defaultdict(Counter)
    for row in world.contexts("stratum") + world.contexts("random"):
        fires = bool(row["activation"] > 0 and row["activation"] >= threshold(world, row["feature"]))
        if row["split"] == "test" and fires == (row["kind"] == "stratum"):
            sizes[row["feature"]][fires] += 1
    for (feature, _), counts in pairs.items():
        assert counts == {fires: min(n, examples) for fires, n in sizes[feature].items()}


@dataclass(frozen=True)
class Judged:
    """(active, predicted, probability) of each window of one label."""

    own: list[tuple[bool, bool | None, float | None]]
    null: list[tuple[bool, bool | None, float | None]]


def score(root: Path, judged: Judged) -> dict[str, Any]:
    rows = []
    for label_feature, windows in ((1, judged.own), (2, judged.null)):
        for example, (active, predicted, probability) in enumerate(windows):
            row = {"sae": "s", "feature": 1, "label_feature": label_feature, "explainer": "e", "scorer": "d"}
            row |= {"corpus": "c", "example": example, "split": "test", "active": active, "activation": float(active)}
            row |= {"predicted": predicted, "probability": probability, "input": "x", "threshold": 0.5, "stratum": 0}
            row |= {"protocol": "detection"}
            rows.append({**row, "problem": None if predicted is not None else "no answer"})
    with make_empty(root) as catalog:
        with catalog.write("judgements") as tx, catalog.scratch() as scratch:
            tx.execute(f"INSERT INTO lake.judgements FROM {scratch.rows(rows, like='judgements')}")
        (found,) = run_query(catalog, "scores")
    return found


def wilson(hits: float, trials: float, z: float = 1.959964) -> tuple[float, float]:
    """The roots of (p - share)^2 = z^2 p (1 - p) / n."""
    share = hits / trials
    roots = np.roots([1 + z * z / trials, -2 * share - z * z / trials, share * share])
    return float(min(roots)), float(max(roots))


def test_scores_are_those_of_sklearn_with_their_intervals(tmp_path: Path) -> None:
    from sklearn.metrics import balanced_accuracy_score, f1_score, precision_score, recall_score

    chance = np.random.default_rng(3)
    active = chance.random(61) < 0.5
    probability = np.round(np.clip(active * 0.3 + chance.random(61) * 0.8, 0, 1), 1)
    predicted = probability >= 0.5
    own = list(zip(active.tolist(), predicted.tolist(), probability.tolist(), strict=True))
    null = [(a, not p, None) for a, p, _ in own]
    row = score(tmp_path, Judged([*own, (True, None, None), (False, None, None)], null))
    assert (row["n"], row["failed"], row["n_null"]) == (61, 2, 61)
    tp, fp = (predicted & active).sum(), (predicted & ~active).sum()
    positives, negatives = active.sum(), (~active).sum()
    # Both classes weigh alike.
    weight = np.where(active, 1 / positives, 1 / negatives)
    exact = {
        "f1": f1_score(active, predicted, sample_weight=weight),
        "precision": precision_score(active, predicted, sample_weight=weight),
        "recall": recall_score(active, predicted),
        "balanced_accuracy": balanced_accuracy_score(active, predicted),
        "auroc": roc_auc_score(active, probability),
        "f1_null": f1_score(active, ~predicted, sample_weight=weight),
    }
    hit, alarm = (tp, positives), (fp, negatives)
    exact["precision_low"], exact["precision_high"] = joined(lambda r, f: r / (r + f), hit, alarm)
    exact["recall_low"], exact["recall_high"] = wilson(tp, positives)
    exact["f1_low"], exact["f1_high"] = joined(lambda r, f: 2 * r / (r + f + 1), hit, alarm)
    tn = (~predicted & ~active).sum()
    exact["balanced_accuracy_low"], exact["balanced_accuracy_high"] = newcombe(tp, positives, tn, negatives)
    exact["balanced_accuracy_null"] = 1 - exact["balanced_accuracy"]
    low, high = newcombe(positives - tp, positives, negatives - tn, negatives)
    exact["balanced_accuracy_null_low"], exact["balanced_accuracy_null_high"] = low, high
    exact["threshold"] = 0.5
    exact["auroc_low"], exact["auroc_high"] = hanley_mcneil(exact["auroc"], positives, negatives)
    for name, value in exact.items():
        assert row[name] == pytest.approx(value, abs=1e-9), name


def joined(
    figure: Callable[[float, float], float], hit: tuple[int, int], alarm: tuple[int, int]
) -> tuple[float, float]:
    """Ends of the interval of a figure that rises with the share of hits and falls with that of alarms."""
    (r, f), (rl, rh), (fl, fh) = (n / of for n, of in (hit, alarm)), wilson(*hit), wilson(*alarm)
    at = figure(r, f)
    low = at - math.hypot(at - figure(rl, f), at - figure(r, fh))
    return low, at + math.hypot(figure(rh, f) - at, figure(r, fl) - at)


def newcombe(tp: int, positives: int, tn: int, negatives: int) -> tuple[float, float]:
    """The mean of two proportions by the distances of their Wilson limits, squared and added (1998, method 10)."""
    shares = tp / positives, tn / negatives
    limits = wilson(tp, positives), wilson(tn, negatives)
    below, above = (math.hypot(*(s - w[i] for s, w in zip(shares, limits, strict=True))) / 2 for i in (0, 1))
    return sum(shares) / 2 - below, sum(shares) / 2 + above


def hanley_mcneil(area: float, positives: int, negatives: int) -> tuple[float, float]:
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (positives - 1) * (q1 - area**2) + (negatives - 1) * (q2 - area**2)
    half = 1.959964 * math.sqrt(spread / (positives * negatives))
    return max(area - half, 0), min(area + half, 1)


def undefined(row: dict[str, Any], *names: str) -> bool:
    return all(row[f"{name}{end}"] is None for name in names for end in ("", "_low", "_high"))


def test_no_predicted_positive_leaves_the_precision_undefined(tmp_path: Path) -> None:
    row = score(tmp_path, Judged([(True, False, 0.2), (False, False, 0.1)], []))
    assert (row["f1"], row["recall"], row["balanced_accuracy"], row["auroc"]) == (0, 0, 0.5, 1)
    assert row["f1_high"] == pytest.approx(2 * wilson(0, 1)[1] / (1 + wilson(0, 1)[1]))
    assert undefined(row, "precision")
    assert (row["n_null"], row["f1_null"]) == (0, None)


def test_windows_without_an_answer_are_counted_and_in_no_score(tmp_path: Path) -> None:
    row = score(tmp_path, Judged([(True, None, None), (False, None, None)], [(True, None, None)]))
    assert (row["n"], row["failed"], row["n_null"], row["f1_null"]) == (0, 2, 0, None)
    assert undefined(row, "f1", "precision", "recall", "balanced_accuracy", "auroc")


def test_one_class_alone_has_no_balanced_accuracy_and_no_auroc(tmp_path: Path) -> None:
    row = score(tmp_path, Judged([(True, True, 0.9), (True, False, 0.2)], []))
    assert row["recall"] == 0.5
    assert undefined(row, "f1", "precision", "balanced_accuracy", "auroc")


def test_a_predictor_without_probabilities_has_no_auroc(tmp_path: Path) -> None:
    row = score(tmp_path, Judged([(True, True, None), (False, False, None)], []))
    assert (row["f1"], row["balanced_accuracy"]) == (1, 1)
    assert undefined(row, "auroc")
