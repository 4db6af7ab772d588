"""An SAE that diverges is named at the end: what does not need it is trained, recorded, harvested, measured first."""

from pathlib import Path

import pytest

from catalog.errors import InputError
from tests.ingest.test_saes import QUICK, ingest, rows, section

DIVERGES = QUICK.replace("warmup = 4", "warmup = 0")
LIKE_BAD = """
[[selection]]
name = "like"
method = "bm25+tracin"
parent = "bad"
pool = "docs"
seed = "docs"
tokens = 150
"""


def bad(**keys: object) -> str:
    return section("bad", k=4, lr=1e30, **keys) + DIVERGES


def made(root: Path) -> list[tuple[object, ...]]:
    """(SAE, whether it was trained, harvested, measured) of all that the catalog has."""
    return rows(
        root,
        "SELECT s.sae, s.steps > 0, s.sae IN (SELECT sae FROM activations), s.sae IN (SELECT sae FROM evaluations) "
        "FROM saes AS s ORDER BY ALL",
    )


def test_other_hookpoints_and_generations_are_made_and_what_waits_is_named(tmp_path: Path, neox_folder: Path) -> None:
    still = QUICK.replace("width = 48\n", "")
    waiting = section("grandchild", parent="child") + still + section("child", parent="bad") + still
    waiting += LIKE_BAD + section("chosen", k=4, selection="like") + QUICK
    fine = section("good", k=4) + QUICK + section("later", parent="good") + still
    with pytest.raises(InputError) as raised:
        ingest(tmp_path, neox_folder, bad(hookpoint="layers.0") + waiting + fine)
    first, *others = str(raised.value).splitlines()
    assert first.startswith("SAE 'bad': the loss became nan at step")
    assert sorted(others) == [
        "SAE 'child' waits for 'bad'",
        "SAE 'chosen' waits for 'bad'",
        "SAE 'grandchild' waits for 'child'",
        "all else of the study is done and stays: mend these sections, run again",
        "selection 'like' waits for 'bad'",
    ]
    assert made(tmp_path) == [("good", True, True, True), ("later", True, True, True)]
    assert ingest(tmp_path, neox_folder, fine).trained == []


def test_a_child_of_one_that_diverges_now_keeps_the_weights_that_it_has(tmp_path: Path, neox_folder: Path) -> None:
    child = section("child", parent="bad") + QUICK.replace("width = 48\n", "")
    ingest(tmp_path, neox_folder, section("bad", k=4) + QUICK + child)
    before = rows(tmp_path, "SELECT sae, digest, config FROM saes ORDER BY sae")
    with pytest.raises(InputError, match="SAE 'child' waits for 'bad'"):
        ingest(tmp_path, neox_folder, bad() + child)
    assert rows(tmp_path, "SELECT sae, digest, config FROM saes ORDER BY sae") == before


def test_a_sweep_has_the_runs_that_did_not_diverge(tmp_path: Path, neox_folder: Path) -> None:
    sae = section("s", k=4, template=True) + DIVERGES
    sweep = '\n[[sweep]]\nname = "rates"\nsaes = ["s"]\nsetting = "lr"\nvalues = [0.003, 1e29, 1e30]\n'
    with pytest.raises(InputError, match=r"SAE '[^']*e29[^']*', '[^']*e30[^']*': the loss became"):
        ingest(tmp_path, neox_folder, sae + sweep)
    assert rows(tmp_path, "SELECT sae, coefficient FROM sweeps") == [("s-lr-0_003-s0", 0.003)]
    assert rows(tmp_path, "SELECT DISTINCT family, coefficient FROM pareto") == [("s", 0.003)]


@pytest.mark.slow
def test_several_processes_that_diverge_cost_as_little_as_one(tmp_path: Path, neox_folder: Path) -> None:
    with pytest.raises(InputError, match=r"^SAE 'bad': the loss became nan at step \d+ of 40: lower learning_rate"):
        ingest(tmp_path, neox_folder, bad(processes=2) + section("good", k=4) + QUICK)
    assert made(tmp_path) == [("good", True, True, True)]
    (folder,) = (tmp_path / "weights").glob("bad-*")
    assert not list(folder.glob("*.json"))
