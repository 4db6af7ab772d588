"""Checks over a catalog: rows that should not be there, by exit code, in every form, against an earlier version."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from catalog import Catalog
from catalog.errors import InputError, UnknownName
from catalog.versions.tags import set_tag
from queries.ask.checks import read_checks, run_checks
from queries.cli.main import main
from queries.terminal.output import Output
from tests.empty import make_empty

WORSE = """
SELECT n.feature, o.f1 AS before, n.f1 AS now
FROM scores AS n
JOIN (FROM scores AT (VERSION => $against)) AS o USING (sae, feature, explainer, scorer)
WHERE n.f1_high < o.f1_low
"""


def written(folder: Path, *checks: tuple[str, str]) -> Path:
    path = folder / "checks.toml"
    path.write_text("".join(f"[[check]]\nname = {json.dumps(n)}\nquery = {json.dumps(q)}\n" for n, q in checks))
    return path


def score(catalog: Catalog, feature: int, f1: float) -> None:
    row = {
        "sae": "s",
        "feature": feature,
        "explainer": "e",
        "scorer": "d",
        "protocol": "detection",
        "n": 9,
        "failed": 0,
    }
    figures = {"f1": f1, "f1_low": f1 - 0.1, "f1_high": f1 + 0.1, "n_null": 0}
    with catalog.write(f"score {feature}") as tx:
        tx.execute("DELETE FROM lake.scores WHERE feature = ?", [feature])
        tx.insert("scores", [row | figures])


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with make_empty(tmp_path / "catalog") as catalog:
        for feature in range(3):
            score(catalog, feature, 0.8)
        set_tag(catalog, "before")
        score(catalog, 1, 0.5)
        score(catalog, 2, 0.75)
    return tmp_path / "catalog"


def test_rows_that_should_not_be_there_fail_a_check(root: Path, tmp_path: Path) -> None:
    path = written(
        tmp_path,
        ("no label got worse", WORSE),
        ("labels are good", "SELECT avg(f1) AS mean FROM scores HAVING mean < 0.6"),
        ("nothing failed", "FROM problems"),
    )
    with Catalog(root, read_only=True) as catalog:
        location = catalog.location
    worse, good, none = run_checks(location, read_checks(path), against="before")
    assert (worse.state, worse.failed, worse.rows) == ("failed", 1, [{"feature": 1, "before": 0.8, "now": 0.5}])
    assert (good.state, none.state) == ("ok", "ok")
    # As it was then, nothing was worse.
    then = list(run_checks(location, read_checks(path), against="before", at="before"))
    assert [one.state for one in then] == ["ok", "ok", "ok"]


def test_the_exit_code_says_whether_all_hold(root: Path, tmp_path: Path) -> None:
    good = written(tmp_path, ("nothing failed", "FROM problems"))
    done = run("-C", root, "check", good)
    assert (done.exit_code, json.loads(done.stdout)["state"]) == (0, "ok")
    bad = written(tmp_path, ("few features", "SELECT feature FROM scores ORDER BY feature"), ("right", "FROM problems"))
    done = run("-C", root, "check", bad, "--rows", "2", "--json")
    assert done.exit_code == 1
    failed, right = json.loads(done.stdout)
    assert failed == {
        **{"name": "few features", "state": "failed", "failed": 3, "problem": None},
        "rows": [{"feature": 0}, {"feature": 1}],
    }
    assert right["state"] == "ok"
    done = run("-C", root, "check", bad, "--csv")
    assert done.exit_code == 1
    assert len(done.stdout.splitlines()) == 3


def test_a_check_that_cannot_run_is_an_error_and_stops_no_other(root: Path, tmp_path: Path) -> None:
    path = written(
        tmp_path,
        ("compares", WORSE),
        ("writes", "DELETE FROM scores"),
        ("misspelt", "SELECT f2 FROM scores"),
        ("last", "FROM problems"),
    )
    with Catalog(root, read_only=True) as catalog:
        location = catalog.location
    found = list(run_checks(location, read_checks(path)))
    assert [one.state for one in found] == ["error", "error", "error", "ok"]
    assert "name one with --against" in str(found[0].problem)
    assert "f2" in str(found[2].problem)
    assert run("-C", root, "check", path).exit_code == 1
    with pytest.raises(UnknownName, match="'gone' is neither a snapshot nor a tag"):
        list(run_checks(location, read_checks(path), against="gone"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "check: Field required"),
        ("[[check]]\nname = 'a'", "check.0.query: Field required"),
        ("[[check]]\nname = 'a'\nquery = 'FROM x'\nlimit = 3", "check.0.limit"),
        ("[[check]]\nname = 'a'\nquery = 'x'\n[[check]]\nname = 'a'\nquery = 'y'", "two checks with the name 'a'"),
        ("[[check", "is not TOML"),
    ],
)
def test_a_file_with_mistakes_is_refused_with_each_of_them(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "checks.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=why.replace(".", r"\.")):
        read_checks(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_checks(tmp_path / "none.toml")


def test_a_person_reads_a_line_for_each_check_and_the_rows_below(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Output, "drawn", property(lambda _: True))
    hostile = "SELECT 'a' || chr(27) || '[31m' AS text"
    path = written(tmp_path, ("fine", "FROM problems"), ("red", hostile), ("worse", WORSE))
    done = run("-C", root, "check", path)
    assert done.exit_code == 1
    fine, red, row, worse = done.output.splitlines()
    assert (fine, red) == ("ok      fine", "failed  red: 1 rows")
    assert json.loads(row) == {"text": "a\x1b[31m"}
    assert "\x1b" not in done.output
    assert worse == "error   worse: it compares with an earlier snapshot: name one with --against"
