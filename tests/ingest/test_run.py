"""A study into the catalog, whole: other models, checkpoints, a second run, a full disk, and kill -9 at any point."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from catalog import Catalog
from catalog.doctor.examine import examine
from catalog.errors import CatalogLocked, InputError, UnknownName
from catalog.store.locks import locked
from catalog.store.shards import file_digest
from catalog.study.file import Study
from catalog.study.sae import Sae
from ingest.pipeline import IngestReport, ingest_study
from ingest.sae.architecture import Weights
from ingest.sae.config import SAEConfig
from ingest.sae.model import SAE, WEIGHTS_FILE
from ingest.stored.adopt import check_asked
from tests.ingest.tiny import D, content, run_killed, save_model, texts, write_lines

STUDY = """
name = "tiny"

[model]
name = "tiny"
source = "{model}"
device = "cpu"

[[corpus]]
name = "docs"
kind = "jsonl"
files = ["docs.jsonl"]
ctx_len = 16
shard_tokens = 300

[[sae]]
name = "s"
hookpoint = "layers.1"
width = 48
k = 4
batch = 128
{sae}

[[concept]]
name = "matrices"
words = ["matrix"]
"""


def write_study(folder: Path, model: Path, sae: str = "steps = 230", documents: int = 20) -> Path:
    write_lines(folder / "docs.jsonl", texts(documents))
    (folder / "study.toml").write_text(STUDY.format(model=model, sae=sae))
    return folder / "study.toml"


def ingest(root: Path, study: Path) -> IngestReport:
    with Catalog(root) as catalog:
        return ingest_study(catalog, Study.load(study))


def weights(catalog: Catalog, name: str = "s") -> Path:
    folder = catalog.value("SELECT weights FROM saes WHERE sae = ?", [name])
    return catalog.weights / folder / WEIGHTS_FILE


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, neox_folder: Path) -> Path:
    return write_study(tmp_path_factory.mktemp("study"), neox_folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, study: Path, empty_catalog: Path) -> Path:
    root = Path(shutil.copytree(empty_catalog, tmp_path_factory.mktemp("undisturbed") / "catalog"))
    ingest(root, study)
    return root


@pytest.fixture
def done(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of an ingested catalog."""
    return Path(shutil.copytree(undisturbed, tmp_path / "done"))


def test_a_study_of_another_model_and_json_lines_fills_the_catalog(undisturbed: Path, neox_folder: Path) -> None:
    with Catalog(undisturbed) as catalog:
        assert catalog.rows("SELECT model, source, architecture, d_model, layers, bos FROM models") == [
            ("tiny", str(neox_folder), "GPTNeoXForCausalLM", D, 3, None)
        ]
        assert catalog.value("SELECT documents FROM corpora") == 20
        sae, width, d, k, digest = catalog.rows("SELECT sae, width, d, k, digest FROM saes")[0]
        assert (sae, width, d, k) == ("s", 48, D, 4)
        assert digest == file_digest(weights(catalog))
        fired, tokens = catalog.rows("SELECT count(DISTINCT position), max(position) FROM activations")[0]
        assert 0 < fired <= tokens + 1 == catalog.value("SELECT tokens FROM corpora")
        assert catalog.value("SELECT max(n) FROM (SELECT count(*) AS n FROM activations GROUP BY position)") <= 4
        assert catalog.rows("SELECT concept FROM concepts") == [("matrices",)]
        assert catalog.value("SELECT count(*) FROM vocabulary") > 256
        assert [f for f in examine(catalog) if f.severity != "ok"] == []


def test_a_second_run_does_nothing(done: Path, study: Path) -> None:
    with Catalog(done) as catalog:
        before = catalog.snapshot()
        report = ingest_study(catalog, Study.load(study))
        assert catalog.snapshot() == before
        assert (report.trained, report.harvest.shards, report.corpora[0].added) == ([], 0, 0)


def test_deleting_the_cache_after_training_does_not_train_again(done: Path, study: Path) -> None:
    shutil.rmtree(done / "cache")
    (done / "cache").mkdir()
    report = ingest(done, study)
    assert report.trained == []
    assert not list((done / "cache").glob("residuals/*"))


def test_lost_weights_are_trained_again_to_the_same_bits(done: Path, study: Path) -> None:
    with Catalog(done) as catalog:
        path, digest = weights(catalog), file_digest(weights(catalog))
        shutil.rmtree(path.parent)
        report = ingest_study(catalog, Study.load(study))
        assert report.trained == ["s"]
        assert file_digest(path) == digest
        assert report.harvest.shards == 0


def test_a_changed_sae_is_trained_and_harvested_again(done: Path, study: Path, tmp_path: Path) -> None:
    changed = tmp_path / "study.toml"
    shutil.copy(study.with_name("docs.jsonl"), tmp_path)
    shutil.copystat(study.with_name("docs.jsonl"), tmp_path / "docs.jsonl")
    changed.write_text(study.read_text().replace("steps = 230", "steps = 20").replace("width = 48", "width = 32"))
    report = ingest(done, changed)
    assert report.trained == ["s"]
    with Catalog(done) as catalog:
        assert catalog.value("SELECT width FROM saes") == 32
        assert catalog.value("SELECT max(feature) FROM activations") < 32
        per_token = "SELECT max(n) FROM (SELECT count(*) AS n FROM activations GROUP BY position)"
        assert catalog.value(per_token) <= 4
        assert report.harvest.skipped == 0


def checkpoint(folder: Path, d: int) -> Path:

    torch.manual_seed(1)
    encoder, decoder = torch.randn(48, d), torch.nn.functional.normalize(torch.randn(48, d))
    config = SAEConfig(d_in=d, width=48, k=4, model_name="tiny", hookpoint="layers.1")
    SAE(config, Weights(encoder, torch.zeros(48), decoder, torch.zeros(d))).save(folder)
    return folder


def test_a_checkpoint_is_loaded_and_not_trained(
    new_catalog: Callable[[str], Path], tmp_path: Path, neox_folder: Path
) -> None:
    folder = checkpoint(tmp_path / "sae", D)
    root = new_catalog("catalog")
    ingest(root, write_study(tmp_path, neox_folder, f'checkpoint = "{folder}"'))
    with Catalog(root) as catalog:
        assert catalog.rows("SELECT digest, steps FROM saes") == [(file_digest(folder / WEIGHTS_FILE), None)]
        assert catalog.value("SELECT count(*) FROM activations") > 0


def test_a_checkpoint_of_another_width_names_both(
    new_catalog: Callable[[str], Path], tmp_path: Path, neox_folder: Path
) -> None:
    folder = checkpoint(tmp_path / "sae", 24)
    study = write_study(tmp_path, neox_folder, f'checkpoint = "{folder}"', documents=10)
    with pytest.raises(InputError, match=rf"reads rows of width 24, and layers.1 of tiny gives {D}"):
        ingest(new_catalog("catalog"), study)


def test_a_checkpoint_of_another_block_is_refused(
    new_catalog: Callable[[str], Path], tmp_path: Path, neox_folder: Path
) -> None:
    folder = checkpoint(tmp_path / "sae", D)
    study = write_study(tmp_path, neox_folder, f'checkpoint = "{folder}"', documents=10)
    study.write_text(study.read_text().replace('"layers.1"', '"layers.0"'))
    with pytest.raises(InputError, match=r"was trained on layers\.1, and the study reads layers\.0"):
        ingest(new_catalog("catalog"), study)


@pytest.mark.parametrize(
    ("trained", "asked", "fits"),
    [
        ("layer_0", "layers.1", False),
        ("layer_0", "layers.0", True),
        ("layer_0", "layers.0.mlp", True),
        ("layer_3.mlp", "layers.4.mlp", False),
        ("layer_3.mlp", "layers.3.mlp", True),
        ("layers.3", "layers.4.input", True),
        ("layers.3", "layers.3.input", False),
        ("elsewhere", "layers.3", True),
    ],
)
def test_names_that_libraries_give_blocks_tell_them_apart(trained: str, asked: str, fits: bool) -> None:
    sae = Sae(name="s", hookpoint=asked, checkpoint="there")
    loaded = SAE(SAEConfig(D, 48, 4, "tiny", trained), Weights(*(torch.zeros(1) for _ in range(4))))
    if fits:
        check_asked(sae, loaded)
    else:
        with pytest.raises(InputError, match=f"trained on {trained}, and the study reads {asked}"):
            check_asked(sae, loaded)


def test_a_missing_checkpoint_is_named(new_catalog: Callable[[str], Path], tmp_path: Path, neox_folder: Path) -> None:
    study = write_study(tmp_path, neox_folder, 'checkpoint = "gone"', documents=10)
    with pytest.raises(InputError, match=f"the checkpoint {tmp_path / 'gone'} is not a directory"):
        ingest(new_catalog("catalog"), study)


def test_an_unknown_hookpoint_is_refused_before_any_text_is_read(catalog: Catalog, study: Path, tmp_path: Path) -> None:
    changed = study.with_name("unknown.toml")
    changed.write_text(study.read_text().replace("layers.1", "blocks.1"))
    with pytest.raises(UnknownName, match=r"no hookpoint 'blocks.1'; it has layers.0"):
        ingest_study(catalog, Study.load(changed))
    assert catalog.rows("FROM corpora") == []


def test_another_model_under_the_same_name_is_refused(done: Path, study: Path, tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", "neox", bos=False, seed=9)
    changed = study.with_name("other.toml")
    lines = study.read_text().splitlines()
    changed.write_text("\n".join(f'source = "{other}"' if line.startswith("source") else line for line in lines))
    with pytest.raises(InputError, match=r"is not the one that .* was built from \(weights or tokenizer differ"):
        ingest(done, changed)


@pytest.mark.parametrize(
    ("bos", "settings", "said"),
    [
        ("always", {}, "bos is token 0, and was none"),
        ("auto", {"hidden_act": "relu"}, "hidden_act is 'relu' in its configuration, and was 'gelu'"),
        ("auto", {"layer_norm_eps": 1e-3}, "layer_norm_eps is 0.001 in its configuration"),
        ("auto", {"eos_token_id": 1, "attention_dropout": 0.5}, ""),
    ],
)
def test_a_model_that_reads_otherwise_under_the_same_name_is_refused(
    done: Path, study: Path, tmp_path: Path, bos: str, settings: dict[str, object], said: str
) -> None:
    """Its weights are the same: the activations of new text would not go with those that are there."""
    lines = study.read_text().splitlines()
    source = next(line for line in lines if line.startswith("source")).split('"')[1]
    other = Path(shutil.copytree(source, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, **settings}))
    changed = study.with_name("changed.toml")
    model = f'source = "{other}"\nbos = "{bos}"'
    changed.write_text("\n".join(model if line.startswith("source") else line for line in lines))
    if not said:
        ingest(done, changed)
        return
    with pytest.raises(InputError, match=r"built from \(" + re.escape(said)):
        ingest(done, changed)


def test_a_catalog_that_is_being_refreshed_is_left_alone(done: Path, study: Path) -> None:
    with locked(done / "refresh.lock", wait=0), pytest.raises(CatalogLocked, match=f"process {os.getpid()}"):
        ingest(done, study)


WHOLE = ("files", "shards", "weights", "keys", "activations", "harvest")

KILLS = {
    "between the files of a shard and their commit": ("ingest.text.corpus:write_parquet", 4, "after"),
    "inside the commit of a text shard": ("ingest.text.corpus:register_shard", 3, "after"),
    "before the corpus is recorded": ("ingest.text.corpus:record_corpus", 1, "before"),
    "in the middle of the residual cache": ("ingest.activations.residual_cache:_CacheFolder.append", 2, "after"),
    "in training after a checkpoint": ("ingest.sae.training.adam:UnitDecoderAdam.step", 215, "after"),
    "between the weights and their row": ("ingest.dictionaries.record:evaluate", 1, "before"),
    "between an activations file and its commit": ("ingest.activations.shard_harvest:write_activations", 2, "after"),
    "inside the commit of activations": ("ingest.activations.shard_harvest:register_shard", 3, "after"),
}


@pytest.mark.slow
def test_kill_9_at_any_point_ends_with_the_tables_of_an_undisturbed_run(
    undisturbed: Path, study: Path, new_catalog: Callable[[str], Path]
) -> None:
    roots = {name: new_catalog(str(i)) for i, name in enumerate(KILLS)}
    ends = run_killed(study, {name: (roots[name], *kill) for name, kill in KILLS.items()})
    assert ends == dict.fromkeys(KILLS, -signal.SIGKILL)
    with Catalog(undisturbed) as catalog:
        expected, digest = content(catalog), file_digest(weights(catalog))
    for name, root in roots.items():
        ingest(root, study)
        with Catalog(root) as catalog:
            found = content(catalog)
            assert file_digest(weights(catalog)) == digest, name
            assert [f for f in examine(catalog, only=WHOLE) if f.severity == "error"] == [], name
        assert [table for table in expected if found[table] != expected[table]] == [], name


@pytest.mark.slow
def test_a_full_disk_is_named_and_the_run_goes_on_after_room_is_made(
    undisturbed: Path, empty_catalog: Path, study: Path, small_disk: Callable[[str], Path]
) -> None:
    with Catalog(undisturbed) as catalog:
        expected = content(catalog)
    disk = small_disk("64m")
    root = Path(shutil.copytree(empty_catalog, disk / "catalog"))
    filler = disk / "filler"
    said: list[str] = []
    for free in range(100, 3000, 250):
        room = os.statvfs(disk)
        filler.write_bytes(bytes(max(room.f_bavail * room.f_frsize - free * 1024, 0)))
        try:
            ingest(root, study)
        except InputError as error:
            said.append(str(error))
        filler.write_bytes(b"")
        with Catalog(root) as catalog:
            assert [f for f in examine(catalog, only=WHOLE) if f.severity == "error"] == []
            if catalog.rows("FROM study"):
                break
    assert len(said) >= 2
    assert all(f"the disk that holds {root} is full" in one for one in said)
    ingest(root, study)
    with Catalog(root) as catalog:
        assert content(catalog) == expected
