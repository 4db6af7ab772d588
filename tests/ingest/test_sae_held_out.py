"""What an SAE is measured on before it stands in the catalog: val rows alone, and no reason to lose one without any."""

from pathlib import Path

import numpy as np
import pytest
import torch

from catalog import Catalog
from catalog.study.file import Study
from ingest.activations.residual_cache import cache_residuals
from ingest.model.language_model import LanguageModel, load_model
from ingest.pipeline import ingest_study
from ingest.sae.architecture import Weights
from ingest.sae.config import SAEConfig
from ingest.sae.evaluate import CHUNK, evaluate
from ingest.sae.model import SAE
from ingest.text.splits import document_hash, split_of
from tests.empty import make_empty
from tests.ingest.test_saes import HEAD, QUICK, ingest, loaded, rows, section
from tests.ingest.tiny import D, repeats, texts, write_lines

ALONE = {"harvest": [], "evaluate": []}
FIGURES = "SELECT held_out, l0, fve, dead FROM saes"


def some_sae(target: str | None = None) -> SAE:
    g = torch.Generator().manual_seed(0)
    decoder = torch.nn.functional.normalize(torch.randn(48, D, generator=g))
    config = SAEConfig(
        D,
        48,
        4,
        "tiny",
        "layers.1.mlp.input" if target else "layers.1",
        centred=target is None,
        target_hookpoint=target,
        d_out=D if target else None,
    )
    return SAE(config, Weights(decoder, torch.zeros(48), decoder.clone(), torch.zeros(D)))


@pytest.mark.parametrize("target", [None, "layers.1.mlp"])
def test_a_checkpoint_is_measured_on_val_rows_and_leaves_no_cache(
    tmp_path: Path, neox_folder: Path, monkeypatch: pytest.MonkeyPatch, target: str | None
) -> None:
    sae = some_sae(target)
    sae.save(tmp_path / "sae")
    read: list[int] = []
    real = LanguageModel.read

    def reading(model: LanguageModel, ids: torch.Tensor, hookpoints: list[str]) -> dict[str, torch.Tensor]:
        read.append(int(ids.shape.numel()))
        return real(model, ids, hookpoints)

    monkeypatch.setattr(LanguageModel, "read", reading)
    transcoder = {"target": target} if target else {}
    checkpoint = section("s", hookpoint=sae.config.hookpoint, checkpoint=str(tmp_path / "sae"), **transcoder, **ALONE)
    root = tmp_path / "catalog"
    ingest(root, neox_folder, checkpoint)
    assert not (root / "cache" / "residuals").exists()
    val, train = (
        rows(root, f"SELECT sum(tokens)::BIGINT FROM documents WHERE split = '{split}'")[0][0]
        for split in ("val", "train")
    )
    assert int(str(val)) <= sum(read) < int(str(train)) / 2
    ((held_out, l0, fve, dead),) = rows(root, FIGURES)
    with Catalog(root) as catalog:
        model = load_model(Study.load(root / "study.toml").model)
        names = [name for name in (sae.config.hookpoint, target) if name]
        cached = cache_residuals(catalog, model, names, ["docs"])
    expected = evaluate(loaded(root, "s"), cached[names[0]].val, cached[target].val if target else None)
    assert (held_out, dead) == (expected.rows, expected.dead) == (val, expected.dead)
    assert l0 == pytest.approx(expected.l0, rel=1e-3)
    assert fve == pytest.approx(expected.fve, rel=1e-3)


@pytest.mark.parametrize(("n", "said"), [(1, "1 row has no variance"), (3, "the 3 rows are all equal and have no var")])
def test_rows_without_variance_have_all_measures_but_the_fve(n: int, said: str) -> None:
    row = torch.randn(D, generator=torch.Generator().manual_seed(1)).numpy().astype(np.float16)
    sae = some_sae()
    measured = evaluate(sae, np.tile(row, (n, 1)))
    assert measured.fve is None
    assert str(measured.unexplained).startswith(said)
    x = torch.from_numpy(row[None]).float()
    code = sae.encode(x)
    assert (measured.rows, measured.l0, measured.dead) == (n, 4, 44)
    assert measured.mse == pytest.approx(float((x - sae.decode(code, x)).square().mean()), rel=1e-6)


def test_a_subset_is_measured_as_those_rows_alone() -> None:
    rows = np.random.default_rng(0).standard_normal((9000, D)).astype(np.float16)
    subset = np.flatnonzero(np.random.default_rng(1).random(9000) < 0.95)
    assert len(subset) > CHUNK
    assert evaluate(some_sae(), rows, subset=subset) == evaluate(some_sae(), rows[subset])


def of_split(split: str, documents: list[str]) -> list[str]:
    return [text for text in documents if split_of(document_hash(text)) == split]


@pytest.mark.parametrize("made", ["cache", "stream", "checkpoint"])
def test_val_tokens_that_repeat_train_text_are_not_held_out(tmp_path: Path, neox_folder: Path, made: str) -> None:
    sae = some_sae()
    sae.save(tmp_path / "sae")
    of = {"checkpoint": str(tmp_path / "sae")} if made == "checkpoint" else {"k": 4, "stream": made == "stream"}
    sections = section("s", **of, **ALONE) + ("" if made == "checkpoint" else QUICK)
    documents = texts(60)
    train = max(of_split("train", documents), key=len)
    # The same words with another end: of split val, as one of some ends is.
    copies = of_split("val", [f"{train} {number}" for number in range(40)])[:3]
    root = tmp_path / "catalog"
    root.mkdir()
    write_lines(tmp_path / "docs.jsonl", documents[:30] + copies + documents[30:])
    with make_empty(root) as catalog:
        ingest_study(catalog, Study.parse(HEAD.format(model=neox_folder) + sections, tmp_path))
        val = catalog.value("SELECT sum(tokens) FROM documents WHERE split = 'val'")
        repeated = repeats(catalog, "docs", "val")
    assert 0 < len(repeated) < val
    assert rows(root, "SELECT held_out, l0 IS NOT NULL FROM saes") == [(val - len(repeated), True)]


@pytest.mark.parametrize("stream", [False, True])
def test_an_sae_that_cannot_be_measured_stands_with_the_reason(tmp_path: Path, neox_folder: Path, stream: bool) -> None:
    train = of_split("train", texts(40))
    alone = next(letter for letter in "abcdefghijklmnopqrstuvwxyz" if split_of(document_hash(letter)) == "val")
    sections = section("s", k=4, stream=stream, **ALONE) + QUICK

    def ingested(documents: list[str]) -> list[str]:
        write_lines(tmp_path / "docs.jsonl", documents)
        with Catalog(root) if (root / "catalog.sqlite").exists() else make_empty(root) as catalog:
            return ingest_study(catalog, study).trained

    root = tmp_path / "catalog"
    study = Study.parse(HEAD.format(model=neox_folder) + sections, tmp_path)
    assert ingested([*train, alone]) == ["s"]
    ((held_out, _, fve, dead),) = rows(root, FIGURES)
    assert (held_out, fve, int(str(dead)) >= 44) == (1, None, True)
    problem = "SELECT subject, reason FROM problems WHERE stage = 'held-out measures'"
    ((subject, reason),) = rows(root, problem)
    assert subject == "s"
    assert str(reason).startswith("1 row has no variance")
    assert ingested([*train, alone]) == []
    # Trained again where there is more val text, it is measured, and the problem is none.
    study = Study.parse(HEAD.format(model=neox_folder) + sections.replace("steps = 40", "steps = 41"), tmp_path)
    assert ingested([*texts(40), alone]) == ["s"]
    assert rows(root, "SELECT held_out > 1, fve IS NOT NULL FROM saes") == [(True, True)]
    assert rows(root, problem) == []
