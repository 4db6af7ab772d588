"""The command line as a person meets it: help, results, exit codes, and one sentence for each mistake."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from catalog import Catalog
from catalog.store.locks import locked
from catalog.study.file import Study
from queries.cli.main import main
from queries.refresh.engine import refresh

REPOSITORY = Path(__file__).parents[2]
QUERY = "SELECT feature, label, f1 FROM features WHERE f1 > 0.7 ORDER BY cohens_d DESC LIMIT 10"
Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run one command line in this process; no mistake may show as anything but an exit code and a sentence."""
    monkeypatch.delenv("SAEQL_CATALOG", raising=False)

    def command(*arguments: object, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(main, list(map(str, arguments)), input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert "Traceback" not in result.output
        return result

    return command


@pytest.fixture
def labelled(made_root: Path) -> int:
    """A feature of the made catalog with a label."""
    with Catalog(made_root, read_only=True) as catalog:
        return int(catalog.value("SELECT min(feature) FROM labels WHERE label IS NOT NULL"))


def test_every_command_and_option_has_help(run: Run) -> None:
    assert run("--help").exit_code == 0
    for name, command in main.commands.items():
        shown = run(name, "--help")
        assert shown.exit_code == 0
        assert command.get_short_help_str(), name
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.opts}"
    built = {"demo", "init", "ingest", "add", "plan", "refresh", "sql", "search", "show", "doctor"}
    versions = {"log", "diff", "blame", "rollback", "tag", "gc"}
    assert built | versions <= set(main.commands)


def test_the_version_is_told(run: Run) -> None:
    assert run("--version").output.startswith("saeql, version ")


def test_sql_imports_nothing_heavy(made_root: Path) -> None:
    code = (
        "import sys\n"
        "from queries.cli.main import main\n"
        "try:\n    main(['-C', sys.argv[1], 'sql', 'SELECT 1 AS one'])\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(made_root)], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    assert json.loads(done.stdout) == {"one": 1}
    heavy = {"torch", "lancedb", "lance", "transformers", "pydantic", "sentence_transformers", "openai", "pandas"}
    assert not heavy & set(json.loads(done.stderr.splitlines()[-1].replace("'", '"')))


# --- sql


def test_the_question_of_the_readme_gives_a_json_array(run: Run, built: Path) -> None:
    result = run("-C", built, "sql", QUERY, "--json")
    assert result.exit_code == 0
    rows = json.loads(result.stdout)
    assert rows
    assert all(set(row) == {"feature", "label", "f1"} and row["f1"] > 0.7 for row in rows)


def test_results_are_ndjson_csv_or_parquet(run: Run, made_root: Path, tmp_path: Path) -> None:
    query = "SELECT feature, firings FROM features ORDER BY feature"
    plain = run("-C", made_root, "sql", query)
    assert [json.loads(line)["feature"] for line in plain.stdout.splitlines()] == list(range(9))
    assert run("-C", made_root, "sql", query, "--csv").stdout.splitlines()[0] == "feature,firings"
    assert run("-C", made_root, "sql", query, "--parquet", tmp_path / "x.parquet").exit_code == 0
    assert (tmp_path / "x.parquet").stat().st_size > 0
    both = run("-C", made_root, "sql", query, "--json", "--csv")
    assert both.exit_code == 2


def test_a_query_may_come_from_stdin_with_parameters(run: Run, made_root: Path) -> None:
    asked = "SELECT feature FROM features WHERE feature < $most AND sae = $sae ORDER BY feature"
    result = run("-C", made_root, "sql", "-", "-p", "most", "2", "-p", "sae", "s", "--json", stdin=asked)
    assert json.loads(result.stdout) == [{"feature": 0}, {"feature": 1}]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("DROP TABLE labels", 2),
        ("SELECT * FROM no_such_table", 2),
        ("SELECT * FROM '/etc/passwd'", 2),
        ("SELECT $missing", 1),
        ("SELEC 1", 2),
    ],
)
def test_a_bad_query_is_refused_in_a_sentence(run: Run, made_root: Path, query: str, code: int) -> None:
    result = run("-C", made_root, "sql", query)
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith("saeql: ")


def test_a_query_that_fails_while_it_runs_exits_with_1_or_2(run: Run, made_root: Path) -> None:
    result = run("-C", made_root, "sql", "SELECT CAST(label AS INTEGER) FROM labels")
    assert result.exit_code in (1, 2)
    assert result.stderr.startswith("saeql: ")


# --- which catalog


def test_a_missing_catalog_says_how_to_make_one(run: Run, tmp_path: Path) -> None:
    for command in (["sql", "SELECT 1"], ["show", "1"], ["log"], ["doctor"], ["refresh"], ["search", "x"]):
        result = run("-C", tmp_path / "nowhere", *command)
        assert result.exit_code == 1, command
        assert "holds no catalog: make one with" in result.stderr
    assert not (tmp_path / "nowhere").exists()


def test_the_catalog_is_named_by_flag_variable_or_place(
    run: Run, made_root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    query = ("sql", "SELECT count(*) AS n FROM saes", "--json")
    monkeypatch.chdir(tmp_path)
    assert run(*query).exit_code == 1
    monkeypatch.setenv("SAEQL_CATALOG", str(made_root))
    assert json.loads(run(*query).stdout) == [{"n": 1}]
    assert run("-C", tmp_path, *query).exit_code == 1
    monkeypatch.delenv("SAEQL_CATALOG")
    monkeypatch.chdir(made_root)
    assert json.loads(run(*query).stdout) == [{"n": 1}]


def test_a_newer_catalog_is_refused(run: Run, mine: Catalog) -> None:
    with mine.write("from the future") as tx:
        tx.execute("INSERT INTO lake.migrations VALUES (9999, 'future')")
    for command in (["sql", "SELECT 1"], ["refresh"], ["doctor"]):
        result = run("-C", mine.root, *command)
        assert result.exit_code == 1
        assert "newer version" in result.stderr


# --- show, search, log, doctor


def test_show_tells_all_of_a_feature(run: Run, built: Path) -> None:
    feature = json.loads(run("-C", built, "sql", "SELECT feature FROM shortlist WHERE rank = 1", "--json").stdout)[0]
    page = run("-C", built, "show", feature["feature"])
    assert page.exit_code == 0
    for part in ("separation from linear-algebra", "lexical: ", "writes for: ", "nearest decoder", "<<"):
        assert part in page.stdout
    card = json.loads(run("-C", built, "show", feature["feature"], "--json", "--contexts", 3).stdout)
    assert card["feature"] == feature["feature"]
    assert len(card["contexts"]) == 3
    assert len(card["neighbours"]) == 5
    assert len(card["promoted"]) == 10


def test_show_of_a_dead_feature_says_so(run: Run, made_root: Path) -> None:
    result = run("-C", made_root, "show", "8")
    assert result.exit_code == 0
    assert "dead" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("99",), "features 0 to 8, not 99"), (("1", "--sae", "t"), "no SAE 't'; known: s"), (("x",), "valid integer")],
)
def test_an_unknown_feature_is_a_usage_error(run: Run, made_root: Path, arguments: tuple[str, ...], said: str) -> None:
    result = run("-C", made_root, "show", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_search_finds_labels_by_meaning(run: Run, built: Path) -> None:
    rows = json.loads(run("-C", built, "search", "matrix", "-k", 3, "--json").stdout)
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert rows[0]["similarity"] >= rows[1]["similarity"] >= rows[2]["similarity"]
    for row in rows:
        query = f"SELECT label, f1, separation FROM features WHERE feature = {row['feature']}"
        (known,) = json.loads(run("-C", built, "sql", query, "--json").stdout)
        assert known == {name: row[name] for name in known}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("",), 1, "nothing to search for"),
        (("x", "-k", "0"), 1, "k is 0"),
        (("x", "--explainer", "nobody"), 2, "no explainer 'nobody'; known: lexical"),
    ],
)
def test_a_search_that_cannot_be(run: Run, built: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    result = run("-C", built, "search", *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr


def test_a_search_without_labels_says_what_to_do(run: Run, made_root: Path) -> None:
    result = run("-C", made_root, "search", "matrix")
    assert result.exit_code == 2
    assert "saeql refresh" in result.stderr


def test_log_lists_the_snapshots_newest_first(run: Run, made_root: Path) -> None:
    rows = json.loads(run("-C", made_root, "log", "-n", 3, "--json").stdout)
    assert len(rows) == 3
    assert [row["snapshot"] for row in rows] == sorted((row["snapshot"] for row in rows), reverse=True)
    assert all(row["message"].startswith("refresh ") for row in rows)
    assert all(row["added"] is not None for row in rows)


def test_doctor_exits_with_1_if_something_is_broken(run: Run, own: Path) -> None:
    whole = run("-C", own, "doctor", "--json")
    assert whole.exit_code == 0
    assert not [row for row in json.loads(whole.stdout) if row["severity"] == "error"]
    next((own / "data" / "main" / "activations").glob("*.parquet")).unlink()
    broken = run("-C", own, "doctor", "--json")
    assert broken.exit_code == 1
    assert [row for row in json.loads(broken.stdout) if row["severity"] == "error"]


# --- versions


@pytest.fixture
def edited(mine: Catalog, labelled: int) -> tuple[Path, int, int]:
    """A catalog, a snapshot, and the one after it, in which one label is another."""
    before = mine.snapshot()
    with mine.write("edit", why=["by hand"]) as tx:
        tx.execute("UPDATE lake.labels SET label = 'another' WHERE feature = ?", [labelled])
        tx.execute("UPDATE lake.scores SET f1 = 0 WHERE feature = ?", [labelled])
    return mine.root, before, mine.snapshot()


def test_the_commands_about_versions_print_json(run: Run, edited: tuple[Path, int, int], labelled: int) -> None:
    root, before, after = edited

    def asked(*arguments: object) -> list[dict[str, Any]]:
        result = run("-C", root, *arguments, "--json")
        assert result.exit_code == 0, result.stderr
        rows: list[dict[str, Any]] = json.loads(result.stdout)
        return rows

    label = f"SELECT label FROM labels WHERE feature = {labelled}"
    (old,) = asked("sql", "--at", before, label)
    assert asked("sql", label) == [{"label": "another"}] != [old]
    assert asked("tag", "good", before) == [{"tag": "good", "snapshot": before, "deleted": False}]
    assert asked("sql", "--at", "good", label) == [old]
    assert asked("sql", f"SELECT label FROM labels AT (VERSION => 'good') WHERE feature = {labelled}") == [old]
    assert [row["table"] for row in asked("diff", "good", after)] == ["labels", "scores"]
    (row,) = asked("diff", "good", after, "--table", "labels")
    assert (row["change"], row["feature"], row["old"], row["new"]) == ("changed", labelled, old, {"label": "another"})
    (row,) = asked("diff", after, "good", "--table", "scores")
    assert row["delta_f1"] > 0
    assert row["delta_f1"] == pytest.approx(row["new"]["f1"])
    assert asked("diff", after, after) == []
    for place in ([labelled], ["s", labelled], [labelled, "--sae", "s"]):
        assert [r["why"] for r in asked("blame", *place) if r["snapshot"] == after] == ["by hand", "by hand"]
    (row,) = asked("rollback", "labels", "--to", "good")
    assert (row["step"], row["to"], row["changed"]) == ("labels", before, 1)
    assert asked("sql", label) == [old]
    assert asked("log", "--table", "labels", "-n", 1)[0]["message"] == f"rollback labels to {before}"
    assert asked("tag")[0]["tag"] == "good"
    dry = asked("gc", "--keep-days", 0, "--dry-run")
    done = asked("gc", "--keep-days", 0)
    assert [row["store"] for row in done] == ["tables", "vectors", "weights"]
    assert [(r["count"], r["files"], r["bytes"]) for r in done] == [(r["count"], r["files"], r["bytes"]) for r in dry]
    assert done[0]["bytes"] > 0
    assert asked("sql", "--at", "good", label) == [old]
    assert asked("tag", "--delete", "good")[0]["deleted"]
    assert asked("tag") == []


def test_versions_leave_as_tables_and_csv_too(run: Run, edited: tuple[Path, int, int]) -> None:
    root, before, after = edited
    lines = run("-C", root, "diff", before, after, "--table", "labels", "--csv").stdout.splitlines()
    assert lines[0] == "change,sae,feature,explainer,old,new"
    assert '{""label"": ""another""}' in lines[1]
    assert len(run("-C", root, "diff", before, after).stdout.splitlines()) == 2


def test_a_diff_that_is_cut_says_so(run: Run, edited: tuple[Path, int, int]) -> None:
    root, before, _ = edited
    result = run("-C", root, "diff", 8, before, "--table", "contexts", "--limit", 2)
    assert len(result.stdout.splitlines()) == 2
    assert "2 of " in result.stderr
    assert "--limit" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("sql", "--at", "nonsense", "SELECT 1"), 2, "neither a snapshot nor a tag"),
        (("sql", "--at", "999", "SELECT 1"), 2, "is not there yet; there are 0-"),
        (("show", "1", "--at", "999"), 2, "is not there yet"),
        (("show", "1", "--at", "0"), 1, "snapshot 0 does not have what this needs"),
        (("search", "x", "--at", "999"), 2, "is not there yet"),
        (("sql", "FROM features AT (VERSION => 20)"), 2, "with --at"),
        (("diff",), 2, "Missing argument"),
        (("diff", "1", "gone"), 2, "neither a snapshot nor a tag"),
        (("diff", "1", "9", "--table", "nothing"), 2, "has a table 'nothing'"),
        (("blame", "x"), 2, "not a valid integer"),
        (("blame", "s", "1", "--sae", "s"), 2, "its SAE before it or as --sae"),
        (("blame", "t", "1"), 2, "no SAE 't'; known: s"),
        (("blame", "99"), 2, "features 0 to 8, not 99"),
        (("log", "--step", "label"), 2, "no step 'label'"),
        (("tag", "12"), 1, "cannot be a tag"),
        (("tag", "--delete"), 2, "takes the NAME alone"),
        (("tag", "--delete", "gone"), 2, "no tag 'gone'"),
        (("rollback", "labels"), 2, "Missing option"),
        (("rollback", "labels", "--to", "0"), 1, "was not there yet"),
        (("rollback", "nothing", "--to", "1"), 1, "no step 'nothing'"),
        (("gc",), 2, "Missing option"),
        (("gc", "--keep-days", "-1"), 1, "0 or more"),
    ],
)
def test_mistakes_about_versions_are_told(
    run: Run, mine: Catalog, arguments: tuple[str, ...], code: int, said: str
) -> None:
    newest = mine.snapshot()
    result = run("-C", mine.root, *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr
    assert mine.snapshot() == newest


def test_nothing_to_roll_back_is_said(run: Run, mine: Catalog) -> None:
    result = run("-C", mine.root, "rollback", "labels", "--to", mine.snapshot())
    assert result.exit_code == 0
    assert "nothing to change" in result.stderr
    assert json.loads(result.stdout)["snapshot"] is None


def test_a_writer_that_is_busy_exits_with_4(run: Run, mine: Catalog) -> None:
    with locked(mine.root / "refresh.lock", wait=0):
        for command in (["rollback", "labels", "--to", "20"], ["gc", "--keep-days", "0"]):
            result = run("-C", mine.root, *command)
            assert result.exit_code == 4
            assert f"process {os.getpid()}" in result.stderr


def test_search_at_a_snapshot_uses_its_labels_and_vectors(run: Run, own: Path) -> None:
    with Catalog(own) as catalog:
        before = catalog.snapshot()
        feature = catalog.value("SELECT min(feature) FROM labels WHERE label IS NOT NULL")
        with catalog.write("other labels") as tx:
            tx.execute("UPDATE lake.labels SET label = 'zebras in the savanna' WHERE feature = ?", [feature])
        refreshed = {result.step: result.state for result in refresh(catalog, ("label_vectors",))}
    assert refreshed["label_vectors"] == "done"
    question = ("search", "zebras in the savanna", "-k", 1, "--json")
    then = json.loads(run("-C", own, *question, "--at", before).stdout)[0]
    now = json.loads(run("-C", own, *question).stdout)[0]
    assert then["label"] != "zebras in the savanna"
    assert (now["label"], now["feature"]) == ("zebras in the savanna", feature)


# --- hostile text

HOSTILE = '\x1b[2J\x1b]0;owned\x07 [bold red]not markup[/bold red] \u202etxet\nnew line "quoted"'


def test_hostile_text_does_not_steer_the_terminal(run: Run, mine: Catalog, labelled: int) -> None:
    with mine.write("hostile") as tx:
        tx.execute("UPDATE lake.labels SET label = ? WHERE feature = ?", [HOSTILE, labelled])
        tx.execute("UPDATE lake.documents SET text = replace(text, ' the', chr(27) || 'abc')")
    page = run("-C", mine.root, "show", labelled)
    found = run("-C", mine.root, "sql", f"SELECT label FROM labels WHERE feature = {labelled}")
    for result in (page, found):
        assert result.exit_code == 0
        assert not {"\x1b", "\x07", "\u202e"} & set(result.stdout)
        assert "[bold red]not markup[/bold red]" in result.stdout
    assert json.loads(found.stdout)["label"] == HOSTILE


# --- init, ingest, refresh


def test_init_writes_a_study_that_is_valid_and_is_not_overwritten(run: Run, tmp_path: Path) -> None:
    assert run("init", tmp_path / "new").exit_code == 0
    study = tmp_path / "new" / "study.toml"
    assert Study.load(study).corpora
    again = run("init", tmp_path / "new")
    assert again.exit_code == 1
    assert "is there already" in again.stderr
    asked = run("-C", tmp_path / "new", "sql", "SELECT count(*) AS n FROM features", "--json")
    assert json.loads(asked.stdout) == [{"n": 0}]


def test_a_study_with_three_mistakes_reports_all_three(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(
        'name = "x"\n[[sae]]\nname = "s"\nwidth = 8\nk = 9\n'
        '[[corpus]]\nname = "c"\nkind = "nonsense"\n[model]\ndtyp = "auto"\n'
    )
    result = run("ingest", path)
    assert result.exit_code == 2
    for mistake in ("sae[0].k: 9 is above width 8", "corpus[0].kind: 'nonsense'", "model.dtyp: unknown key"):
        assert mistake in result.stderr
    assert not (tmp_path / "catalog.sqlite").exists()


def test_refresh_says_that_all_is_up_to_date_on_stderr(run: Run, made_root: Path, tmp_path: Path) -> None:
    root = shutil.copytree(made_root, tmp_path / "own")
    result = run("-C", root, "refresh", "scores")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "up to date" in result.stderr


def test_a_failed_refresh_exits_with_1_and_says_why(run: Run, mine: Catalog) -> None:
    with mine.write("a concept that cannot be used") as tx:
        tx.execute("UPDATE lake.concepts SET kind = 'predicate', definition = ?", [json.dumps({"predicate": "text ="})])
    result = run("-C", mine.root, "refresh", "scores")
    assert "concept_positions: FAILED: the predicate of concept 'algebra' is not one SQL expression" in result.stderr
    assert "not run" in result.stderr
    assert result.exit_code == 1


def test_a_plan_with_work_exits_with_3_if_asked_to_and_the_refresh_then_does_it(run: Run, mine: Catalog) -> None:
    with mine.write("a shorter list") as tx:
        tx.execute("UPDATE lake.concepts SET shortlist = 3")
    steps = ("scores", "contexts_top")
    assert run("-C", mine.root, "plan", *steps).exit_code == 0
    planned = run("-C", mine.root, "plan", *steps, "--exit-code", "--json")
    assert planned.exit_code == 3
    rows = {row["step"]: row for row in json.loads(planned.stdout)}
    assert rows["shortlist"]["gone"] > 0
    assert rows["shortlist"]["why"].startswith("inputs: concepts: 'a shorter list' (snapshot ")
    done = run("-C", mine.root, "refresh", *steps, "--json")
    assert done.exit_code == 0
    made = {row["step"]: row for row in json.loads(done.stdout)}
    assert made["shortlist"]["removed"] == rows["shortlist"]["gone"]
    again = run("-C", mine.root, "plan", *steps, "--exit-code", "--json")
    assert (again.exit_code, json.loads(again.stdout)) == (0, [])
    assert "nothing to do" in again.stderr


def test_a_plan_explains_a_step(run: Run, made_root: Path) -> None:
    (said,) = json.loads(run("-C", made_root, "plan", "--explain", "shortlist", "--json").stdout)
    assert said["parents"] == ["concepts", "feature_stats", "saes", "separation"]
    assert said["lineage"]["separation"] == ["separation.separation"]
    assert said["state"] == "current"
    page = run("-C", made_root, "plan", "--explain", "contexts_top").output
    assert "parts    sae, corpus, shard" in page
    assert "QUALIFY rank <= $k" in page


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("refresh", "--where", "feature < 3; DROP TABLE labels"), 1, "is not one condition over key columns"),
        (("refresh", "--max-calls", "-1"), 2, "max-calls"),
        (("plan", "--explain", "scorse"), 1, "there is no step 'scorse'"),
        (("plan", "--study", "nowhere.toml"), 2, "nowhere.toml cannot be read"),
        (("add", "dox", "README.md"), 2, "there is no corpus 'dox'"),
        (("add", "c"), 2, "Missing argument"),
    ],
)
def test_mistakes_about_plan_refresh_and_add_are_told(
    run: Run, mine: Catalog, arguments: tuple[str, ...], code: int, said: str
) -> None:
    result = run("-C", mine.root, *arguments)
    assert (result.exit_code, said in result.output) == (code, True), result.output


def test_text_is_added_from_the_command_line(run: Run, own: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("The determinant of a matrix is the product of its eigenvalues.")
    (row,) = json.loads(run("-C", own, "add", "docs", tmp_path / "note.txt", "--json").stdout)
    assert (row["added"], row["known"], row["shards"]) == (1, 0, 1)
    (row,) = json.loads(run("-C", own, "add", "docs", tmp_path / "note.txt", "--json").stdout)
    assert (row["added"], row["known"], row["shards"]) == (0, 1, 0)


def test_an_unknown_step_is_told_with_the_known_ones(run: Run, mine: Catalog) -> None:
    result = run("-C", mine.root, "refresh", "score")
    assert result.exit_code != 0
    assert "there is no step 'score'; the steps are" in result.stderr


def test_usage_errors_exit_with_2(run: Run) -> None:
    assert run("nonsense").exit_code == 2
    assert run("sql").exit_code == 2
    assert run("sql", "SELECT 1", "--nonsense").exit_code == 2


def test_a_reader_that_leaves_early_is_no_error(made_root: Path) -> None:
    command = [sys.executable, "-m", "queries.cli.main", "-C", str(made_root), "sql", "SELECT * FROM range(300000)"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY, env={**os.environ}
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait() in (0, 1)
    assert "Traceback" not in said
    assert "Exception ignored" not in said
