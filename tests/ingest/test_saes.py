"""A study's SAEs of every kind: fine-tuned, swept, selected, streamed, transcoders, several processes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from catalog import Catalog
from catalog.doctor.examine import examine
from catalog.errors import InputError
from catalog.study.file import Study
from ingest.activations.residual_cache import cache_residuals
from ingest.model.language_model import load_model
from ingest.pipeline import IngestReport, ingest_study
from ingest.sae.model import SAE
from tests.empty import make_empty
from tests.ingest.tiny import D, texts, write_lines

HEAD = """
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
shard_tokens = 600

[evaluation]
tokens = 200
splits = ["val", "test"]
"""
QUICK = "batch = 64\nsteps = 40\nwidth = 48\nwarmup = 4\ndecay = 10\n"


def ingest(root: Path, model: Path, sections: str, documents: int = 40) -> IngestReport:
    root.mkdir(exist_ok=True)
    write_lines(root / "docs.jsonl", texts(documents))
    (root / "study.toml").write_text(HEAD.format(model=model) + sections)
    with Catalog(root) if (root / "catalog.sqlite").exists() else make_empty(root) as catalog:
        return ingest_study(catalog, Study.load(root / "study.toml"))


def loaded(root: Path, name: str) -> SAE:
    with Catalog(root, read_only=True) as catalog:
        return SAE.load(catalog.weights / catalog.value("SELECT weights FROM saes WHERE sae = ?", [name]))


def rows(root: Path, sql: str) -> list[tuple[object, ...]]:
    with Catalog(root, read_only=True) as catalog:
        return catalog.rows(sql)


def section(name: str, **keys: object) -> str:
    said = "".join(
        f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}\n" for key, value in keys.items()
    )
    return f'\n[[sae]]\nname = "{name}"\n{said}'


def test_every_architecture_is_trained_measured_and_harvested(tmp_path: Path, neox_folder: Path) -> None:
    names = ["batchtopk", "gated", "jumprelu", "matryoshka", "relu", "topk"]
    sections = "".join(section(name, architecture=name) + QUICK for name in names)
    assert sorted(ingest(tmp_path, neox_folder, sections).trained) == names
    assert rows(tmp_path, "SELECT sae, architecture, k, width, tilt FROM saes ORDER BY sae") == [
        (name, name, 32 if name in ("topk", "batchtopk", "matryoshka") else None, 48, 0.0) for name in names
    ]
    assert rows(tmp_path, "SELECT sae, step FROM training ORDER BY ALL") == [(name, 40) for name in names]
    assert rows(tmp_path, "SELECT sae, split FROM evaluations ORDER BY ALL") == [
        (name, split) for name in names for split in ("test", "val")
    ]
    # The activations that were kept are those of the SAE as it was saved.
    fired = dict(rows(tmp_path, "SELECT sae, count(*) FROM activations GROUP BY sae"))
    ((tokens,),) = rows(tmp_path, "SELECT sum(tokens)::BIGINT FROM documents")
    for name, l0 in rows(tmp_path, "SELECT sae, l0 FROM evaluations WHERE split = 'val'"):
        assert 0.3 * l0 * tokens < fired.get(name, 0) < 3 * l0 * tokens + 1  # type: ignore[operator]
    assert not ingest(tmp_path, neox_folder, sections).trained


def test_a_child_begins_with_its_parents_weights_and_keeps_what_it_does_not_override(
    tmp_path: Path, neox_folder: Path
) -> None:
    parent = section("general", architecture="relu", sparsity=0.5) + QUICK
    still = "batch = 64\nsteps = 1\nwarmup = 0\ndecay = 0\nlr = 1e-9\n"
    ingest(tmp_path, neox_folder, section("tuned", parent="general") + still + parent)
    old, new = loaded(tmp_path, "general"), loaded(tmp_path, "tuned")
    assert new.config == old.config
    torch.testing.assert_close(new.weights.encoder, old.weights.encoder, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(new.weights.decoder_bias, old.weights.decoder_bias, rtol=1e-4, atol=1e-6)
    assert rows(tmp_path, "SELECT parent, sparsity FROM saes WHERE sae = 'tuned'") == [("general", 0.5)]
    # Its coefficient keeps its meaning only on rows that are scaled as the parent's were.
    assert new.scale == old.scale


def test_a_changed_parent_trains_its_children_again(tmp_path: Path, neox_folder: Path) -> None:
    def sections(steps: int) -> str:
        quick = QUICK.replace("steps = 40", f"steps = {steps}")
        other = section("other", k=4) + QUICK
        return section("general", k=4) + quick + section("tuned", parent="general") + QUICK + other

    assert ingest(tmp_path, neox_folder, sections(40)).trained == ["general", "other", "tuned"]
    assert ingest(tmp_path, neox_folder, sections(41)).trained == ["general", "tuned"]


MORE = '\n[[corpus]]\nname = "more"\nkind = "jsonl"\nfiles = ["more.jsonl"]\nctx_len = 16\nshard_tokens = 300\n'


def test_new_weights_leave_no_measure_and_no_activation_of_the_old_ones(tmp_path: Path, neox_folder: Path) -> None:
    write_lines(tmp_path / "more.jsonl", texts(20, seed=1))

    def sections(steps: int, *corpora: str) -> str:
        named = {"corpora": ["docs"], "harvest": list(corpora), "evaluate": list(corpora)}
        one = section("s", k=4, **named) + QUICK.replace("steps = 40", f"steps = {steps}")
        return MORE + one + section("other", k=4, **named) + QUICK

    def found(sae: str) -> list[tuple[object, ...]]:
        """(table, corpus, split or shard, what it was made from) of all that was made with the SAE."""
        measured = f"SELECT 'evaluations', corpus, split, inputs FROM evaluations WHERE sae = '{sae}'"
        kept = f"SELECT path, corpus, shard::VARCHAR, inputs FROM shards WHERE sae = '{sae}'"
        return rows(tmp_path, f"{measured} UNION {kept}")

    ingest(tmp_path, neox_folder, sections(40, "docs", "more"))
    before, other = found("s"), found("other")
    assert {row[1:3] for row in before} >= {(c, s) for c in ("docs", "more") for s in ("val", "test", "0")}
    assert ingest(tmp_path, neox_folder, sections(41, "docs")).trained == ["s"]
    now = found("s")
    assert {row[1:3] for row in now} == {row[1:3] for row in before if row[1] == "docs"}
    assert not {row[3] for row in now} & {row[3] for row in before}
    assert rows(tmp_path, "SELECT DISTINCT corpus FROM activations WHERE sae = 's'") == [("docs",)]
    # What the study no longer names stays true of weights that are as they were.
    assert sorted(found("other")) == sorted(other)
    assert rows(tmp_path, "SELECT step FROM training WHERE sae = 's'") == [(41,)]
    with Catalog(tmp_path, read_only=True) as catalog:
        assert [finding for finding in examine(catalog) if finding.severity != "ok"] == []


def test_a_training_that_ends_in_the_same_weights_leaves_what_was_made_with_them(
    tmp_path: Path, neox_folder: Path
) -> None:
    def found(dead_after: int, *corpora: str) -> list[tuple[object, ...]]:
        named = {"harvest": list(corpora), "evaluate": list(corpora)}
        report = ingest(tmp_path, neox_folder, section("s", k=4, dead_after=dead_after, **named) + QUICK)
        assert report.trained == ["s"]
        shards = rows(tmp_path, "SELECT path FROM shards WHERE sae = 's' ORDER BY ALL")
        assert shards
        return [*shards, *rows(tmp_path, "FROM evaluations ORDER BY ALL")]

    assert found(200_000, "docs") == found(300_000)


def test_a_checkpoint_on_disk_can_be_a_parent(tmp_path: Path, neox_folder: Path) -> None:
    ingest(tmp_path / "a", neox_folder, section("s", architecture="jumprelu", sparsity=0.01) + QUICK)
    folder = next((tmp_path / "a" / "weights").iterdir())
    ingest(tmp_path / "b", neox_folder, section("t", parent=str(folder)) + QUICK.replace("width = 48\n", ""))
    assert loaded(tmp_path / "b", "t").config.architecture == "jumprelu"
    assert rows(tmp_path / "b", "SELECT parent FROM saes") == [(str(folder),)]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"parent": "general", "hookpoint": "layers.0.mlp.dense_h_to_4h"}, "name its own hookpoint"),
        ({"parent": "general", "target": "layers.0.mlp"}, "both be SAEs, or both transcoders"),
        ({"parent": "./nowhere"}, "nowhere"),
    ],
)
def test_a_parent_that_does_not_fit_is_refused(
    tmp_path: Path, neox_folder: Path, keys: dict[str, object], said: str
) -> None:
    quick = QUICK.replace("width = 48\n", "")
    with pytest.raises(InputError, match=said):
        ingest(tmp_path, neox_folder, section("general", k=4) + QUICK + section("tuned", **keys) + quick)


def test_a_sweep_is_trained_on_one_pass_and_recorded(tmp_path: Path, neox_folder: Path) -> None:
    sweep = '\n[[sweep]]\nname = "l1"\nsaes = ["s"]\nvalues = [0.01, 5]\nseeds = [0, 1]\nl0_low = 1\nl0_high = 40\n'
    ingest(tmp_path, neox_folder, section("s", architecture="relu", template=True, harvest=[]) + QUICK + sweep)
    assert rows(tmp_path, "SELECT sae, family, coefficient, seed FROM sweeps ORDER BY ALL") == [
        ("s-sparsity-0_01-s0", "s", 0.01, 0),
        ("s-sparsity-0_01-s1", "s", 0.01, 1),
        ("s-sparsity-5-s0", "s", 5.0, 0),
        ("s-sparsity-5-s1", "s", 5.0, 1),
    ]
    low, high = (
        rows(tmp_path, f"SELECT avg(l0) FROM saes WHERE sae LIKE 's-sparsity-{v}-%'")[0][0] for v in ("0_01", "5")
    )
    assert float(str(low)) > float(str(high))
    assert rows(tmp_path, "SELECT count(*) FROM activations") == [(0,)]


def test_a_second_sweep_of_a_family_leaves_the_runs_of_the_first(tmp_path: Path, neox_folder: Path) -> None:
    sae = section("s", architecture="relu", template=True, evaluate=[]) + QUICK

    def swept(setting: str) -> list[tuple[object, ...]]:
        sweep = f'\n[[sweep]]\nname = "{setting}"\nsaes = ["s"]\nsetting = "{setting}"\nvalues = [2]\n'
        ingest(tmp_path, neox_folder, sae + sweep)
        return rows(tmp_path, "SELECT setting, sparsity, tilt, digest FROM sweeps JOIN saes USING (sae) ORDER BY ALL")

    (first,) = swept("sparsity")
    assert first[:3] == ("sparsity", 2, 0)
    again, second = swept("tilt")
    assert again == first
    assert second[:3] == ("tilt", 1, 2)


@pytest.mark.parametrize("method", ['method = "random"\ntokens = 150', 'method = "seed"\nseed = "docs"\ntokens = 3000'])
def test_a_selection_trains_on_its_documents_alone(tmp_path: Path, neox_folder: Path, method: str) -> None:
    pool = f'\n[[selection]]\nname = "few"\n{method}\npool = "docs"\n'
    ingest(tmp_path, neox_folder, pool + section("s", k=4, selection="few") + QUICK)
    with Catalog(tmp_path, read_only=True) as catalog:
        study = Study.load(tmp_path / "study.toml")
        model = load_model(study.model)
        residuals = cache_residuals(catalog, model, ["layers.1"], ["docs"])["layers.1"]
        ranges = catalog.rows(
            "SELECT d.start, d.start + d.tokens FROM selected AS s "
            "JOIN documents AS d ON (d.corpus, d.document) = (s.corpus, s.document) ORDER BY d.start"
        )
    found = residuals.rows_of({"docs": np.array(ranges)})
    positions = sorted(residuals.train_positions[found].tolist())
    assert positions == [p for first, last in ranges for p in range(first, last)]
    assert rows(tmp_path, "SELECT selection FROM saes") == [("few",)]


def test_a_selection_that_the_cache_does_not_hold_is_refused(tmp_path: Path, neox_folder: Path) -> None:
    full = '\n[[selection]]\nname = "all"\nmethod = "full"\npool = "docs"\n'
    with pytest.raises(InputError, match="remove train_tokens, or raise it") as raised:
        ingest(tmp_path, neox_folder, full + section("s", k=4, selection="all", train_tokens=100) + QUICK)
    ((tokens,),) = rows(tmp_path, "SELECT sum(tokens)::BIGINT FROM documents WHERE split = 'train'")
    assert f"selection 'all' holds {tokens} train tokens, and only 100 of them" in str(raised.value)
    assert rows(tmp_path, "FROM saes") == []


def test_a_selection_that_no_sae_is_trained_on_is_made_too(tmp_path: Path, neox_folder: Path) -> None:
    few = '\n[[selection]]\nname = "few"\nmethod = "random"\npool = "docs"\ntokens = 150\n'
    like = few.replace("few", "like").replace("random", "bm25+tracin") + 'parent = "s"\nseed = "docs"\n'
    ingest(tmp_path, neox_folder, like + few + section("s", k=4, evaluate=[], harvest=[]) + QUICK)
    found = rows(
        tmp_path, "SELECT selection, sum(tokens) >= 150, count(*) < 40 FROM selected GROUP BY ALL ORDER BY ALL"
    )
    assert found == [("few", True, True), ("like", True, True)]


def test_rows_of_another_document_are_never_drawn(tmp_path: Path, neox_folder: Path) -> None:
    """The cached rows that belong to a document are the model's output on that document."""
    ingest(tmp_path, neox_folder, section("s", k=4) + QUICK)
    with Catalog(tmp_path, read_only=True) as catalog:
        model = load_model(Study.load(tmp_path / "study.toml").model)
        residuals = cache_residuals(catalog, model, ["layers.1"], ["docs"])["layers.1"]
        document, start, length = catalog.rows(
            "SELECT document, start, tokens FROM documents WHERE split = 'train' AND tokens < 15 ORDER BY 1 LIMIT 1"
        )[0]
        ids = [r[0] for r in catalog.rows("SELECT token FROM tokens WHERE document = ? ORDER BY position", [document])]
    lead = [] if model.bos is None else [model.bos]
    expected = model.read(torch.tensor([lead + ids]), ["layers.1"])["layers.1"][0, len(lead) :]
    found = residuals.rows_of({"docs": np.array([[start, start + length]])})
    order = np.argsort(residuals.train_positions[found])
    np.testing.assert_allclose(residuals.train[found][order], expected.numpy(), rtol=2e-3, atol=2e-3)


def test_streamed_rows_train_like_cached_ones_and_leave_no_cache(tmp_path: Path, neox_folder: Path) -> None:
    ingest(tmp_path, neox_folder, section("s", k=4, stream=True) + QUICK.replace("steps = 40", "steps = 150"))
    ingest(tmp_path / "c", neox_folder, section("s", k=4) + QUICK.replace("steps = 40", "steps = 150"))
    (streamed,), (cached,) = (rows(r, "SELECT fve FROM saes") for r in (tmp_path, tmp_path / "c"))
    assert abs(float(str(streamed[0])) - float(str(cached[0]))) < 0.1
    assert not (tmp_path / "cache" / "residuals").exists()


@pytest.mark.parametrize("skip", [False, True])
def test_a_transcoder_reads_one_module_and_writes_another(tmp_path: Path, neox_folder: Path, skip: bool) -> None:
    keys = {"hookpoint": "layers.1.mlp", "target": "layers.1", "k": 8, "skip": skip}
    ingest(tmp_path, neox_folder, section("t", **keys) + QUICK.replace("steps = 40", "steps = 150"))
    sae = loaded(tmp_path, "t")
    assert (sae.config.d_in, sae.config.out, sae.config.target_hookpoint) == (D, D, "layers.1")
    assert (sae.weights.skip is not None) == skip
    ((target, fve),) = rows(tmp_path, "SELECT target, fve FROM saes")
    assert target == "layers.1"
    assert float(str(fve)) > 0.1


@pytest.mark.slow
def test_two_processes_train_the_curve_of_one(tmp_path: Path, neox_folder: Path) -> None:
    """The parts of a step are compared for every architecture, and under tilt, in test_sae_world."""
    keys = {"architecture": "topk", "k": 4}
    quick = QUICK.replace("steps = 40", "steps = 60")
    ingest(tmp_path / "one", neox_folder, section("s", **keys) + quick)
    ingest(tmp_path / "two", neox_folder, section("s", processes=2, **keys) + quick)
    one, two = (
        rows(tmp_path / name, "SELECT loss, fve, l0, dead FROM training ORDER BY step") for name in ("one", "two")
    )
    np.testing.assert_allclose(np.array(one, float), np.array(two, float), rtol=2e-3)
    a, b = loaded(tmp_path / "one", "s"), loaded(tmp_path / "two", "s")
    torch.testing.assert_close(a.weights.decoder, b.weights.decoder, rtol=0, atol=2e-2)


def test_an_sae_whose_decoder_has_no_logits_is_a_problem_with_its_reason(tmp_path: Path, neox_folder: Path) -> None:
    ingest(tmp_path, neox_folder, section("wide", hookpoint="layers.0.mlp.dense_h_to_4h", evaluate=[]) + QUICK)
    said = "SELECT subject, reason FROM problems WHERE stage = 'logit lens'"
    ((subject, reason),) = rows(tmp_path, said)
    (wide,) = rows(tmp_path, "SELECT d FROM saes")[0]
    assert subject == "wide"
    assert reason == f"decoder rows have {wide} dimensions, the model's residual stream {D}: they have no logits"
    # The name now stands for an SAE on the residual stream.
    ingest(tmp_path, neox_folder, section("wide", hookpoint="layers.0", evaluate=[]) + QUICK)
    assert rows(tmp_path, said) == []


def test_nan_rows_stop_the_training_and_keep_the_last_checkpoint(tmp_path: Path, neox_folder: Path) -> None:
    with pytest.raises(InputError, match="step"):
        ingest(tmp_path, neox_folder, section("s", k=4, lr=1e30) + QUICK.replace("warmup = 4", "warmup = 0"))
    assert rows(tmp_path, "SELECT count(*) FROM saes") == [(0,)]
