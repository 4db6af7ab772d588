"""A token of train text goes through the model once; with and without a cache the activations are the same."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from catalog import Catalog
from catalog.study.file import Study
from ingest.activations.half_rows import in_half, rounded
from ingest.dictionaries.row_figures import RowFigures, rounding_share, within
from ingest.model.language_model import LanguageModel
from ingest.pipeline import ingest_study
from ingest.sae.training.rows import CachedRows, MappedFile
from ingest.sae.training.scaled_rows import ScaledRows, joined
from tests.empty import make_empty
from tests.ingest.test_sae_stale import plain_checkpoint
from tests.ingest.test_saes import HEAD, QUICK, rows, section
from tests.ingest.tiny import D, texts, write_lines


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """By hookpoint, the sequences that went through the model in batches; single tokens are trials of its widths."""
    counts: Counter[str] = Counter()
    own = LanguageModel.read

    def counted(self: LanguageModel, ids: torch.Tensor, hookpoints: list[str]) -> dict[str, torch.Tensor]:
        if ids.numel() > 1:
            counts["passes"] += len(ids)
            counts.update(dict.fromkeys(hookpoints, len(ids)))
        return own(self, ids, hookpoints)

    monkeypatch.setattr(LanguageModel, "read", counted)
    return counts


def study(root: Path, model: Path, sections: str) -> Study:
    root.mkdir(exist_ok=True)
    write_lines(root / "docs.jsonl", texts(40))
    (root / "study.toml").write_text(HEAD.format(model=model) + sections)
    found = Study.load(root / "study.toml")
    return found.model_copy(update={"evaluation": found.evaluation.model_copy(update={"tokens": 0})})


def sequences(root: Path, *splits: str) -> int:
    named = ", ".join(f"'{split}'" for split in splits)
    ((count,),) = rows(
        root,
        "SELECT count(DISTINCT t.sequence) FROM tokens AS t JOIN documents AS d USING (corpus, document) "
        f"WHERE d.split IN ({named})",
    )
    assert isinstance(count, int)
    return count


def activations(root: Path, sae: str) -> list[tuple[object, ...]]:
    return rows(root, f"SELECT feature, position, activation FROM activations WHERE sae = '{sae}' ORDER BY ALL")


def sample(root: Path) -> int:
    """Sequences of the batch on which the effect of rounding is measured."""
    return sequences(root, "val")


def test_a_trained_saes_text_is_read_once(tmp_path: Path, neox_folder: Path, read: Counter[str]) -> None:
    with make_empty(tmp_path / "c") as catalog:
        ingest_study(catalog, study(tmp_path / "c", neox_folder, section("s", k=4) + QUICK))
    every = sequences(tmp_path / "c", "train", "val", "test")
    # The first shard with val text gives the sample.
    assert every <= read["layers.1"] <= every + sample(tmp_path / "c")
    assert rows(tmp_path / "c", "SELECT rows FROM saes") == [("float16",)]


def test_without_a_cache_the_activations_are_the_same(tmp_path: Path, neox_folder: Path, read: Counter[str]) -> None:
    root = tmp_path / "c"
    with make_empty(root) as catalog:
        asked = study(root, neox_folder, section("s", k=4) + QUICK)
        ingest_study(catalog, asked)
        first = activations(root, "s")
        for away in (False, True):
            with catalog.write("harvest again") as tx:
                tx.execute("DELETE FROM lake.activations")
                tx.execute("DELETE FROM lake.shards WHERE relation = 'activations'")
            if away:
                shutil.rmtree(root / "cache")
            read.clear()
            report = ingest_study(catalog, asked)
            assert (report.trained, report.harvest.activations) == ([], len(first))
            assert activations(root, "s") == first
            assert read["passes"] == sequences(root, *(("train", "val", "test") if away else ("test",)))


def test_a_loaded_sae_is_harvested_while_text_is_read_for_training(
    tmp_path: Path, neox_folder: Path, read: Counter[str]
) -> None:
    root = tmp_path / "c"
    plain_checkpoint(tmp_path / "theirs")
    loaded = section("theirs", checkpoint=str(tmp_path / "theirs"))
    with make_empty(root) as catalog:
        trained = section("s", k=4, hookpoint="layers.0") + QUICK
        ingest_study(catalog, study(root, neox_folder, loaded + trained))
    every, val, test = (sequences(root, *splits) for splits in (("train", "val", "test"), ("val",), ("test",)))
    # Once for training, test text for the loaded one alone; its own val rows; and the test text of the trained one.
    assert every + val <= read["layers.1"] <= every + 2 * val
    assert every <= read["layers.0"] <= every + val
    assert read["passes"] <= every + 2 * val + test
    alone = tmp_path / "alone"
    with make_empty(alone) as catalog:
        ingest_study(catalog, study(alone, neox_folder, loaded))
    assert activations(root, "theirs") == activations(alone, "theirs")
    assert rows(root, "SELECT sae, rows FROM saes ORDER BY sae") == [("s", "float16"), ("theirs", None)]


def test_rounding_keeps_eleven_bits_of_rows_of_any_size() -> None:
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(50, D, generator=generator)
    large = plain * torch.logspace(-2, 12, 50)[:, None]
    assert torch.equal(rounded(plain), plain.half().float())
    halves, exponents = in_half(large)
    for row, half, exponent in zip(large.double().numpy(), halves, exponents, strict=True):
        assert exponent == 0 if np.abs(row).max() <= 65504 else 2.0**14 <= np.abs(half).max() <= 2.0**15
        kept = half.astype(np.float64) * 2.0**exponent
        assert np.abs(kept - row).max() <= np.abs(row).max() * 2.0**-11
    again = ScaledRows(halves, exponents)
    np.testing.assert_array_equal(again[np.arange(50)], rounded(large).numpy())
    torch.testing.assert_close(rounded(rounded(large)), rounded(large), rtol=0, atol=0)
    np.testing.assert_array_equal(np.asarray(joined([again[:20], halves[:0], again[20:]])), np.asarray(again))


def test_rows_with_exponents_reach_another_process(tmp_path: Path) -> None:
    halves, exponents = in_half(torch.randn(40, D) * torch.logspace(0, 9, 40)[:, None])
    for name, array in (("h", halves), ("e", exponents)):
        array.tofile(tmp_path / name)
    mapped = ScaledRows(
        np.memmap(tmp_path / "h", np.float16, "r", shape=(40, D)), np.memmap(tmp_path / "e", np.int8, "r", shape=(40,))
    )
    (file,) = CachedRows(mapped[5:30]).files()
    np.testing.assert_array_equal(np.asarray(MappedFile(*file).open()), np.asarray(mapped)[5:30])


def test_the_share_that_rounding_changes_is_counted_in_pairs(tmp_path: Path) -> None:
    from ingest.sae.model import SAE

    plain_checkpoint(tmp_path / "theirs")
    sae = SAE.load(tmp_path / "theirs")
    x = torch.randn(300, D, generator=torch.Generator().manual_seed(1))
    pairs = []
    for part in (x, x.half().float()):
        dense = (part - sae.weights.decoder_bias) @ sae.weights.encoder.T + sae.weights.encoder_bias
        found = {(n, int(i)) for n, row in enumerate(dense) for i in row.topk(4).indices if row[i] > 0}
        pairs.append(found)
    assert rounding_share(sae, x) == pytest.approx(len(pairs[0] ^ pairs[1]) / len(pairs[0] | pairs[1]))


def test_outliers_are_dropped_from_training_and_from_the_measures_and_counted(
    tmp_path: Path, neox_folder: Path
) -> None:
    """A model that writes rows a hundred times the others' norm for one token."""
    from tests.ingest.tiny import loaded

    model = loaded(neox_folder)
    ids = model.tokenizer(" ".join(texts(40))).input_ids
    # A token that is one in thirty or so.
    sink = min(set(ids), key=lambda token: abs(ids.count(token) - len(ids) / 30))
    model.network.get_input_embeddings().weight[sink].mul_(300)  # type: ignore[index]
    folder = tmp_path / "model"
    model.network.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    kept, root = section("kept", k=4, hookpoint="layers.0", outliers="keep"), tmp_path / "c"
    with make_empty(root) as catalog:
        ingest_study(catalog, study(root, folder, kept + QUICK + section("s", k=4, hookpoint="layers.0") + QUICK))
        cache = next((root / "cache" / "residuals").iterdir())
    norms = np.linalg.norm(np.fromfile(cache / "train.f16", np.float16).reshape(-1, D).astype(float), axis=1)
    far = int((norms > 10 * np.median(norms)).sum())
    assert far > 0
    said = rows(root, "SELECT sae, median_norm, outliers FROM saes ORDER BY sae")
    assert said == [(name, pytest.approx(np.median(norms), rel=1e-6), far) for name in ("kept", "s")]
    ((held_out, theirs),) = rows(root, "SELECT held_out, held_out_outliers FROM saes WHERE sae = 's'")
    val = np.linalg.norm(np.fromfile(cache / "val.f16", np.float16).reshape(-1, D).astype(float), axis=1)
    assert theirs == int((val > 10 * np.median(norms)).sum()) > 0
    assert held_out == len(val) - theirs
    ((reason, count),) = rows(root, "SELECT reason, count FROM problems WHERE subject = 's'")
    assert (count, "above 10 times the median norm" in str(reason)) == (far, True)
    assert rows(root, "SELECT 1 FROM problems WHERE subject = 'kept'") == []


def test_figures_of_rows_without_outliers_leave_a_subset_as_it_is() -> None:
    figures = RowFigures.of(np.ones((4, 2), np.float16), np.ones((2, 2), np.float16))
    assert figures.told == "median norm 1.414, no row is above 10 times that"
    assert within(None, figures.train) is None
    loud = np.ones((4, 2), np.float16)
    loud[2] = 100
    figures = RowFigures.of(loud, loud)
    assert figures.told == "median norm 1.414, 25.00% of the rows are above 10 times that"
    assert within(None, figures.train).tolist() == [0, 1, 3]  # type: ignore[union-attr]
    assert within(np.array([1, 2]), figures.train).tolist() == [1]  # type: ignore[union-attr]


def test_an_older_cache_is_not_taken_for_the_batches_of_now(
    tmp_path: Path, neox_folder: Path, read: Counter[str]
) -> None:
    """Rows in another order than their batches', as earlier versions left them, are not used."""
    root = tmp_path / "c"
    with make_empty(root) as catalog:
        asked = study(root, neox_folder, section("s", k=4) + QUICK)
        ingest_study(catalog, asked)
        first = activations(root, "s")
        cache = next((root / "cache" / "residuals").iterdir())
        for split in ("train", "val"):
            position = np.fromfile(cache / f"{split}.pos", np.int64)
            halves = np.fromfile(cache / f"{split}.f16", np.float16).reshape(len(position), D)
            position[::-1].tofile(cache / f"{split}.pos")
            halves[::-1].tofile(cache / f"{split}.f16")
        with catalog.write("harvest again") as tx:
            tx.execute("DELETE FROM lake.activations")
            tx.execute("DELETE FROM lake.shards WHERE relation = 'activations'")
        read.clear()
        ingest_study(catalog, asked)
    assert read["passes"] == sequences(root, "train", "val", "test")
    assert activations(root, "s") == first
    with Catalog(root, read_only=True) as catalog:
        assert catalog.value("SELECT count(*) FROM saes") == 1
