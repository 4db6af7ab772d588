"""Whether an ingest has anything to do is told by its receipt, without the model; in doubt the ingest looks."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from catalog import Catalog
from catalog.study.file import Study
from ingest import receipt
from ingest.pipeline import ingest_study
from queries.cli.main import main
from tests.conftest import STUDY


def told(root: Path, text: str = STUDY) -> object:
    (root / "study.toml").write_text(text)
    with Catalog(root) as catalog:
        return receipt.unchanged(catalog, Study.load(root / "study.toml"))


def test_what_the_receipt_tells_is_what_an_ingest_finds(own: Path) -> None:
    found = told(own)
    assert isinstance(found, receipt.Unchanged)
    with Catalog(own) as catalog:
        before = catalog.newest()
        report = ingest_study(catalog, Study.load(own / "study.toml"))
        assert catalog.newest() == before
    assert [corpus._asdict() for corpus in found.corpora] == [
        {name: getattr(corpus, name) for name in receipt.Corpus._fields} for corpus in report.corpora
    ]
    assert found.harvest._asdict() == {name: getattr(report.harvest, name) for name in receipt.Harvest._fields}
    assert told(own) == found


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("steps = 60", "steps = 61"),
        ("max_tokens = 40_000", "max_tokens = 40_001"),
        ('words = ["matrix", ', 'words = ["tensor", "matrix", '),
        ("tokens = 4_000", "tokens = 4_001"),
        ('name = "small"', 'name = "small"\n[model]\nbos = "never"'),
    ],
)
def test_another_study_has_no_receipt(own: Path, old: str, new: str) -> None:
    assert old in STUDY
    assert told(own, STUDY.replace(old, new)) is None


def test_a_table_weights_code_or_library_that_changed_has_no_receipt(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(receipt, "version", lambda name: "0")
        assert told(own) is None
    with monkeypatch.context() as patch:
        patch.setattr(receipt, "_code", lambda: "other")
        assert told(own) is None
    with monkeypatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "7")
        assert told(own) is None
    assert told(own) is not None
    weights = next((own / "weights").rglob("*.safetensors"))
    stat = weights.stat()
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert told(own) is None
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert told(own) is not None
    with Catalog(own) as catalog, catalog.write("an evaluation is lost") as tx:
        tx.execute("DELETE FROM lake.evaluations WHERE split = 'test'")
    assert told(own) is None


def test_a_changed_model_or_text_file_has_no_receipt(tmp_path: Path) -> None:
    model = Path(shutil.copytree(receipt.MODEL_DIR, tmp_path / "model"))
    (tmp_path / "text.txt").write_text("One document.")
    study = f'name = "s"\n[model]\nsource = "{model}"\n[[corpus]]\nname = "c"\nkind = "text"\nfiles = ["text.txt"]\n'
    (tmp_path / "study.toml").write_text(study)
    loaded = Study.load(tmp_path / "study.toml")
    seen = {receipt.inputs_of(loaded)}
    (tmp_path / "text.txt").write_text("Two documents.")
    seen.add(receipt.inputs_of(loaded))
    (model / "more.json").write_text("{}")
    seen.add(receipt.inputs_of(loaded))
    assert len(seen) == 3
    assert None not in seen
    shutil.rmtree(model)
    assert receipt.inputs_of(loaded) is None


@pytest.mark.parametrize("said", ["", "[]", "{}", '{"inputs": 1, "state": 2}', "\x00"])
def test_a_damaged_receipt_is_none(own: Path, said: str) -> None:
    (own / "cache" / receipt.FILE).write_text(said)
    assert told(own) is None
    (own / "cache" / receipt.FILE).unlink()
    assert told(own) is None


def test_an_ingest_with_nothing_to_do_says_the_same_and_loads_no_torch(own: Path) -> None:
    (own / "study.toml").write_text(STUDY)
    with_torch = CliRunner().invoke(main, ["ingest", str(own / "study.toml")]).stderr
    code = (
        "import json, sys\nfrom queries.cli.main import main\n"
        "try:\n    main(['ingest', sys.argv[1]])\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(json.dumps([name for name in ('torch', 'transformers') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(own / "study.toml")], capture_output=True, text=True)
    assert json.loads(done.stdout) == []
    assert done.stderr == with_torch
    assert "harvest: 0 shards new, 3 whole; 0 activations new" in done.stderr
