"""What follows from a checkpoint is made again when its settings change, also where its weights stay as they are."""

import json
from pathlib import Path

import pytest
import torch

from ingest.sae.architecture import Weights
from ingest.sae.config import SAEConfig
from ingest.sae.model import SAE
from tests.ingest.test_saes import ingest, rows, section
from tests.ingest.tiny import D

STILL = "batch = 64\nsteps = 10\nwarmup = 2\ndecay = 2\n"
SELECTION = """
[[selection]]
name = "chosen"
method = "bm25+tracin"
pool = "docs"
seed = "docs"
seed_tokens = 300
tokens = 400
parent = "c"
"""
FOLLOWS = (
    "SELECT sae, k, l0, fve, weights IS NULL FROM saes ORDER BY sae",
    "SELECT sae, split, l0, fve, ce_spliced FROM evaluations ORDER BY ALL",
    "SELECT sae, feature, position, activation FROM activations ORDER BY ALL",
    "SELECT hash, rank, score FROM selected ORDER BY rank",
)


def plain_checkpoint(folder: Path) -> Path:
    """As SAELens would have written it; returns its settings."""
    generator = torch.Generator().manual_seed(0)
    decoder = torch.nn.functional.normalize(torch.randn(48, D, generator=generator))
    encoder = torch.randn(48, D, generator=generator)
    SAE(
        SAEConfig(D, 48, 4, "tiny", "layers.1"), Weights(encoder, torch.zeros(48), decoder, torch.full((D,), 0.5))
    ).save(folder)
    path = folder / "cfg.json"
    settings = json.loads(path.read_text())
    del settings["metadata"]["saeql"]
    path.write_text(json.dumps(settings))
    return path


@pytest.mark.parametrize("change", [{"k": 12}, {"apply_b_dec_to_input": False}])
def test_settings_that_change_the_code_change_all_that_follows(
    tmp_path: Path, neox_folder: Path, change: dict[str, object]
) -> None:
    settings = plain_checkpoint(tmp_path / "theirs")
    sections = section("c", checkpoint=str(tmp_path / "theirs"))
    followers = []
    if "k" in change:
        sections += SELECTION + section("child", parent="c", selection="chosen") + STILL
        followers = ["child"]
    ingest(tmp_path / "a", neox_folder, sections, documents=25)
    before = [rows(tmp_path / "a", sql) for sql in FOLLOWS]
    settings.write_text(json.dumps({**json.loads(settings.read_text()), **change}))
    assert ingest(tmp_path / "a", neox_folder, sections, documents=25).trained == ["c", *followers]
    assert ingest(tmp_path / "a", neox_folder, sections, documents=25).trained == []
    after = [rows(tmp_path / "a", sql) for sql in FOLLOWS]
    ingest(tmp_path / "fresh", neox_folder, sections, documents=25)
    assert after == [rows(tmp_path / "fresh", sql) for sql in FOLLOWS]
    assert all(was != now for was, now in zip(before[:3], after[:3], strict=True))


def test_settings_that_change_nothing_leave_what_is_there(tmp_path: Path, neox_folder: Path) -> None:
    settings = plain_checkpoint(tmp_path / "theirs")
    sections = section("c", checkpoint=str(tmp_path / "theirs"))
    ingest(tmp_path / "a", neox_folder, sections)
    before = rows(tmp_path / "a", "FROM shards ORDER BY ALL")
    settings.write_text(json.dumps(json.loads(settings.read_text()), indent=1))
    assert ingest(tmp_path / "a", neox_folder, sections).trained == ["c"]
    assert rows(tmp_path / "a", "FROM shards ORDER BY ALL") == before
