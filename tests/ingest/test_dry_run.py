"""A dry run says what the ingest after it does, and writes nothing."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from catalog import Catalog
from catalog.errors import InputError, SaeqlError
from catalog.store.location import Location
from catalog.study.file import Study
from ingest.dry_run import dry_run
from ingest.pipeline import ingest_study
from ingest.work import Work, up_to_date
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
    # Afterwards there is nothing to do: by the receipt, and without one by looking at everything.
    assert list(foreseen(root).values()) == up_to_date(study)
    (root / "cache" / "ingest.json").rename(root / "receipt")
    assert list(foreseen(root).values()) == up_to_date(study)
    (root / "receipt").rename(root / "cache" / "ingest.json")
    return said


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory, neox_folder: Path) -> Iterator[tuple[Path, object]]:
    root = tmp_path_factory.mktemp("dry")
    plain_checkpoint(root / "theirs")
    write_lines(root / "docs.jsonl", texts(20))

    def study(sections: str) -> None:
        (root / "study.toml").write_text(HEAD.format(model=neox_folder) + sections)

    yield root, study


def test_what_is_foreseen_is_what_an_ingest_does(write: tuple[Path, object], neox_folder: Path) -> None:
    root, study = write
    study(TRAINED + CONCEPTS)
    said = check_agreement(root)
    assert {work.state for work in said.values()} == {"new"}
    # TopK keeps at most 4 latents a token.
    harvest = said["harvest", "s"]
    assert (harvest.rows, harvest.tokens) == (4 * harvest.tokens, said["text", "docs"].tokens)

    write_lines(root / "docs.jsonl", texts(30))
    study(TRAINED + LOADED + CONCEPTS + MORE)
    said = check_agreement(root)
    assert (said["SAE", "s"].state, said["SAE", "c"].state) == ("current", "new")
    assert said["text", "docs"].documents == 10
    assert said["harvest", "s"].shards == said["text", "docs"].shards < said["harvest", "c"].shards
    assert (said["concept", "maps"].state, said["concept", "matrices"].state) == ("new", "current")

    study(TRAINED.replace("steps = 10", "steps = 11") + CHILD + LOADED + MORE)
    said = check_agreement(root)
    assert said["SAE", "s"] == Work("SAE", "s", "changed", "steps is 11, and was 10", tokens=said["SAE", "s"].tokens)
    assert (said["SAE", "child"].state, said["SAE", "c"].state) == ("new", "current")
    assert said["concept", "matrices"].state == "gone"

    settings = root / "theirs" / "cfg.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "k": 9}))
    shutil.rmtree(next((root / "weights").glob("s-*")))
    with Catalog(root) as catalog:
        assert catalog.value("SELECT count(*) FROM saes") == 3
    said = check_agreement_of_lost_weights(root)
    assert (said["SAE", "c"].state, said["harvest", "c"].state) == ("changed", "changed")


def check_agreement_of_lost_weights(root: Path) -> dict[tuple[str, str], Work]:
    """The same training gives the same weights, so that what follows from them stays."""
    said = foreseen(root)
    assert said["SAE", "s"].why == "its weights are gone"
    assert [said[stage, "s"].state for stage in ("harvest",)] == ["may change"]
    assert said["SAE", "child"].state == "may change"
    check_agreement(root)
    return said


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('files = ["docs.jsonl"]', 'files = ["none.jsonl"]'),
        ('files = ["docs.jsonl"]', 'files = ["study.toml"]'),
        ("width = 32", 'width = 32\nhookpoint = "layers.9"'),
        ('checkpoint = "theirs"', 'checkpoint = "theirs"\nk = 5'),
        ("checkpoint = 'theirs'", "checkpoint = 'none'"),
        ('words = ["matrix"]', 'file = "none.jsonl"\nkind = "spans"'),
        ("ctx_len = 16", "ctx_len = 64"),
    ],
)
def test_what_an_ingest_refuses_a_dry_run_refuses_in_the_same_words(
    write: tuple[Path, object], tmp_path: Path, neox_folder: Path, old: str, new: str
) -> None:
    root, _ = write
    sections = HEAD.format(model=neox_folder) + TRAINED + LOADED.replace("'", '"' if '"theirs"' in old else "'")
    text = sections + CONCEPTS
    assert old in text
    folder = tmp_path / "study"
    folder.mkdir()
    shutil.copytree(root / "theirs", folder / "theirs")
    write_lines(folder / "docs.jsonl", texts(10))
    (folder / "study.toml").write_text(text.replace(old, new))
    with pytest.raises(SaeqlError) as foreseen_error:
        foreseen(folder)
    with pytest.raises(SaeqlError) as error, Catalog.create(folder) as catalog:
        ingest_study(catalog, Study.load(folder / "study.toml"))
    assert (str(foreseen_error.value), type(foreseen_error.value)) == (str(error.value), type(error.value))


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
