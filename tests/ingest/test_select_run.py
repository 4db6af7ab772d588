"""Selections on a small catalog: who may be a seed, what the budget takes, and that equal reruns write nothing."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from catalog import Catalog
from catalog.errors import InputError, UnknownName
from catalog.study.selection import Selection
from ingest.model.language_model import LanguageModel
from ingest.model.text_encoder import load_encoder
from ingest.sae.architecture import Weights
from ingest.sae.config import SAEConfig
from ingest.sae.model import SAE
from ingest.selection import dense
from ingest.selection.compared_parent import Parent
from ingest.selection.documents import read_pool, read_seed
from ingest.selection.select import select_documents
from ingest.selection.tracin import document_influence, seed_gradient
from ingest.text.corpus import ingest_corpus
from tests.empty import make_empty
from tests.ingest.tiny import D, corpus_of, texts, write_lines

TOPICS = ("eigenvalues of a symmetric matrix", "boiling soup with carrots", "football clubs of Europe")
WIDTH, K = 40, 4


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory, llama: LanguageModel) -> Path:
    root = tmp_path_factory.mktemp("select")
    pool = [f"{TOPICS[i % 3]} {text}" for i, text in enumerate(texts(60))]
    seed = [f"the {i}th eigenvalue of a matrix" for i in range(20)]
    with make_empty(root / "catalog") as catalog:
        ingest_corpus(catalog, corpus_of(write_lines(root / "pool.jsonl", pool), name="pool"), llama)
        ingest_corpus(catalog, corpus_of(write_lines(root / "seed.jsonl", seed), name="seed"), llama)
    return root / "catalog"


@pytest.fixture
def small(ingested: Path, tmp_path: Path) -> Iterator[Catalog]:
    """A catalog with the corpora pool (three topics, several shards) and seed (one of the topics)."""
    with Catalog(shutil.copytree(ingested, tmp_path / "catalog")) as catalog:
        yield catalog


def spec(**settings: Any) -> Selection:
    given = {"name": "s", "pool": "pool", **settings}
    if given["method"] not in ("full", "random"):
        given.setdefault("seed", "seed")
    if given["method"] != "full":
        given.setdefault("tokens", 300)
    return Selection.model_validate(given)


def some_sae(architecture: str = "topk") -> SAE:
    generator = torch.Generator().manual_seed(0)
    encoder = torch.randn(WIDTH, D, generator=generator)
    decoder = torch.nn.functional.normalize(torch.randn(WIDTH, D, generator=generator))
    k = K if architecture == "topk" else None
    config = SAEConfig(D, WIDTH, k, "tiny", "layers.1", architecture)
    return SAE(config, Weights(encoder, torch.zeros(WIDTH), decoder, torch.full((D,), 0.1)))


def parent(architecture: str = "topk") -> Parent:
    return Parent(architecture, lambda: some_sae(architecture))


def chosen(catalog: Catalog, name: str = "s") -> list[tuple[Any, ...]]:
    return catalog.rows(
        "SELECT corpus, document, hash, score, tokens, passes FROM selected WHERE selection = ? ORDER BY rank", [name]
    )


def train(catalog: Catalog, corpus: str = "pool") -> list[tuple[int, str, int]]:
    return catalog.rows(
        "SELECT document, hash, tokens FROM documents WHERE corpus = ? AND split = 'train' ORDER BY hash", [corpus]
    )


def test_full_is_every_train_document(small: Catalog, llama: LanguageModel) -> None:
    report = select_documents(small, llama, spec(method="full"))
    rows = chosen(small)
    assert [(document, key, tokens) for _, document, key, _, tokens, _ in rows] == train(small)
    assert {(corpus, score, passes) for corpus, _, _, score, _, passes in rows} == {("pool", None, 1)}
    assert (report.documents, report.tokens) == (len(rows), sum(row[4] for row in rows))


@pytest.mark.parametrize("method", ["random", "bm25", "dense"])
@pytest.mark.parametrize("tokens", [1, 300, 10**9])
def test_documents_are_taken_until_the_budget_is_reached(
    small: Catalog, llama: LanguageModel, method: str, tokens: int
) -> None:
    report = select_documents(small, llama, spec(method=method, tokens=tokens))
    taken = [row[4] for row in chosen(small)]
    assert report.tokens == sum(taken)
    assert sum(taken[:-1]) < tokens
    assert sum(taken) >= tokens or (method == "bm25" or len(taken) == len(train(small)))


@pytest.mark.parametrize("method", ["random", "seed", "bm25", "dense", "bm25+tracin"])
def test_an_equal_rerun_writes_nothing(small: Catalog, llama: LanguageModel, method: str) -> None:
    settings = {"parent": "p"} if "tracin" in method else {}
    first = select_documents(small, llama, spec(method=method, **settings), parent=parent())
    before, rows = small.snapshot(), chosen(small)
    again = select_documents(small, llama, spec(method=method, **settings), parent=parent())
    assert (small.snapshot(), chosen(small)) == (before, rows)
    assert (first.skipped, again.skipped) == (False, True)
    assert (again.documents, again.tokens) == (first.documents, first.tokens)
    # Also when it is worked out anew: the digest only spares the work.
    with small.write("forget") as tx:
        tx.execute("UPDATE lake.selections SET inputs = 'old'")
    assert not select_documents(small, llama, spec(method=method, **settings), parent=parent()).skipped
    assert chosen(small) == rows


def test_a_changed_selection_replaces_its_rows_and_leaves_the_others(small: Catalog, llama: LanguageModel) -> None:
    select_documents(small, llama, spec(method="random"))
    select_documents(small, llama, spec(method="random", name="other", rng=1))
    other = chosen(small, "other")
    assert other != chosen(small)
    select_documents(small, llama, spec(method="full"))
    assert len(chosen(small)) == len(train(small))
    assert chosen(small, "other") == other
    assert small.rows("SELECT selection, method FROM selections ORDER BY ALL") == [("other", "random"), ("s", "full")]


def test_new_text_makes_a_selection_anew(small: Catalog, llama: LanguageModel, tmp_path: Path) -> None:
    select_documents(small, llama, spec(method="full"))
    before = len(chosen(small))
    more = write_lines(tmp_path / "more.jsonl", [f"more {text}" for text in texts(20)])
    ingest_corpus(small, corpus_of(more, name="pool"), llama)
    assert not select_documents(small, llama, spec(method="full")).skipped
    assert len(chosen(small)) == len(train(small)) > before


def test_seed_documents_of_the_split_test_are_refused_with_number_and_names(
    small: Catalog, llama: LanguageModel
) -> None:
    tests = small.rows("SELECT hash, source FROM documents WHERE corpus = 'seed' AND split = 'test' ORDER BY hash")
    assert tests
    before = small.snapshot()
    with pytest.raises(InputError, match=f"{len(tests)} of 20 seed documents stand in the split test") as raised:
        select_documents(small, llama, spec(method="bm25", seed_splits=["train", "val", "test"]))
    assert f"{tests[0][0]} ({tests[0][1]}, seed)" in str(raised.value)
    with pytest.raises(InputError, match="1 of 1 seed documents stand in the split test"):
        select_documents(small, llama, spec(method="seed", seed_documents=[tests[0][0]]))
    assert small.snapshot() == before


@pytest.mark.parametrize("where", ["pool", "exam"])
def test_a_seed_text_in_the_test_split_of_pool_or_evaluation_is_refused(
    small: Catalog, llama: LanguageModel, tmp_path: Path, where: str
) -> None:
    document, key, _ = train(small, "seed")[0]
    text = small.value("SELECT text FROM documents WHERE corpus = 'seed' AND document = ?", [document])
    ingest_corpus(small, corpus_of(write_lines(tmp_path / "e.jsonl", [text, "more"]), name="exam"), llama)
    with small.write("another split") as tx:
        tx.execute("UPDATE lake.documents SET split = 'test' WHERE corpus = 'exam'")
    settings = {"pool": "exam"} if where == "pool" else {"evaluations": ["exam"]}
    with pytest.raises(InputError, match=rf"1 of \d+ seed documents stand in the split test: {key} \(.*, exam\)"):
        select_documents(small, llama, spec(method="bm25", **settings))


def test_seed_documents_can_be_named_sampled_and_limited_to_a_split(small: Catalog) -> None:
    named = [key for _, key, _ in train(small, "seed")[:3]]
    assert list(read_seed(small, spec(method="seed", seed_documents=named)).hashes) == named
    only = read_seed(small, spec(method="seed", seed_splits=["train"]))
    assert list(only.hashes) == [key for _, key, _ in train(small, "seed")]
    few = read_seed(small, spec(method="seed", seed_splits=["train"], seed_tokens=int(only.tokens[:2].sum())))
    assert list(few.hashes) == list(only.hashes[:2])


def test_method_seed_takes_what_training_reads_and_other_methods_take_val_too(
    small: Catalog, llama: LanguageModel
) -> None:
    assert small.value("SELECT count(*) FROM documents WHERE corpus = 'seed' AND split = 'val'")
    both = "SELECT hash FROM documents WHERE corpus = 'seed' AND split IN ('train', 'val') ORDER BY hash"
    assert list(read_seed(small, spec(method="bm25")).hashes) == [key for (key,) in small.rows(both)]
    report = select_documents(small, llama, spec(method="seed", tokens=10**4))
    assert [row[1:3] + row[4:5] for row in chosen(small)] == train(small, "seed")
    said = json.loads(small.value("SELECT seed FROM selections"))
    assert (said["splits"], said["documents"]) == (["train"], report.seed_documents)
    assert report.seed_documents == len(train(small, "seed"))


def test_method_seed_refuses_a_named_document_that_training_does_not_read(small: Catalog, llama: LanguageModel) -> None:
    key = small.value("SELECT hash FROM documents WHERE corpus = 'seed' AND split = 'val' ORDER BY hash")
    named = [key, train(small, "seed")[0][1]]
    with pytest.raises(InputError, match=f"1 of 2 seed documents are not of split train, such as {key}"):
        select_documents(small, llama, spec(method="seed", seed_documents=named))
    assert select_documents(small, llama, spec(method="bm25", seed_documents=named)).seed_documents == 2


def test_method_seed_reads_its_documents_in_turn_until_the_budget(small: Catalog, llama: LanguageModel) -> None:
    seed = read_seed(small, spec(method="seed"))
    total = int(seed.tokens.sum())
    budget = 2 * total + int(seed.tokens[0]) + 1
    report = select_documents(small, llama, spec(method="seed", tokens=budget))
    rows = chosen(small)
    assert [row[5] for row in rows] == [3, 3] + [2] * (len(seed) - 2)
    assert {row[0] for row in rows} == {"seed"}
    assert report.tokens == sum(row[4] * row[5] for row in rows) >= budget
    select_documents(small, llama, spec(method="seed", tokens=1))
    assert [row[5] for row in chosen(small)] == [1]


def test_a_selection_that_finds_nothing_is_refused(small: Catalog, llama: LanguageModel, tmp_path: Path) -> None:
    ingest_corpus(small, corpus_of(write_lines(tmp_path / "z.jsonl", ["zzz", "qqq", "vvv", "www"]), name="odd"), llama)
    with pytest.raises(InputError, match="selection 's' is empty: no document of 'pool' shares a word"):
        select_documents(small, llama, spec(method="bm25", seed="odd"))
    assert small.rows("FROM selections") == []


def test_unknown_names_are_listed(small: Catalog, llama: LanguageModel) -> None:
    with pytest.raises(UnknownName, match="no corpus 'none'; known: pool, seed"):
        select_documents(small, llama, spec(method="full", pool="none"))
    with pytest.raises(UnknownName, match="no document with the hash abc"):
        select_documents(small, llama, spec(method="bm25", seed_documents=["abc"]))
    with pytest.raises(UnknownName, match="no SAE 'p'; known: none"):
        select_documents(small, llama, spec(method="bm25+tracin", parent="p"))


def test_a_corpus_of_another_model_is_refused(small: Catalog, neox: LanguageModel) -> None:
    with small.write("another model") as tx:
        tx.execute("UPDATE lake.corpora SET model = 'big' WHERE corpus = 'seed'")
    with pytest.raises(InputError, match="corpus 'seed' was cut for model 'big', not 'tiny'"):
        select_documents(small, neox, spec(method="bm25"))


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_dense_scores_are_the_encoders_cosines(small: Catalog, llama: LanguageModel, pooling: str) -> None:
    report = select_documents(small, llama, spec(method="dense", over_seed=pooling, tokens=10**9))
    pool, seed = read_pool(small, "pool"), read_seed(small, spec(method="dense"))
    encoder = load_encoder()
    a, b = (np.asarray(encoder.encode(part.texts(small)), np.float64) for part in (pool, seed))
    a, b = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in (a, b))
    expected = dict(zip(pool.hashes, getattr(a @ b.T, pooling)(1), strict=True))
    rows = chosen(small)
    assert len(rows) == len(pool)
    assert [row[3] for row in rows] == pytest.approx([expected[row[2]] for row in rows], abs=1e-5)
    assert [row[3] for row in rows] == sorted((row[3] for row in rows), reverse=True)
    assert report.embedded == len(pool) + len(seed)
    topic = small.value("SELECT text FROM documents WHERE corpus = 'pool' AND document = ?", [rows[0][1]])
    assert topic.startswith(TOPICS[0])


def test_a_document_is_embedded_once(
    small: Catalog, llama: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "CHUNK", 25)
    first = select_documents(small, llama, spec(method="dense"))
    assert first.embedded == len(train(small)) + first.seed_documents
    again = select_documents(small, llama, spec(method="dense", name="t", tokens=50))
    assert again.embedded == 0
    before = len(train(small))
    more = write_lines(tmp_path / "more.jsonl", [f"more {text}" for text in texts(10)])
    ingest_corpus(small, corpus_of(more, name="pool"), llama)
    assert select_documents(small, llama, spec(method="dense")).embedded == len(train(small)) - before


def test_the_vectors_version_is_named_by_the_snapshot_of_the_rows(small: Catalog, llama: LanguageModel) -> None:
    before = small.snapshot()
    select_documents(small, llama, spec(method="dense"))
    assert small.snapshot() == before + 1
    collection, rows = small.rows("SELECT collection, rows FROM lance")[0]
    assert collection == dense.collection_of("all-MiniLM-L6-v2")
    assert rows == len(train(small)) + len(read_seed(small, spec(method="dense")))
    changes = small.last_changes()
    assert changes["lance"] == changes["selected"] == changes["selections"] == before + 1


def test_tracin_reranks_the_candidates_by_the_mean_over_their_tokens(small: Catalog, llama: LanguageModel) -> None:
    one = some_sae()
    settings = {"parent": "p", "tokens": 200, "candidates": 2.0}
    report = select_documents(small, llama, spec(method="bm25+tracin", **settings), parent=Parent("one", lambda: one))
    select_documents(small, llama, spec(method="bm25", tokens=400, name="first"))
    candidates = {row[2] for row in chosen(small, "first")}
    rows = chosen(small)
    assert report.candidates == len(candidates)
    assert {row[2] for row in rows} < candidates

    def residuals(corpus: str, document: int) -> torch.Tensor:
        parts = []
        for (tokens,) in small.rows(
            "SELECT list(token ORDER BY position) FROM tokens WHERE corpus = ? AND document = ? GROUP BY sequence",
            [corpus, int(document)],
        ):
            row = torch.tensor([[llama.bos, *tokens]])
            parts.append(llama.read(row, ["layers.1"])["layers.1"][0, 1:].clone())
        return torch.cat(parts)

    seed = read_seed(small, spec(method="bm25"))
    gradient = seed_gradient(one, [residuals("seed", number) for number in seed.numbers])
    pool = read_pool(small, "pool")
    for _, document, key, score, tokens, _ in rows:
        x = residuals("pool", document)
        assert len(x) == tokens == pool.tokens[list(pool.hashes).index(key)]
        (found,) = document_influence(one, gradient, [(x, np.zeros(len(x), np.int64))], 1)
        assert score == pytest.approx(found, rel=1e-3, abs=1e-3)
    assert [row[3] for row in rows] == sorted((row[3] for row in rows), reverse=True)


def test_a_parent_is_read_when_there_is_something_to_do(
    small: Catalog, llama: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "parent"
    some_sae().save(folder)
    loads: list[str] = []
    load = SAE.load
    monkeypatch.setattr(SAE, "load", lambda folder, *a, **k: (loads.append(str(folder)), load(folder, *a, **k))[1])
    wanted = spec(method="bm25+tracin", parent=str(folder))
    select_documents(small, llama, wanted)
    rows = chosen(small)
    assert len(loads) == 1
    assert select_documents(small, llama, wanted).skipped
    shutil.rmtree(folder)
    assert select_documents(small, llama, wanted).skipped
    assert len(loads) == 1
    # Another budget is another selection, for which the folder is needed.
    with pytest.raises(InputError, match=r"there is no SAE in .*/parent: it is not a folder"):
        select_documents(small, llama, wanted.model_copy(update={"tokens": 100}))
    with pytest.raises(InputError, match="/parent is not a directory"):
        select_documents(small, llama, wanted.model_copy(update={"name": "new"}))
    assert chosen(small) == rows
    # Other weights at the same place are another parent.
    some_sae("relu").save(folder)
    assert not select_documents(small, llama, wanted.model_copy(update={"sparsity": 0.5})).skipped


def test_a_parent_on_disk_that_needs_a_factor_takes_it_from_the_section(
    small: Catalog, llama: LanguageModel, tmp_path: Path
) -> None:
    some_sae().save(tmp_path / "parent")
    settings = json.loads((tmp_path / "parent" / "cfg.json").read_text())
    del settings["metadata"]["saeql"]
    settings["normalize_activations"] = "expected_average_only_in"
    (tmp_path / "parent" / "cfg.json").write_text(json.dumps(settings))
    keys = {"method": "bm25+tracin", "parent": str(tmp_path / "parent")}
    with pytest.raises(InputError, match="Give it as scale="):
        select_documents(small, llama, spec(**keys))
    select_documents(small, llama, spec(**keys, scale=1.5))
    scaled = Parent("scaled", lambda: SAE.load(tmp_path / "parent", scale=1.5))
    rows = chosen(small)
    select_documents(small, llama, spec(**keys), parent=scaled)
    assert chosen(small) == rows
    with pytest.raises(ValidationError, match="belongs to a parent on disk"):
        spec(method="bm25+tracin", parent="p", scale=1.5)


def test_a_parent_without_a_pairwise_loss_is_refused(small: Catalog, llama: LanguageModel) -> None:
    gated = SAE(SAEConfig(D, WIDTH, None, "tiny", "layers.1", "gated"), some_sae().weights)
    with pytest.raises(InputError, match="no gradient for architecture 'gated'"):
        select_documents(small, llama, spec(method="bm25+tracin", parent="p"), parent=Parent("gated", lambda: gated))
    with pytest.raises(InputError, match="L1 coefficient of the relu SAE 'p' is not known: set sparsity"):
        select_documents(small, llama, spec(method="bm25+tracin", parent="p"), parent=parent("relu"))
    known = spec(method="bm25+tracin", parent="p", sparsity=0.5)
    assert select_documents(small, llama, known, parent=parent("relu")).documents


def test_the_row_of_a_selection_says_how_it_was_made(small: Catalog, llama: LanguageModel) -> None:
    report = select_documents(small, llama, spec(method="bm25"))
    method, pool, seed, parent_name, tokens, settings = small.rows(
        "SELECT method, pool, seed, parent, tokens, settings FROM selections"
    )[0]
    assert (method, pool, parent_name, tokens) == ("bm25", "pool", None, 300)
    assert json.loads(seed) == {
        "corpus": "seed",
        "splits": ["train", "val"],
        "documents": report.seed_documents,
        "tokens": report.seed_tokens,
    }
    assert Selection.model_validate_json(settings) == spec(method="bm25")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "bm25"}, "method 'bm25' needs the corpus of the seed documents"),
        ({"method": "random"}, "method 'random' needs how many tokens to select"),
        ({"method": "bm25+tracin", "seed": "s", "tokens": 1}, "needs the SAE whose gradients are compared"),
        ({"method": "full", "tokens": 1}, "is not read by method 'full', which reads pool alone"),
        ({"method": "bm25", "seed": "s", "tokens": 1, "encoder": "x"}, "is not read by method 'bm25'"),
        (
            {"method": "seed", "seed": "s", "tokens": 1, "seed_splits": ["val"]},
            "has no 'train': method 'seed' trains on",
        ),
        ({"method": "random", "tokens": 0}, "greater than or equal to 1"),
        ({"method": "best"}, "Input should be 'full', 'random'"),
    ],
)
def test_a_section_with_a_mistake_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Selection.model_validate({"name": "s", "pool": "pool", **settings})
