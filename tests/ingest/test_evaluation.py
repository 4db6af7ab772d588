"""The table evaluations against a loop over single sequences, and what a second run does and leaves."""

import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from catalog import Catalog
from catalog.errors import InputError, UnknownName
from ingest.corpus import ingest_corpus
from ingest.evaluation import evaluate_text
from ingest.harvest import Reader
from ingest.models import LanguageModel
from ingest.sae.architecture import Weights
from ingest.sae.config import SAEConfig
from ingest.sae.evaluate import evaluate
from ingest.sae.model import SAE
from ingest.sequences import load_sequences
from tests.empty import make_empty
from tests.ingest.tiny import WORDS, D, corpus_of, loaded, repeats, texts, write_lines

WIDTH, K = 40, 4


def reader(name: str = "s", seed: int = 0, hookpoint: str = "layers.1", **config: Any) -> Reader:
    """A random TopK SAE, or transcoder, whose latents 0 fires nowhere."""
    generator = torch.Generator().manual_seed(seed)
    encoder = torch.randn(WIDTH, D, generator=generator)
    decoder = torch.nn.functional.normalize(torch.randn(WIDTH, D, generator=generator))
    bias = torch.zeros(WIDTH)
    bias[0] = -1000
    bias[1] = 1000
    config = {"d_in": D, "width": WIDTH, "k": K, "model_name": "tiny", "hookpoint": hookpoint, **config}
    weights = Weights(encoder, bias, decoder / 10, torch.randn(D, generator=generator) / 10)
    return Reader(name, hookpoint, SAE(SAEConfig(**config), weights), f"{name}/{seed}/{hookpoint}")


def transcoder(name: str = "t") -> Reader:
    return reader(name, 3, "layers.1.post_attention_layernorm", target_hookpoint="layers.1.mlp", d_out=D, centred=False)


@pytest.fixture(params=["llama", "neox"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    """With and without a BOS; the text's token ids mean the same to both."""
    found: LanguageModel = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def _ingested(tmp_path_factory: pytest.TempPathFactory, llama: LanguageModel) -> Path:
    root = tmp_path_factory.mktemp("evaluated")
    with make_empty(root / "catalog") as catalog:
        for number, name in enumerate(("docs", "more")):
            lines = write_lines(root / f"{name}.jsonl", texts(60, number))
            ingest_corpus(catalog, corpus_of(lines, name=name), llama)
    return root / "catalog"


@pytest.fixture
def text(_ingested: Path, tmp_path: Path) -> Iterator[Catalog]:
    """A catalog with two corpora, in several shards each, and nothing measured."""
    with Catalog(shutil.copytree(_ingested, tmp_path / "catalog")) as catalog:
        assert catalog.value("SELECT max(shard) FROM documents WHERE corpus = 'docs'") >= 2
        yield catalog


def stored(catalog: Catalog, sae: str, corpus: str = "docs", split: str = "test") -> dict[str, Any]:
    cursor = catalog.connection.execute(
        "SELECT * FROM evaluations WHERE sae = ? AND corpus = ? AND split = ?", [sae, corpus, split]
    )
    names = [column[0] for column in cursor.description or []]
    (row,) = cursor.fetchall()
    return dict(zip(names, row, strict=True))


def naive(
    catalog: Catalog, model: LanguageModel, one: Reader, split: str, documents: set[int], corpus: str = "docs"
) -> dict[str, float]:
    """What the row must hold: each sequence alone, dense codes, the measures over all rows at once."""
    left_out = repeats(catalog, corpus, split) if split != "train" else set()
    repeated = 0
    xs, targets, hats, codes = [], [], [], []
    ce = {"clean": 0.0, "spliced": 0.0, "ablated": 0.0}
    predictions, w = 0, one.sae.weights
    target = one.sae.config.target_hookpoint or one.hookpoint
    lead = int(model.bos is not None)
    owner = dict(catalog.rows("SELECT position, document FROM tokens WHERE corpus = ?", [corpus]))
    shards = catalog.rows("SELECT DISTINCT shard FROM documents WHERE corpus = ? ORDER BY shard", [corpus])
    for (shard,) in shards:
        sequences = load_sequences(catalog, corpus, shard)
        for start, length, of in zip(sequences.starts, sequences.lengths, sequences.splits, strict=True):
            if of != split or owner[int(sequences.first + start)] not in documents:
                continue
            tokens = sequences.ids[start : start + length].tolist()
            ids = torch.tensor([[*([model.bos] if lead else []), *tokens]])
            x = model.read(ids, [one.hookpoint])[one.hookpoint][0, lead:].double()
            aim = model.read(ids, [target])[target][0, lead:].double()
            inside = x - w.decoder_bias if one.sae.config.centred else x
            pre = torch.relu(inside @ w.encoder.double().T + w.encoder_bias)
            kept = pre.topk(K)
            code = torch.zeros_like(pre).scatter(1, kept.indices, kept.values)
            hat = code @ w.decoder.double() + w.decoder_bias
            at = int(sequences.first + start)
            new = torch.tensor([position not in left_out for position in range(at, at + length)])
            repeated += int((~new).sum())
            xs.append(x[new]), targets.append(aim[new]), hats.append(hat[new]), codes.append(code[new])
            if ids.shape[1] < 2:
                continue
            predictions += int(new[1 - lead :].sum())
            for name, rows in (("clean", aim), ("spliced", hat), ("ablated", torch.zeros_like(aim))):
                ce[name] += float(hooked(model, ids, target, rows.float())[new[1 - lead :]].sum())
    t, x_hat, code = (torch.cat(part).numpy() for part in (targets, hats, codes))
    means = {f"ce_{name}": total / predictions for name, total in ce.items()}
    fired = (code > 0).mean(0)
    cosine = (t * x_hat).sum(1) / np.linalg.norm(t, axis=1) / np.linalg.norm(x_hat, axis=1)
    return {
        **means,
        "tokens": len(t),
        "documents": len(documents),
        "repeated": repeated,
        "predictions": predictions,
        "l0": (code > 0).sum() / len(t),
        "fve": 1 - ((t - x_hat) ** 2).sum() / ((t - t.mean(0)) ** 2).sum(),
        "mse": ((t - x_hat) ** 2).mean(),
        "cosine": cosine.mean(),
        "dead": (fired == 0).sum(),
        "dense": (fired > 0.1).sum(),
        "loss_recovered": (means["ce_ablated"] - means["ce_spliced"]) / (means["ce_ablated"] - means["ce_clean"]),
    }


def hooked(model: LanguageModel, ids: torch.Tensor, hookpoint: str, rows: torch.Tensor) -> torch.Tensor:
    """-log p of each token but the first of `ids`, from the model's logits with the rows put in after BOS."""
    lead = int(model.bos is not None)

    def put(_module: object, _inputs: object, output: Any) -> Any:
        found = output[0] if isinstance(output, tuple) else output
        found = torch.cat([found[:, :lead], rows[None]], 1)
        return (found, *output[1:]) if isinstance(output, tuple) else found

    handle = model.hookpoint(hookpoint).register_forward_hook(put)
    with torch.inference_mode():
        logits = model.network(ids).logits[0, :-1]
    handle.remove()
    return -logits.double().log_softmax(1).gather(1, ids[0, 1:, None])[:, 0]


def documents(catalog: Catalog, split: str, corpus: str = "docs") -> set[int]:
    found = catalog.rows("SELECT document FROM documents WHERE corpus = ? AND split = ?", [corpus, split])
    return {document for (document,) in found}


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_rows_are_those_of_a_loop_over_single_sequences(
    text: Catalog, model: LanguageModel, split: str, batch_tokens: int
) -> None:
    readers = [reader("s"), reader("u", 1, "layers.0")]
    report = evaluate_text(text, model, readers, ["docs"], (split,), batch_tokens=batch_tokens)
    assert report.evaluated == [("s", "docs", split), ("u", "docs", split)]
    for one in readers:
        row = stored(text, one.name, split=split)
        expected = naive(text, model, one, split, documents(text, split))
        assert (row["dead"] >= 1, row["dense"] >= 1) == (True, True)
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
        assert row["max_tokens"] is None


@pytest.fixture
def copied(text: Catalog, llama: LanguageModel, tmp_path: Path) -> Catalog:
    """A third corpus, of pieces of train text between words of its own; some documents are a piece and nothing else."""
    train = text.rows("SELECT text FROM documents WHERE split = 'train' ORDER BY corpus, document")
    rng, made = random.Random(1), []
    for number, (words,) in enumerate((row[0].split(),) for row in train[::2] if len(row[0].split()) > 25):
        piece = words[rng.randrange(5) : -rng.randrange(1, 5)]
        made.append(" ".join(piece))
        made.append(" ".join([f"{number}", *rng.choices(WORDS, k=9), *piece, *rng.choices(WORDS, k=7)]))
    ingest_corpus(text, corpus_of(write_lines(tmp_path / "copies.jsonl", made), name="copies"), llama)
    return text


def test_tokens_that_repeat_train_text_are_read_but_not_measured(copied: Catalog, model: LanguageModel) -> None:
    readers = [reader("s"), transcoder()] if model.spec.name == "tiny" and model.bos is not None else [reader("s")]
    evaluate_text(copied, model, readers, ["copies"], batch_tokens=100)
    for split in ("val", "test"):
        for one in readers:
            row = stored(copied, one.name, "copies", split)
            expected = naive(copied, model, one, split, documents(copied, split, "copies"), "copies")
            assert row["repeated"] > 0
            for name, value in expected.items():
                assert row[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_what_is_measured_follows_the_train_text(copied: Catalog, llama: LanguageModel) -> None:
    evaluate_text(copied, llama, [reader("s")], ["copies"], ("test",))
    before = stored(copied, "s", "copies")
    # All other text held out: nothing of the copies is known from train text, but for that of their own corpus.
    copied.connection.execute("UPDATE lake.documents SET split = 'val' WHERE corpus <> 'copies'")
    assert evaluate_text(copied, llama, [reader("s")], ["copies"], ("test",)).evaluated
    after = stored(copied, "s", "copies")
    assert after["repeated"] < before["repeated"]
    assert after["tokens"] + after["repeated"] == before["tokens"] + before["repeated"]
    assert not evaluate_text(copied, llama, [reader("s")], ["copies"], ("test",)).evaluated
    # Train text is measured as it is.
    evaluate_text(copied, llama, [reader("s")], ["copies"], ("train",), max_tokens=100)
    assert stored(copied, "s", "copies", "train")["repeated"] == 0


def test_text_that_only_repeats_is_a_problem(copied: Catalog, llama: LanguageModel) -> None:
    wholly = [
        document
        for document in documents(copied, "test", "copies")
        if {
            p
            for (p,) in copied.rows("SELECT position FROM tokens WHERE corpus = 'copies' AND document = ?", [document])
        }
        <= repeats(copied, "copies", "test")
    ]
    assert wholly
    copied.connection.execute(
        "UPDATE lake.documents SET split = 'val' WHERE corpus = 'copies' AND split = 'test' "
        "AND NOT list_contains(?, document)",
        [wholly],
    )
    report = evaluate_text(copied, llama, [reader("s")], ["copies"], ("test",))
    ((_, _, reason),) = report.left_out
    tokens = copied.value("SELECT sum(tokens) FROM documents WHERE corpus = 'copies' AND split = 'test'")
    assert reason == (
        f"it has {len(wholly)} documents with {tokens} tokens, {tokens} of them in 16 that stand in train text: "
        "two are needed"
    )
    assert copied.rows("FROM evaluations WHERE corpus = 'copies'") == []


def test_a_transcoder_replaces_its_target_and_is_measured_against_it(text: Catalog, llama: LanguageModel) -> None:
    one = transcoder()
    evaluate_text(text, llama, [one], ["docs"], ("test",))
    row = stored(text, "t")
    for name, value in naive(text, llama, one, "test", documents(text, "test")).items():
        assert row[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_tokens_are_taken_by_the_documents_hashes(text: Catalog, model: LanguageModel) -> None:
    one = reader()
    evaluate_text(text, model, [one], ["docs"], ("test",), max_tokens=40)
    row, taken = stored(text, "s"), set()
    tokens = 0
    for document, _, n in sorted(
        text.rows("SELECT document, hash, tokens FROM documents WHERE corpus = 'docs' AND split = 'test'"),
        key=lambda found: found[1][16:],
    ):
        if tokens < 40:
            taken.add(document)
            tokens += n
    assert len(taken) < len(documents(text, "test"))
    assert (row["tokens"], row["documents"], row["max_tokens"]) == (tokens, len(taken), 40)
    for name, value in naive(text, model, one, "test", taken).items():
        assert row[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_the_clean_and_the_ablated_pass_are_shared_by_all_saes(text: Catalog, llama: LanguageModel) -> None:
    heads: list[int] = []
    handle = llama.network.get_output_embeddings().register_forward_hook(lambda *_: heads.append(1))
    batches = 0

    def count(_done: int, _total: int | None) -> None:
        nonlocal batches
        batches += 1

    evaluate_text(text, llama, [reader("a"), reader("b", 1), reader("c", 2)], ["docs"], ("test",), progress=count)
    handle.remove()
    # And two beforehand: whether the model's own rows in that place leave its losses.
    assert len(heads) == batches * (1 + 1 + 3) + 2


def test_a_second_run_measures_only_what_is_new(text: Catalog, llama: LanguageModel) -> None:
    evaluate_text(text, llama, [reader("a")], ["docs", "more"])
    before, snapshot = text.rows("FROM evaluations ORDER BY ALL"), text.snapshot()
    report = evaluate_text(text, llama, [reader("a")], ["docs", "more"])
    assert (report.evaluated, report.tokens, len(report.current)) == ([], 0, 4)
    assert text.snapshot() == snapshot
    report = evaluate_text(text, llama, [reader("a"), reader("b", 1)], ["docs", "more"])
    assert {sae for sae, _, _ in report.evaluated} == {"b"}
    assert text.rows("FROM evaluations WHERE sae = 'a' ORDER BY ALL") == before
    changed = replace(reader("a", 5), digest="other weights")
    report = evaluate_text(text, llama, [changed], ["docs"], ("test",))
    assert report.evaluated == [("a", "docs", "test")]
    assert len(text.rows("FROM evaluations WHERE sae = 'a'")) == 4
    assert evaluate_text(text, llama, [changed], ["docs"], ("test",), max_tokens=40).evaluated


def test_only_the_text_of_the_split_decides_what_is_stale(text: Catalog, llama: LanguageModel) -> None:
    def move(one_of: str, to: str) -> None:
        first = "(SELECT min(document) FROM documents WHERE corpus = 'docs' AND split = ?)"
        text.connection.execute(
            f"UPDATE lake.documents SET split = ? WHERE corpus = 'docs' AND document = {first}", [to, one_of]
        )

    evaluate_text(text, llama, [reader("a")], ["docs"], ("test",))
    move("train", "val")
    assert not evaluate_text(text, llama, [reader("a")], ["docs"], ("test",)).evaluated
    move("test", "train")
    assert evaluate_text(text, llama, [reader("a")], ["docs"], ("test",)).evaluated


def test_a_split_without_text_is_a_problem_until_there_is_some(text: Catalog, llama: LanguageModel) -> None:
    text.connection.execute("UPDATE lake.documents SET split = 'train' WHERE corpus = 'more' AND split = 'val'")
    report = evaluate_text(text, llama, [reader("a")], ["docs", "more"])
    ((corpus, split, reason),) = report.left_out
    assert (corpus, split) == ("more", "val")
    assert "0 documents" in reason
    assert text.rows("SELECT stage, subject, reason FROM problems WHERE stage = 'evaluation'") == [
        ("evaluation", "more:val", reason)
    ]
    assert len(report.evaluated) == 3
    text.connection.execute("UPDATE lake.documents SET split = 'val' WHERE corpus = 'more' AND split = 'train'")
    assert evaluate_text(text, llama, [reader("a")], ["more"], ("val",)).evaluated == [("a", "more", "val")]
    assert text.rows("SELECT * FROM problems WHERE stage = 'evaluation'") == []


def test_rows_that_are_all_equal_are_measured_but_for_the_fve(text: Catalog, llama_folder: Path) -> None:
    model = loaded(llama_folder)
    layer = model.network.get_submodule("model.layers.1")
    held = layer.register_forward_hook(lambda module, given, output: torch.ones_like(output))
    report = evaluate_text(text, model, [reader("a"), reader("b", hookpoint="layers.0")], ["docs"], ("test",))
    assert len(report.evaluated) == 2
    found = text.rows("SELECT sae, fve IS NULL, l0 > 0, mse > 0, ce_spliced > 0 FROM evaluations ORDER BY sae")
    assert found == [("a", True, True, True, True), ("b", False, True, True, True)]
    problems = "SELECT subject, reason FROM problems WHERE stage = 'evaluation'"
    ((subject, reason),) = text.rows(problems)
    assert subject == "a on docs:test"
    assert "rows are all equal and have no variance" in str(reason)
    held.remove()
    changed = replace(reader("a"), digest="other weights")
    evaluate_text(text, model, [changed], ["docs"], ("test",))
    assert text.rows(problems) == []


def test_unknown_names_and_saes_that_do_not_fit_are_refused(text: Catalog, llama: LanguageModel) -> None:
    with pytest.raises(UnknownName, match="'other'; the catalog has docs, more"):
        evaluate_text(text, llama, [reader()], ["other"])
    with pytest.raises(UnknownName, match="train, val, test"):
        evaluate_text(text, llama, [reader()], ["docs"], ("dev",))
    with pytest.raises(UnknownName, match=r"layers\.7"):
        evaluate_text(text, llama, [reader(hookpoint="layers.7")], ["docs"])
    narrow = reader()
    sae = SAE(replace(narrow.sae.config, d_in=8), narrow.sae.weights)
    with pytest.raises(InputError, match="width 8"):
        evaluate_text(text, llama, [replace(narrow, sae=sae)], ["docs"])
    broken = reader("broken")
    broken.sae.weights.decoder_bias[0] = torch.inf
    report = evaluate_text(text, llama, [broken, reader("fine")], ["docs"], ("test",))
    reason = "the SAE in place of 'layers.1' gives a loss that is not finite: try dtype = 'float32'"
    assert report.failed == [("broken", "docs", "test", reason)]
    assert report.evaluated == [("fine", "docs", "test")]
    said = "SELECT subject, reason FROM problems WHERE stage = 'evaluation'"
    assert text.rows(said) == [("broken on docs:test", reason)]
    assert text.rows("SELECT sae FROM evaluations") == [("fine",)]
    before = text.newest()
    evaluate_text(text, llama, [broken, reader("fine")], ["docs"], ("test",))
    assert text.newest() == before


def test_cached_rows_of_a_transcoder_are_measured_against_their_target() -> None:
    one = transcoder().sae
    generator = np.random.default_rng(0)
    x, target = (generator.standard_normal((300, D)).astype(np.float16) for _ in range(2))
    result = evaluate(one, x, target)
    x_hat = one.decode(one.encode(torch.from_numpy(x).float())).double().numpy()
    t = target.astype(np.float64)
    assert result.fve == pytest.approx(1 - ((t - x_hat) ** 2).sum() / ((t - t.mean(0)) ** 2).sum(), rel=1e-5)
    with pytest.raises(InputError, match="do not fill"):
        evaluate(one, x, target[:200])
