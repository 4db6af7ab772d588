"""Sweeps and the study `ssae` from the command line, at the smallest size that reaches every part."""

import json
import random
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from catalog import Catalog
from catalog.study import Study
from queries.cli.main import main
from queries.ssae import FAMILIES, Size, study_text, write_code

WORDS = {
    "pool": "bank market river price house garden tea song train school doctor planet force",
    "seed": "force mass energy field particle wave momentum quantum planet orbit",
    "ood": "def class return self energy mass wave lambda import print",
}


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert "Traceback" not in result.output
    return result


def write_texts(folder: Path, name: str, documents: int) -> Path:
    rng = random.Random(name)
    lines = [json.dumps({"text": " ".join(rng.choices(WORDS[name].split(), k=60))}) for _ in range(documents)]
    (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder / f"{name}.jsonl"


def test_a_sweep_compares_runs_and_says_where_no_area_is(own: Path) -> None:
    result = run("-C", own, "sweep", "sae", "--setting", "k", "--values", "4,12", "--l0-low", 5, "--l0-high", 11)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    points = [row for row in rows if "coefficient" in row and row["split"] == "test"]
    assert [(row["coefficient"], row["seeds"]) for row in points] == [(4, 1), (12, 1)]
    assert points[0]["perplexity"] > points[1]["perplexity"]
    (area,) = [row for row in rows if "mean_perplexity" in row and row["split"] == "test"]
    # Linear between the two points, so the mean over the range is the height at its middle.
    (l0, high), (l1, low) = ((row["l0"], row["perplexity"]) for row in points)
    expected = high + (low - high) * (8 - l0) / (l1 - l0)
    assert area["mean_perplexity"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nobody", "--values", "1"), "there is no sae 'nobody'"),
        (("sae", "--values", "1,x"), "not a list of numbers"),
        (("sae", "--values", "8", "--seeds", "0.9,1.9"), "'0.9,1.9' is not a list of whole numbers"),
        (("sae", "--values", "8", "--seeds", "inf"), "'inf' is not a list of whole numbers"),
        (("sae", "--values", "1,2"), "is not read by architecture 'topk'"),
        (("sae", "--values", "8", "--setting", "other"), "should be"),
    ],
)
def test_a_sweep_that_cannot_be_is_one_sentence(own: Path, arguments: tuple[object, ...], said: str) -> None:
    result = run("-C", own, "sweep", *arguments)
    assert result.exit_code in (1, 2)
    assert said in result.output or "not one of" in result.output


def test_the_study_names_every_family_once(tmp_path: Path) -> None:
    study = Study.parse(study_text(None, None, None, Size()), tmp_path)
    (sweep,) = study.sweeps
    assert set(sweep.saes) == set(FAMILIES)
    assert {s.method for s in study.selections} == {"full", "random", "seed", "bm25", "dense", "dense+tracin"}
    # Three seeds at the middle coefficient, one at the others.
    assert len(study.trained()) == 1 + len(FAMILIES) * (len(sweep.values) - 1 + 3)
    assert all(sae.steps >= 300 and sae.parent == "general" for sae in study.saes if sae.template)


def test_other_text_needs_all_three_files(tmp_path: Path) -> None:
    result = run("study", "ssae", tmp_path / "s", "--pool", write_texts(tmp_path, "pool", 3))
    assert result.exit_code == 1
    assert "needs all three of --pool, --seed and --ood" in result.output


def test_the_text_of_another_form_holds_no_docstring(tmp_path: Path) -> None:
    write_code(tmp_path / "code.jsonl")
    texts = [json.loads(line)["text"] for line in (tmp_path / "code.jsonl").read_text().splitlines()]
    assert len(texts) > 200
    assert not any("Examples\n    ========" in text for text in texts)


@pytest.mark.slow
def test_the_study_runs_to_its_tables(tmp_path: Path) -> None:
    files = [write_texts(tmp_path, name, n) for name, n in (("pool", 120), ("seed", 60), ("ood", 60))]
    root = tmp_path / "ssae"
    arguments = ["--pool", files[0], "--seed", files[1], "--ood", files[2], "--scale", 0.02, "--width", 256]
    result = run("study", "ssae", root, *arguments)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert {row["family"] for row in rows if "area" in row} == set(FAMILIES)
    assert {row["corpus"] for row in rows if "area" in row} == {"domain", "ood"}
    assert {row["sae"] for row in rows if "live_features" in row} == {"general", *(f"{f}-100-s0" for f in FAMILIES)}
    with Catalog(root, read_only=True) as catalog:
        selected = dict(catalog.rows("SELECT selection, count(*) FROM selected GROUP BY selection"))
        assert set(selected) == {"everything", "random", "seed", "bm25", "dense", "dense-tracin"}
        # No test document was trained on.
        assert not catalog.value(
            "SELECT count(*) FROM selected AS s JOIN documents AS d "
            "ON (d.corpus, d.document) = (s.corpus, s.document) WHERE d.split = 'test'"
        )
        assert catalog.value("SELECT count(*) FROM evaluations WHERE split = 'test'") == 2 * 50
    assert (root / "plots" / "figure1a.svg").exists()
    shutil.rmtree(root / "cache")
