"""The training cache holds what the model gives, train and val apart, test never; it goes on where it stopped."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from catalog import Catalog
from catalog.errors import InputError
from ingest.activations import residual_cache as module
from ingest.activations.finite import BATCH_TOKENS
from ingest.activations.residual_cache import cache_residuals, residuals_digest
from ingest.activations.residuals import Residuals
from ingest.activations.streamed_rows import ModelRows, held_out_rows
from ingest.model.batches import batches, load_sequences
from ingest.model.language_model import LanguageModel
from ingest.sae.training.scaled_rows import ScaledRows
from ingest.text.corpus import ingest_corpus
from tests.empty import make_empty
from tests.ingest.tiny import D, corpus_of, loaded, save_model, texts, write_lines

HOOKPOINTS = ["layers.0", "layers.1.mlp"]


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory, llama: LanguageModel) -> Path:
    root = tmp_path_factory.mktemp("ingested")
    with make_empty(root / "catalog") as catalog:
        ingest_corpus(catalog, corpus_of(write_lines(root / "d.jsonl", texts(50))), llama)
    return root / "catalog"


@pytest.fixture
def text(ingested: Path, tmp_path: Path) -> Iterator[Catalog]:
    """A catalog with a corpus in several shards."""
    with Catalog(shutil.copytree(ingested, tmp_path / "catalog")) as catalog:
        yield catalog


def naive(catalog: Catalog, model: LanguageModel, hookpoint: str, split: str) -> np.ndarray:
    """One forward pass per sequence, put in the order of the cache: that of the batches, one split of them."""
    alone: dict[int, np.ndarray] = {}
    order: list[int] = []
    for (shard,) in catalog.rows("SELECT DISTINCT shard FROM documents ORDER BY shard"):
        one = load_sequences(catalog, "docs", shard)
        for start, length, side in zip(one.starts, one.lengths, one.splits, strict=True):
            if side == split:
                row = torch.tensor([[model.bos, *one.ids[start : start + length].tolist()]])
                rows = model.read(row, [hookpoint])[hookpoint][0, 1:].numpy()
                alone.update(enumerate(rows, start=int(one.first + start)))
        for batch in batches(one, model.bos, BATCH_TOKENS):
            order += [position for position in batch.positions.tolist() if position in alone]
    return np.array([alone[position] for position in order])


@pytest.mark.parametrize("split", ["train", "val"])
def test_rows_are_what_the_model_gives_in_half_precision(text: Catalog, llama: LanguageModel, split: str) -> None:
    cached = cache_residuals(text, llama, HOOKPOINTS, ["docs"])
    for hookpoint in HOOKPOINTS:
        rows = getattr(cached[hookpoint], split)
        expected = naive(text, llama, hookpoint, split)
        assert rows.dtype == np.float16
        assert rows.shape == expected.shape == (len(expected), D)
        np.testing.assert_allclose(rows, expected, atol=1e-4, rtol=2**-10)


def test_test_documents_are_never_cached(text: Catalog, llama: LanguageModel) -> None:
    tokens = dict(text.rows("SELECT split, sum(tokens) FROM documents GROUP BY split"))
    assert tokens["test"] > 0
    cached = cache_residuals(text, llama, ["layers.0"], ["docs"])["layers.0"]
    assert (len(cached.train), len(cached.val)) == (tokens["train"], tokens["val"])


def test_what_is_cached_is_not_computed_again(
    text: Catalog, llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cache_residuals(text, llama, ["layers.0"], ["docs"])["layers.0"]
    monkeypatch.setattr(LanguageModel, "read", lambda *_: pytest.fail("the model ran again"))
    again = cache_residuals(text, llama, ["layers.0"], ["docs"])["layers.0"]
    assert again.digest == first.digest
    assert again.train.tobytes() == first.train.tobytes()


def test_train_tokens_limit_the_cache(text: Catalog, llama: LanguageModel) -> None:
    whole = cache_residuals(text, llama, ["layers.0"], ["docs"])["layers.0"]
    some = cache_residuals(text, llama, ["layers.0"], ["docs"], max_train_tokens=200)["layers.0"]
    assert some.train.tobytes() == whole.train[:200].tobytes()
    assert some.digest != whole.digest


class Cut(BaseException):
    """As if the power failed."""


def interrupted(text: Catalog, llama: LanguageModel, monkeypatch: pytest.MonkeyPatch, method: str, n: int) -> None:
    real: Callable[..., None] = getattr(module._CacheFolder, method)
    calls = 0

    def cut(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls == n:
            raise Cut
        real(*arguments)

    monkeypatch.setattr(module._CacheFolder, method, cut)
    with pytest.raises(Cut):
        cache_residuals(text, llama, HOOKPOINTS, ["docs"])
    monkeypatch.undo()


@pytest.mark.parametrize(("method", "n"), [("append", 1), ("append", 4), ("finish_shard", 1), ("finish_shard", 4)])
def test_an_interrupted_cache_goes_on_to_the_same_bytes(
    text: Catalog, llama: LanguageModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str, n: int
) -> None:
    interrupted(text, llama, monkeypatch, method, n)
    mended = cache_residuals(text, llama, HOOKPOINTS, ["docs"])
    got = {name: (r.train.tobytes(), r.val.tobytes()) for name, r in mended.items()}
    (text.root / "cache" / "residuals").rename(tmp_path / "away")
    undisturbed = cache_residuals(text, llama, HOOKPOINTS, ["docs"])
    assert got == {name: (r.train.tobytes(), r.val.tobytes()) for name, r in undisturbed.items()}


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_truncated_file_is_noticed_and_computed_again(text: Catalog, llama: LanguageModel, damage: str) -> None:
    def cached() -> Residuals:
        return cache_residuals(text, llama, ["layers.0"], ["docs"])["layers.0"]

    before = cached()
    rows = before.train.tobytes()
    path = text.cache / "residuals" / before.digest / "train.f16"
    del before
    if damage == "cut":
        os.truncate(path, 100)
    else:
        path.unlink()
    assert cached().train.tobytes() == rows


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"done": [["docs", 0',
        b"\0" * 60,
        b"null",
        b'{"d": 16}',
        b'{"done": [], "d": 16, "rows": [1, 2], "made": {}}',
    ],
)
def test_a_state_that_cannot_be_read_is_none(text: Catalog, llama: LanguageModel, content: bytes) -> None:
    before = cache_residuals(text, llama, ["layers.0"], ["docs"])["layers.0"]
    rows, shards, folder = before.train.tobytes(), before.shards, text.cache / "residuals" / before.digest
    del before
    (folder / "state.json").write_bytes(content)
    again = cache_residuals(text, llama, ["layers.0"], ["docs"])["layers.0"]
    assert (again.train.tobytes(), again.shards) == (rows, shards)
    assert json.loads((folder / "state.json").read_bytes())["rows"]["train"] == len(again.train)


def test_a_killed_writer_leaves_no_partial_state(text: Catalog, llama: LanguageModel) -> None:
    folder = text.cache / "residuals" / residuals_digest(text, llama, "layers.0", ["docs"], None)
    folder.mkdir(parents=True)
    (folder / ".state.json.0a1b.partial").write_bytes(b'{"done":')
    cache_residuals(text, llama, ["layers.0"], ["docs"])
    assert {path.name for path in folder.iterdir()} == {
        "state.json", "train.f16", "train.exp", "train.pos", "val.f16", "val.exp", "val.pos"
    }  # fmt: skip


def test_a_cache_of_another_model_is_refused(text: Catalog, llama: LanguageModel, tmp_path: Path) -> None:
    other = loaded(save_model(tmp_path / "other", seed=5))
    theirs = cache_residuals(text, other, ["layers.0"], ["docs"])["layers.0"].digest
    folder = text.cache / "residuals"
    shutil.copytree(folder / theirs, folder / residuals_digest(text, llama, "layers.0", ["docs"], None))
    with pytest.raises(InputError, match=rf"was made with model '{other.digest}', and this study has '{llama.digest}'"):
        cache_residuals(text, llama, ["layers.0"], ["docs"])


def test_the_digest_is_of_model_hookpoint_text_and_limit(text: Catalog, llama: LanguageModel, tmp_path: Path) -> None:
    other = loaded(save_model(tmp_path / "other", seed=5))
    digests = {
        residuals_digest(text, model, hookpoint, ["docs"], limit)
        for model in (llama, other)
        for hookpoint in ("layers.0", "layers.1")
        for limit in (None, 100)
    }
    assert len(digests) == 8


def test_rows_beyond_half_precision_are_kept_with_exponents(text: Catalog, llama_folder: Path) -> None:
    model = loaded(llama_folder)
    model.network.get_input_embeddings().weight[5:].mul_(1e6)
    expected = naive(text, model, "layers.0", "train")
    assert np.abs(expected).max() > 5e5
    cached = cache_residuals(text, model, ["layers.0"], ["docs"])["layers.0"]
    assert isinstance(cached.train, ScaledRows)
    # 11 bits of the largest value of each row.
    error = np.abs(np.asarray(cached.train) - expected).max(1) / np.abs(expected).max(1)
    assert error.max() < 2**-10
    source = ModelRows(text, model, "layers.0", ["docs"], None)
    streamed = source.read([("docs", shard, 0) for _, shard, *_ in cached.shards])
    np.testing.assert_array_equal(np.asarray(streamed), np.asarray(cached.train))
    held_out = held_out_rows(text, model, ["layers.0"], ["docs"])["layers.0"]
    np.testing.assert_array_equal(np.asarray(held_out), np.asarray(cached.val))
    # The cache of an earlier version, without exponents, is one whose rows were all within range.
    folder = text.cache / "residuals" / cached.digest
    for path in folder.glob("*.exp"):
        path.unlink()
    again = cache_residuals(text, model, ["layers.0"], ["docs"])["layers.0"]
    assert isinstance(again.train, np.memmap)


def test_rows_from_the_model_are_those_of_the_cache(text: Catalog, llama: LanguageModel) -> None:
    cached = cache_residuals(text, llama, ["layers.0"], ["docs"])["layers.0"]
    source = ModelRows(text, llama, "layers.0", ["docs"], None)
    streamed = source.read([("docs", shard, 0) for _, shard, *_ in cached.shards])
    assert streamed.dtype == np.float16
    assert streamed.tobytes() == cached.train.tobytes()
    assert held_out_rows(text, llama, ["layers.0"], ["docs"])["layers.0"].tobytes() == cached.val.tobytes()


def test_a_value_that_is_not_finite_is_refused_with_hookpoint_and_sequence(text: Catalog, llama_folder: Path) -> None:
    model = loaded(llama_folder)
    (poison,) = model.tokenizer(" 日本", add_special_tokens=False).input_ids[:1]
    model.network.get_input_embeddings().weight[poison] = float("nan")
    bad = {s for (s,) in text.rows("SELECT DISTINCT sequence FROM tokens WHERE token = ?", [poison])}
    with pytest.raises(InputError, match=r"hookpoint 'layers.0' gives a value that is not finite") as raised:
        cache_residuals(text, model, ["layers.0"], ["docs"])
    named = int(str(raised.value).split("the sequence that begins at ")[1].split(")")[0])
    assert named in bad
