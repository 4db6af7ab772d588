"""A dry run says what the ingest after it does, and writes nothing."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from catalog import Catalog
from catalog.errors import InputError, SaeqlError
from catalog.store.location import Location
from catalog.study.file import Study
from ingest.dry_run import dry_run
from ingest.pipeline import ingest_study
from ingest.to_do import Work, up_to_date
from queries.cli.main import main
from tests.ingest.test_sae_stale import STILL, plain_checkpoint
from tests.ingest.test_saes import HEAD, section
from tests.ingest.tiny import texts, write_lines

TRAINED = section("s", k=4, width=32) + STILL
CHILD = section("child", parent="s", tilt=0.1) + STILL
LOADED = section("c", checkpoint="theirs")
CONCEPTS = '\n[[concept]]\nname = "matrices"\nwords = ["matrix"]\n'
MORE = '\n[[concept]]\nname = "maps"\nwords = ["map"]\n'
SQLITES_OWN = ("catalog.sqlite-wal", "catalog.sqlite-shm")
"""SQLite keeps them beside its file while somebody reads."""


def silent(what: str, done: int, total: int | None, figures: str) -> None:
    """No progress."""


def files(root: Path) -> dict[str, tuple[int, int]]:
    paths = [path for path in root.rglob("*") if path.is_file() and path.name not in SQLITES_OWN]
    return {str(path.relative_to(root)): (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}


def foreseen(root: Path) -> dict[tuple[str, str], Work]:
    """What a dry run says, by stage and what; it leaves every file of the catalog and the study as it was."""
    before = files(root)
    works = dry_run(Location.parse(root), Study.load(root / "study.toml"), silent)
    assert files(root) == before
    assert len({(work.stage, work.what, work.state == "gone") for work in works}) == len(works)
    return {(work.stage, work.what): work for work in works}


def made(catalog: Catalog) -> dict[str, set[tuple[object, ...]]]:
    """What an ingest makes, so that two looks tell what changed."""
    return {
        "documents": set(catalog.rows("SELECT corpus, document, tokens FROM documents")),
        "text": set(catalog.rows("SELECT corpus, shard FROM shards WHERE relation = 'tokens'")),
        "harvest": set(catalog.rows("SELECT sae, path FROM shards WHERE relation = 'activations'")),
        "evaluation": set(catalog.rows("SELECT sae, corpus, split, inputs FROM evaluations")),
        "concept": set(catalog.rows("SELECT concept, definition FROM concepts")),
        "study": set(catalog.rows("SELECT source FROM study")),
    }


def check_agreement(root: Path) -> dict[tuple[str, str], Work]:
    """Foresee, ingest, and compare; what was foreseen."""
    said = foreseen(root)
    study = Study.load(root / "study.toml")
    with Catalog.create(root) as catalog:
        before = made(catalog)
        report = ingest_study(catalog, study)
        new = {name: rows - before[name] for name, rows in made(catalog).items()}
        lost = {name: before[name] - rows for name, rows in made(catalog).items()}
    for corpus in report.corpora:
        work = said["text", corpus.corpus]
        rows = [row for row in new["documents"] if row[0] == corpus.corpus]
        assert (work.documents or 0, work.tokens or 0) == (len(rows), sum(row[2] for row in rows))
        assert (work.shards or 0) == sum(row[0] == corpus.corpus for row in new["text"])
        assert (work.documents or 0) == corpus.added
    sure = {what for (stage, what), work in said.items() if stage == "SAE" and work.state in ("new", "changed")}
    perhaps = {what for (stage, what), work in said.items() if stage == "SAE" and work.state == "may change"}
    assert sure <= set(report.trained) <= sure | perhaps
    shards = Counter(sae for sae, _ in new["harvest"])
    for sae in [sae.name for sae in study.trained()]:
        work = said["harvest", sae]
        assert shards[sae] == (work.shards or 0) or (work.state == "may change" and not shards[sae])
        texts_of = {row[1:3] for row in new["evaluation"] if row[0] == sae}
        work = said["evaluation", sae]
        assert {f"{corpus}:{split}" for corpus, split in texts_of} == {
            place for place in ("docs:val", "docs:test") if place in work.why
        } or (work.state == "may change" and not texts_of)
    states = {"new": set(), "gone": set(), "changed": set(), "current": set()}
    for (stage, what), work in said.items():
        if stage == "concept":
            states[work.state].add(what)
    fresh, gone = ({name for name, _ in rows["concept"]} for rows in (new, lost))
    assert (states["new"], states["gone"], states["changed"]) == (fresh - gone, gone - fresh, fresh & gone)
    assert (said["study", "tiny"].state != "current") == bool(new["study"])
    # Afterwards there is nothing to do, also without a receipt that says so.
    assert list(foreseen(root).values()) == up_to_date(study)
    return said


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, neox_folder: Path) -> tuple[Path, dict[tuple[str, str], Work]]:
    """A study and its catalog, and what was foreseen before there was one."""
    root = tmp_path_factory.mktemp("dry")
    settings = plain_checkpoint(root / "theirs")
    shutil.copytree(root / "theirs", root / "others")
    (root / "others" / "cfg.json").write_text(json.dumps({**json.loads(settings.read_text()), "k": 9}))
    write_lines(root / "docs.jsonl", texts(15))
    (root / "study.toml").write_text(HEAD.format(model=neox_folder) + TRAINED + LOADED + CONCEPTS)
    return root, check_agreement(root)


def test_a_first_ingest_is_foreseen(base: tuple[Path, dict[tuple[str, str], Work]]) -> None:
    _, said = base
    assert {work.state for work in said.values()} == {"new"}
    assert said["text", "docs"].documents == 15
    # TopK keeps at most 4 latents a token.
    harvest = said["harvest", "s"]
    assert harvest.tokens == said["text", "docs"].tokens
    assert harvest.rows == 4 * (harvest.tokens or 0)


def test_without_a_receipt_the_look_at_everything_says_the_same(base: tuple[Path, dict[tuple[str, str], Work]]) -> None:
    root, _ = base
    (root / "cache" / "ingest.json").rename(root / "receipt")
    assert list(foreseen(root).values()) == up_to_date(Study.load(root / "study.toml"))
    (root / "receipt").rename(root / "cache" / "ingest.json")


def test_edits_are_foreseen(base: tuple[Path, dict[tuple[str, str], Work]], tmp_path: Path) -> None:
    root = Path(shutil.copytree(base[0], tmp_path / "copy"))
    write_lines(root / "docs.jsonl", texts(25))
    sections = (
        TRAINED.replace("steps = 10", "steps = 11") + CHILD + LOADED.replace("theirs", str(root / "others")) + MORE
    )
    text = (root / "study.toml").read_text()
    (root / "study.toml").write_text(text.replace(TRAINED + LOADED + CONCEPTS, sections))
    said = check_agreement(root)
    assert said["text", "docs"].documents == 10
    s, child, c = (said["SAE", name] for name in ("s", "child", "c"))
    assert (s.state, s.why) == ("changed", "steps is 11, and was 10")
    assert (child.state, c.state) == ("new", "changed")
    assert {said["harvest", name].state for name in ("s", "c")} == {"changed"}
    assert (said["concept", "maps"].state, said["concept", "matrices"].state) == ("new", "gone")
    # New text alone leaves SAEs as they are, and is harvested; weights that are lost are made again, and are the same.
    write_lines(root / "docs.jsonl", texts(35))
    shutil.rmtree(next((root / "weights").glob("s-*")))
    said = check_agreement(root)
    assert (said["SAE", "s"].why, said["SAE", "c"].state) == ("its weights are gone", "current")
    assert {said["SAE", "child"].state, said["harvest", "s"].state} == {"may change"}
    assert said["harvest", "c"].shards == said["text", "docs"].shards


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('files = ["docs.jsonl"]', 'files = ["none.jsonl"]'),
        ("width = 32", 'width = 32\nhookpoint = "layers.9"'),
        ("checkpoint = 'theirs'", "checkpoint = 'theirs'\nk = 5"),
        ("checkpoint = 'theirs'", "checkpoint = 'none'\nwidth = 48"),
        ('words = ["matrix"]', 'file = "none.jsonl"\nkind = "spans"'),
        ("ctx_len = 16", "ctx_len = 17"),
    ],
)
def test_what_an_ingest_refuses_a_dry_run_refuses_in_the_same_words(
    base: tuple[Path, dict[tuple[str, str], Work]], old: str, new: str
) -> None:
    root, _ = base
    text = (root / "study.toml").read_text()
    assert old in text
    study = Study.parse(text.replace(old, new), root)
    with pytest.raises(SaeqlError) as first:
        dry_run(Location.parse(root), study, silent)
    with pytest.raises(SaeqlError) as second, Catalog(root) as catalog:
        ingest_study(catalog, study)
    assert (str(first.value), type(first.value)) == (str(second.value), type(second.value))


def test_a_catalog_that_is_not_there_is_not_made(tmp_path: Path, neox_folder: Path) -> None:
    write_lines(tmp_path / "docs.jsonl", texts(5))
    (tmp_path / "study.toml").write_text(HEAD.format(model=neox_folder))
    before = files(tmp_path)
    args = ["-C", str(tmp_path / "not" / "there"), "ingest", str(tmp_path / "study.toml"), "--dry-run"]
    done = CliRunner().invoke(main, [*args, "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert [(row["stage"], row["what"], row["state"]) for row in rows[:2]] == [
        ("model", "tiny", "new"),
        ("text", "docs", "new"),
    ]
    assert "an ingest would find" in done.stderr
    assert files(tmp_path) == before
    assert not (tmp_path / "not").exists()
    csv = CliRunner().invoke(main, [*args, "--csv"]).stdout.splitlines()
    assert csv[0] == "stage,what,state,why,documents,tokens,shards,rows,bytes"
    assert len(csv) == len(rows) + 1
    refused = CliRunner().invoke(main, [*args[:-1], "--json"])
    assert refused.exit_code == 2
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file, not a directory"):
        dry_run(Location.parse(tmp_path / "file"), Study.load(tmp_path / "study.toml"), silent)


def test_nothing_to_do_is_told_without_torch(own: Path) -> None:
    code = (
        "import json, sys\nfrom queries.cli.main import main\n"
        "try:\n    main(['ingest', sys.argv[1], '--dry-run', '--json'])\nexcept SystemExit as end:\n"
        "    assert not end.code\nassert 'torch' not in sys.modules\nassert 'transformers' not in sys.modules"
    )
    (own / "refresh.lock").unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", code, str(own / "study.toml")], capture_output=True, text=True, env={**os.environ}
    )
    assert done.stderr == "everything is up to date\n"
    assert {row["state"] for row in json.loads(done.stdout)} == {"current"}
    assert not (own / "refresh.lock").exists()
