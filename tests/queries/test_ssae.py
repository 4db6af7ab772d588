"""Sweeps and the study `ssae` from the command line, at the smallest size that reaches every part."""

import json
import random
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from catalog import Catalog
from catalog.errors import InputError
from catalog.study.file import Study, template
from queries.cli.main import main
from queries.studies.ssae.study import write_code
from queries.studies.ssae.study_file import FAMILIES, Options, check_same, check_width, study_text
from tests.empty import make_empty

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
    study = Study.parse(study_text(Options()), tmp_path)
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


def all_files(folder: Path) -> dict[str, Path]:
    return {name: write_texts(folder, name, 3) for name in WORDS}


def test_a_path_that_is_wrong_leaves_nothing_behind(tmp_path: Path) -> None:
    files = all_files(tmp_path)
    arguments = ["--pool", tmp_path / "typo.jsonl", "--seed", files["seed"], "--ood", files["ood"]]
    result = run("study", "ssae", tmp_path / "s", *arguments)
    assert result.exit_code == 1
    assert f"no file matches '{tmp_path / 'typo.jsonl'}'" in result.output
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--scale", "nan"), 2, "nan is not a number above 0"),
        (("--scale", "inf"), 2, "inf is not a number above 0"),
        (("--scale", "0"), 2, "0.0 is not a number above 0"),
        (("--scale", "-1"), 2, "-1.0 is not a number above 0"),
        # A whole number of tokens, but more than any text has.
        (("--scale", "1e300"), 2, "at most 1,000,000"),
        # Not one token is left of the subdomain.
        (("--scale", "1e-6"), 2, "corpus[1].max_tokens: 0: should be greater than or equal to 1"),
        (("--width", "1"), 1, "--width 1 is too small"),
        (("--width", "200"), 1, "give 242 or more"),
    ],
)
def test_a_size_that_cannot_be_is_refused_before_anything_is_written(
    tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    result = run("study", "ssae", tmp_path / "s", *arguments)
    assert result.exit_code == code
    assert said in result.output
    assert not (tmp_path / "s").exists()


def test_the_smallest_width_holds_the_largest_l0_of_the_study() -> None:
    # The largest value of the sweep is 230, and its range ends 5% above: 241.5 active latents.
    check_width(242)
    with pytest.raises(InputError, match=r"241.5 active latents per token; give 242 or more"):
        check_width(241)


@pytest.mark.parametrize("name", ["\U0001f600", 'a"b\\c', "\x7f\t", "ä"])
def test_any_path_can_stand_in_the_study_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "pool.jsonl"
    study = Study.parse(study_text(Options(path, tmp_path / "seed.jsonl", tmp_path / "ood.jsonl")), tmp_path)
    assert study.corpora[0].files == (str(path),)


def test_a_path_that_is_no_utf8_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no UTF-8"):
        study_text(Options(tmp_path / "\udcff.jsonl", tmp_path / "seed.jsonl", tmp_path / "ood.jsonl"))


def test_a_relative_path_starts_where_the_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # Also under the name that the study gives to text of its own.
    files = Options(Path("pool.jsonl"), Path("seed.jsonl"), Path("ood.jsonl"))
    study = Study.parse(study_text(files), tmp_path / "s")
    assert [corpus.files for corpus in study.corpora] == [
        (str(tmp_path / f"{name}.jsonl"),) for name in ("pool", "seed", "ood")
    ]


def test_a_study_goes_on_under_the_options_that_it_was_made_with_or_none(tmp_path: Path) -> None:
    files = all_files(tmp_path)
    made = Options(**files, scale=1 / 3, width=300)
    study = Study.parse(study_text(made), tmp_path / "s")
    (tmp_path / "link").symlink_to(tmp_path)
    linked = Options(seed=tmp_path / "link" / "seed.jsonl")
    for again in (made, Options(), Options(scale=1 / 3), Options(width=300), Options(pool=files["pool"]), linked):
        check_same(study, again, tmp_path / "s" / "study.toml")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--scale", "0.5"), "--scale 0.5 makes pool_tokens 1000000, there 40000"),
        (("--scale", "0.0201", "--width", "256"), "--scale 0.0201 makes pool_tokens 40200, there 40000"),
        (("--width", "512"), "--width 512, there 256"),
        (("--pool", "other.jsonl"), "--pool other.jsonl, there "),
        (("--ood", "ood.jsonl", "--width", "300"), "--width 300, there 256"),
    ],
)
def test_an_option_that_a_study_was_not_made_with_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "s" / "study.toml"
    path.parent.mkdir()
    text = study_text(Options(**all_files(tmp_path), scale=0.02, width=256))
    path.write_text(text)
    result = run("study", "ssae", "s", *arguments)
    assert result.exit_code == 1
    assert "s/study.toml holds a study made with other settings" in result.output
    assert said in result.output
    assert "name another folder, or remove study.toml" in result.output
    assert path.read_text() == text
    assert sorted(p.name for p in path.parent.iterdir()) == ["study.toml"]


def test_a_folder_that_belongs_to_another_study_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(template())
    result = run("study", "ssae", tmp_path, "--scale", 0.02)
    assert result.exit_code == 1
    assert "holds another study, 'study': name another folder" in result.output
    assert (tmp_path / "study.toml").read_text() == template()


def test_a_catalog_of_another_study_is_left_alone(tmp_path: Path) -> None:
    # Its study file lies elsewhere, as after `saeql -C FOLDER ingest FILE`.
    with make_empty(tmp_path / "catalog") as catalog, catalog.write("study") as tx:
        tx.insert("study", [{"name": "mine"}])
    result = run("study", "ssae", tmp_path / "catalog")
    assert result.exit_code == 1
    assert "is the catalog of another study, 'mine': name another folder" in result.output
    assert not (tmp_path / "catalog" / "study.toml").exists()


def test_the_text_of_another_form_holds_no_docstring(tmp_path: Path) -> None:
    write_code(tmp_path / "code.jsonl")
    texts = [json.loads(line)["text"] for line in (tmp_path / "code.jsonl").read_text().splitlines()]
    assert len(texts) > 200
    assert not any("Examples\n    ========" in text for text in texts)


@pytest.mark.slow
def test_the_study_runs_to_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Two of the five L0 and three of the seven families, one of each kind: what is made of the others is the same.
    families = {name: FAMILIES[name] for name in ("full", "dense-tracin", "dense-term")}
    monkeypatch.setattr("queries.studies.ssae.study_file.FAMILIES", families)
    monkeypatch.setattr("queries.studies.ssae.study_file.L0_VALUES", (65, 100))
    files = [write_texts(tmp_path, name, n) for name, n in (("pool", 120), ("seed", 60), ("ood", 60))]
    root = tmp_path / "ssae"
    arguments = ["--pool", files[0], "--seed", files[1], "--ood", files[2], "--scale", 0.02, "--width", 110]
    result = run("study", "ssae", root, *arguments)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert {row["family"] for row in rows if "area" in row} == set(families)
    assert {row["corpus"] for row in rows if "area" in row} == {"domain", "ood"}
    assert {row["sae"] for row in rows if "live_features" in row} == {"general", *(f"{f}-l0-100-s0" for f in families)}
    with Catalog(root, read_only=True) as catalog:
        selected = dict(catalog.rows("SELECT selection, count(*) FROM selected GROUP BY selection"))
        assert set(selected) == {"everything", "random", "seed", "bm25", "dense", "dense-tracin"}
        # No test document was trained on.
        assert not catalog.value(
            "SELECT count(*) FROM selected AS s JOIN documents AS d "
            "ON (d.corpus, d.document) = (s.corpus, s.document) WHERE d.split = 'test'"
        )
        assert catalog.value("SELECT count(*) FROM evaluations WHERE split = 'test'") == 2 * (1 + 4 * len(families))
    assert (root / "plots" / "figure1a.svg").exists()
    again = run("study", "ssae", root)
    assert (again.exit_code, again.stdout) == (0, result.stdout)
    shutil.rmtree(root / "cache")
