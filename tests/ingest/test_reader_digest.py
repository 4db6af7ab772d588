"""What decides an SAE's codes besides its weights is part of its identity; catalogs of before stay as they are."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from catalog import Catalog
from catalog.study.file import Study
from ingest.activations.harvest import harvest
from ingest.dictionaries.measure import evaluate_text
from ingest.model.language_model import LanguageModel
from ingest.pipeline import ingest_study
from ingest.sae.architecture import Weights
from ingest.sae.config import SAEConfig
from ingest.sae.model import SAE
from ingest.stored.reader import Reader
from ingest.text.corpus import ingest_corpus
from tests.empty import make_empty
from tests.ingest.test_sae_stale import STILL, plain_checkpoint
from tests.ingest.test_saes import ingest, rows, section
from tests.ingest.tiny import D, corpus_of, texts, write_lines

WIDTH = 32


def reader(name: str, **settings: Any) -> Reader:
    """A reader of the same weights whatever the settings are, as their digest says."""
    generator = torch.Generator().manual_seed(3)
    encoder = torch.randn(WIDTH, D, generator=generator)
    decoder = torch.nn.functional.normalize(torch.randn(WIDTH, D, generator=generator))
    config: dict[str, Any] = {"d_in": D, "width": WIDTH, "model_name": "tiny", "hookpoint": "layers.1", "k": 4}
    weights = Weights(encoder, torch.zeros(WIDTH), decoder, torch.ones(D), torch.tensor(0.5))
    return Reader(name, "layers.1", SAE(SAEConfig(**{**config, **settings}), weights), "the same weights")


SETTINGS: list[dict[str, Any]] = [
    {},
    {"k": 9},
    {"centred": False},
    {"architecture": "relu", "k": None},
    {"architecture": "matryoshka", "groups": (8, WIDTH)},
    {"architecture": "matryoshka", "groups": (16, WIDTH)},
]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory, llama: LanguageModel) -> Iterator[Catalog]:
    root = tmp_path_factory.mktemp("text")
    with make_empty(root / "catalog") as catalog:
        ingest_corpus(catalog, corpus_of(write_lines(root / "d.jsonl", texts(20))), llama)
        yield catalog


def test_what_the_weights_do_not_tell_harvests_that_sae_again(text: Catalog, llama: LanguageModel) -> None:
    paths = "SELECT shard, path FROM shards WHERE sae = ? ORDER BY shard"
    harvest(text, llama, [reader("other")], ["docs"])
    others, then = text.rows(paths, ["other"]), dict[int, str]()
    assert len(others) > 1
    for settings in SETTINGS:
        report = harvest(text, llama, [reader("s", **settings), reader("other")], ["docs"])
        now = dict(text.rows(paths, ["s"]))
        assert now.keys() == dict(others).keys()
        assert [shard for shard in now if now[shard] == then.get(shard)] == []
        assert (report.shards, report.skipped) == (len(now), 0)
        then = now
    assert text.rows(paths, ["other"]) == others
    assert harvest(text, llama, [reader("s", **SETTINGS[-1]), reader("other")], ["docs"]).shards == 0


def test_what_the_weights_do_not_tell_is_measured_again(text: Catalog, llama: LanguageModel) -> None:
    evaluate_text(text, llama, [reader("other")], ["docs"], ("train",), 60)
    for settings in SETTINGS[:2]:
        report = evaluate_text(text, llama, [reader("s", **settings), reader("other")], ["docs"], ("train",), 60)
        assert report.evaluated == [("s", "docs", "train")]
        assert report.current == [("other", "docs", "train")]


SECTIONS = section("c", checkpoint="theirs") + section("child", parent="theirs/.", width=48) + STILL


ORDER = ("rows", "target rows", "checkpoint", "parent", "selection")


def blake(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def as_it_was(catalog: Catalog) -> int:
    """Give the catalog the digests of before, when the inputs of SAEs and shards were joined; how many rows changed."""
    ((model, dtype),) = catalog.rows("SELECT digest, 'torch.' || dtype FROM models")
    saes = {sae: (hook, digest) for sae, hook, digest in catalog.rows("SELECT sae, hookpoint, digest FROM saes")}
    texts = dict(catalog.rows("SELECT shard, blake2b FROM shards WHERE relation = 'tokens'"))
    changed = 0
    with catalog.write("digests of before") as tx:
        for sae, shard in catalog.rows("SELECT sae, shard FROM shards WHERE relation = 'activations'"):
            hookpoint, weights = saes[sae]
            joined = blake("|".join((texts[shard], model, dtype, hookpoint, weights)))
            tx.execute("UPDATE lake.shards SET inputs = ? WHERE (sae, shard) = (?, ?)", [joined, sae, shard])
            changed += 1
        for sae, config in catalog.rows("SELECT sae, config FROM saes"):
            said = json.loads(config)
            said["inputs"] = "+".join(said["inputs"][name] for name in ORDER if name in said["inputs"])
            # Nor did its activations come from rounded rows, or its measures leave rows out.
            sql = "UPDATE lake.saes SET config = ?, rows = NULL, median_norm = NULL WHERE sae = ?"
            tx.execute(sql, [json.dumps(said, sort_keys=True), sae])
            changed += 1
        for sae, split, digest, most in catalog.rows("SELECT sae, split, text, max_tokens FROM old_texts"):
            hookpoint, weights = saes[sae]
            said = json.dumps([2, model, dtype, hookpoint, None, weights, digest, most], sort_keys=True)
            place = [blake(said), sae, split]
            tx.execute("UPDATE lake.evaluations SET inputs = ? WHERE (sae, split) = (?, ?)", place)
            changed += 1
    return changed


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory, neox_folder: Path) -> Path:
    """A catalog whose rows hold the digests of before."""
    from ingest.text.held_out import measured_text

    root = tmp_path_factory.mktemp("old")
    plain_checkpoint(root / "theirs")
    ingest(root, neox_folder, SECTIONS, documents=20)
    with Catalog(root) as catalog:
        asked = catalog.rows("SELECT sae, split, max_tokens FROM evaluations")
        found = [(sae, split, measured_text(catalog, "docs", split, most).digest, most) for sae, split, most in asked]
        assert len(found) == 4
        catalog.connection.execute("CREATE TEMP TABLE old_texts (sae TEXT, split TEXT, text TEXT, max_tokens BIGINT)")
        catalog.connection.executemany("INSERT INTO old_texts VALUES (?, ?, ?, ?)", found)
        shards = catalog.value("SELECT count(*) FROM shards WHERE relation = 'activations'")
        assert as_it_was(catalog) == shards + 2 + 4
    return root


def moved(old: Path, to: Path) -> tuple[Path, Study]:
    """A copy of the catalog, with the study that still names the old one's text and checkpoint."""
    return Path(shutil.copytree(old, to)), Study.load(old / "study.toml")


def test_a_catalog_with_the_digests_of_before_has_nothing_to_do(old: Path, tmp_path: Path) -> None:
    root, study = moved(old, tmp_path / "copy")
    with Catalog(root) as catalog:
        before = catalog.newest()
        report = ingest_study(catalog, study)
        assert (report.trained, report.harvest.shards) == ([], 0)
        assert catalog.newest() == before


def test_a_gone_folder_leaves_what_was_made_of_it(old: Path, tmp_path: Path) -> None:
    root, study = moved(old, tmp_path / "copy")
    (old / "theirs").rename(old / "away")
    try:
        with Catalog(root) as catalog:
            assert ingest_study(catalog, study).trained == []
    finally:
        (old / "away").rename(old / "theirs")


def test_what_changes_in_such_a_catalog_is_made_anew_and_nothing_else(
    old: Path, tmp_path: Path, neox_folder: Path
) -> None:
    root = Path(shutil.copytree(old, tmp_path / "copy"))
    kept, known = ("SELECT path FROM shards WHERE sae = 'child' ORDER BY 1", "SELECT path FROM shards WHERE sae = 'c'")
    before, then = rows(root, kept), rows(root, known)
    settings = old / "theirs" / "cfg.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "k": 12}))
    study = Study.load(old / "study.toml")
    with Catalog(root) as catalog:
        report = ingest_study(catalog, study.model_copy(update={"saes": study.saes[:1]}))
        assert (report.trained, report.harvest.shards) == (["c"], len(then))
        assert json.loads(catalog.value("SELECT config FROM saes WHERE sae = 'c'"))["inputs"].keys() == {"checkpoint"}
        most = "SELECT max(n) FROM (SELECT count(*) AS n FROM activations WHERE sae = 'c' GROUP BY position)"
        assert 4 < catalog.value(most) <= 12
    assert rows(root, kept) == before
    assert not set(rows(root, known)) & set(then)


def test_the_identity_of_a_reader_counts_its_settings_by_name() -> None:
    one = reader("s")
    assert one.identity == reader("another name").identity
    assert one.identity != replace(one, digest="other weights").identity
    said = {"weights": "the same weights", "architecture": "topk", "k": 4, "centred": True, "groups": []}
    assert one.identity == blake(json.dumps(said, sort_keys=True))
