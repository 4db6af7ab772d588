"""The activations table equals a naive pass over every sequence, and a second run touches only what changed."""

import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from catalog import Catalog
from catalog.errors import InputError, UnknownName
from catalog.store.shards import file_digest
from ingest.activations.harvest import harvest
from ingest.model.batches import load_sequences
from ingest.model.language_model import LanguageModel
from ingest.sae.architecture import Weights
from ingest.sae.config import SAEConfig
from ingest.sae.model import SAE
from ingest.stored.reader import Reader
from ingest.text.corpus import ingest_corpus
from tests.empty import make_empty
from tests.ingest.tiny import D, content, corpus_of, loaded, texts, write_lines

WIDTH, K = 40, 4


def sae(seed: int, hookpoint: str = "layers.1", scale: float = 1.0, bias: float = 0.0) -> SAE:
    generator = torch.Generator().manual_seed(seed)
    encoder = torch.randn(WIDTH, D, generator=generator) * scale
    decoder = torch.nn.functional.normalize(torch.randn(WIDTH, D, generator=generator))
    config = SAEConfig(d_in=D, width=WIDTH, k=K, model_name="tiny", hookpoint=hookpoint)
    return SAE(config, Weights(encoder, torch.full((WIDTH,), bias), decoder, torch.zeros(D)))


def reader(
    seed: int = 0, name: str = "s", hookpoint: str = "layers.1", scale: float = 1.0, bias: float = 0.0
) -> Reader:
    return Reader(name, hookpoint, sae(seed, hookpoint, scale, bias), f"{seed}/{hookpoint}/{scale}/{bias}")


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory, llama: LanguageModel) -> Path:
    root = tmp_path_factory.mktemp("harvested")
    with make_empty(root / "catalog") as catalog:
        ingest_corpus(catalog, corpus_of(write_lines(root / "d.jsonl", texts(40))), llama)
    return root / "catalog"


@pytest.fixture
def text(ingested: Path, tmp_path: Path) -> Iterator[Catalog]:
    """A catalog with a corpus in three or more shards, and nothing harvested."""
    with Catalog(shutil.copytree(ingested, tmp_path / "catalog")) as catalog:
        assert len(shards(catalog)) >= 3
        yield catalog


def shards(catalog: Catalog) -> list[int]:
    return [shard for (shard,) in catalog.rows("SELECT DISTINCT shard FROM documents ORDER BY shard")]


def naive(catalog: Catalog, model: LanguageModel, one: Reader) -> dict[tuple[int, int], float]:
    """(feature, position) -> activation: each sequence alone, dense pre-activations, the k largest above zero."""
    found = {}
    w = one.sae.weights
    for shard in shards(catalog):
        sequences = load_sequences(catalog, "docs", shard)
        for start, length in zip(sequences.starts, sequences.lengths, strict=True):
            row = torch.tensor([[model.bos, *sequences.ids[start : start + length].tolist()]])
            x = model.read(row, [one.hookpoint])[one.hookpoint][0, 1:].double()
            dense = (x - w.decoder_bias) @ w.encoder.double().T + w.encoder_bias
            for i, values in enumerate(dense):
                for feature in values.argsort(descending=True)[:K].tolist():
                    if float(values[feature]) > 2**-25:
                        found[feature, int(sequences.first + start + i)] = float(values[feature])
    return found


def stored(catalog: Catalog, name: str = "s") -> dict[tuple[int, int], float]:
    rows = catalog.rows("SELECT feature, position, activation FROM activations WHERE sae = ?", [name])
    assert len({row[:2] for row in rows}) == len(rows), "an activation stands twice"
    return {(feature, position): value for feature, position, value in rows}


def assert_same(found: dict[tuple[int, int], float], expected: dict[tuple[int, int], float]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=2**-10, abs=1e-4)


@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_activations_equal_a_naive_loop_over_sequences(text: Catalog, llama: LanguageModel, batch_tokens: int) -> None:
    one = reader()
    report = harvest(text, llama, [one], ["docs"], batch_tokens)
    expected = naive(text, llama, one)
    assert_same(stored(text), expected)
    assert report.activations == len(expected)
    assert report.tokens == text.value("SELECT count(*) FROM tokens")
    assert (report.shards, report.skipped) == (len(shards(text)), 0)


def test_several_saes_on_several_hookpoints_share_one_pass(text: Catalog, llama: LanguageModel) -> None:
    readers = [reader(0, "a", "layers.0"), reader(1, "b", "layers.1.mlp"), reader(2, "c", "layers.0")]
    passes: list[int] = []
    handle = llama.hookpoint("layers.0").register_forward_hook(lambda _module, _args, x: passes.append(x.shape[0]))
    harvest(text, llama, readers, ["docs"], 10_000)
    handle.remove()
    # Each sequence once, in two batches a shard: train and val text, which a cache may hold, and test text.
    assert sum(passes) == text.value("SELECT count(DISTINCT sequence) FROM tokens")
    assert len(passes) <= 2 * len(shards(text))
    for one in readers:
        assert_same(stored(text, one.name), naive(text, llama, one))


def test_a_bos_has_no_position(text: Catalog, llama: LanguageModel) -> None:
    harvest(text, llama, [reader()], ["docs"])
    positions = {position for _, position in stored(text)}
    assert positions <= set(range(text.value("SELECT count(*) FROM tokens")))
    assert text.value("SELECT count(*) FROM tokens WHERE token = ?", [llama.bos]) == 0


def test_files_are_sorted_and_recorded_with_their_digests(text: Catalog, llama: LanguageModel) -> None:
    harvest(text, llama, [reader()], ["docs"])
    recorded = text.rows("SELECT path, shard, rows, bytes, blake2b FROM shards WHERE relation = 'activations'")
    assert [shard for _, shard, *_ in sorted(recorded, key=lambda row: row[1])] == shards(text)
    for path, shard, rows, size, digest in recorded:
        file = text.data / path
        assert (file.stat().st_size, file_digest(file)) == (size, digest)
        table = pq.read_table(file)
        keys = list(zip(table.column("feature").to_pylist(), table.column("position").to_pylist(), strict=True))
        assert keys == sorted(keys)
        assert len(keys) == rows
        assert set(table.column("shard").to_pylist()) == {shard}


def test_a_second_run_skips_whole_shards_and_makes_no_snapshot(text: Catalog, llama: LanguageModel) -> None:
    harvest(text, llama, [reader()], ["docs"])
    before, rows = text.snapshot(), content(text, "activations")
    report = harvest(text, llama, [reader()], ["docs"])
    assert (report.shards, report.skipped, report.tokens) == (0, len(shards(text)), 0)
    assert text.snapshot() == before
    assert content(text, "activations") == rows


def test_a_new_sae_does_not_touch_the_others(text: Catalog, llama: LanguageModel) -> None:
    harvest(text, llama, [reader(0, "old")], ["docs"])
    before = text.rows("SELECT path FROM shards WHERE sae = 'old' ORDER BY path")
    harvest(text, llama, [reader(0, "old"), reader(1, "new")], ["docs"])
    assert text.rows("SELECT path FROM shards WHERE sae = 'old' ORDER BY path") == before
    assert_same(stored(text, "new"), naive(text, llama, reader(1, "new")))


def test_a_changed_sae_replaces_its_rows_and_files(text: Catalog, llama: LanguageModel) -> None:
    harvest(text, llama, [reader(0), reader(0, "other")], ["docs"])
    old = {path for (path,) in text.rows("SELECT path FROM shards WHERE sae = 's'")}
    other = stored(text, "other")
    report = harvest(text, llama, [reader(1)], ["docs"])
    assert report.shards == len(shards(text))
    assert_same(stored(text), naive(text, llama, reader(1)))
    new = {path for (path,) in text.rows("SELECT path FROM shards WHERE sae = 's'")}
    assert len(new) == len(old)
    assert not new & old
    live = {
        Path(path).name for (path,) in text.rows("SELECT data_file FROM ducklake_list_files('lake', 'activations')")
    }
    assert {Path(path).name for path in new} <= live
    assert not {Path(path).name for path in old} & live
    assert stored(text, "other") == other


def test_a_model_with_other_weights_harvests_again(text: Catalog, llama: LanguageModel) -> None:
    harvest(text, llama, [reader()], ["docs"])
    report = harvest(text, replace(llama, digest="another"), [reader()], ["docs"])
    assert report.skipped == 0


def test_only_the_shards_of_new_text_are_harvested(text: Catalog, llama: LanguageModel, tmp_path: Path) -> None:
    harvest(text, llama, [reader()], ["docs"])
    before = len(shards(text))
    ingest_corpus(text, corpus_of(write_lines(tmp_path / "more.jsonl", texts(60))), llama)
    report = harvest(text, llama, [reader()], ["docs"])
    assert (report.skipped, report.shards) == (before, len(shards(text)) - before)
    assert_same(stored(text), naive(text, llama, reader()))


def test_an_sae_that_never_fires_leaves_whole_empty_shards(text: Catalog, llama: LanguageModel) -> None:
    silent = reader(bias=-1e4)
    assert harvest(text, llama, [silent], ["docs"]).activations == 0
    assert stored(text) == {}
    assert harvest(text, llama, [silent], ["docs"]).skipped == len(shards(text))


def test_activations_beyond_half_precision_keep_as_many_bits(text: Catalog, llama: LanguageModel) -> None:
    loud = reader(scale=1e6)
    harvest(text, llama, [loud], ["docs"])
    expected, kept = naive(text, llama, loud), stored(text)
    assert max(expected.values()) > 65504
    assert kept.keys() == expected.keys()
    for place, value in expected.items():
        assert kept[place] == pytest.approx(value, rel=2**-10)


def test_activations_that_are_no_number_are_refused_and_not_dropped(text: Catalog, llama: LanguageModel) -> None:
    broken = reader()
    broken.sae.weights.encoder_bias[3] = float("nan")
    with pytest.raises(InputError, match="activation nan of feature 3 at position"):
        harvest(text, llama, [broken], ["docs"])


def test_model_outputs_that_are_no_number_are_refused_with_hookpoint_and_sequence(
    text: Catalog, llama_folder: Path
) -> None:
    model = loaded(llama_folder)
    poison = text.value("SELECT token FROM tokens GROUP BY token ORDER BY count(*), token LIMIT 1")
    model.network.get_input_embeddings().weight[poison] = float("nan")
    places = defaultdict(list)
    for position, sequence in text.rows("SELECT position, sequence FROM tokens WHERE token = ?", [poison]):
        places[sequence].append(position)
    with pytest.raises(InputError, match=r"hookpoint 'layers.1' gives a value that is not finite") as raised:
        harvest(text, model, [reader()], ["docs"])
    said = str(raised.value)
    sequence = int(said.split("the sequence that begins at ")[1].split(")")[0])
    assert int(said.split("at position ")[1].split()[0]) == min(places[sequence])


def test_an_unknown_hookpoint_is_named(text: Catalog, llama: LanguageModel) -> None:
    with pytest.raises(UnknownName, match=r"no hookpoint 'layers.9'"):
        harvest(text, llama, [reader(hookpoint="layers.9")], ["docs"])
