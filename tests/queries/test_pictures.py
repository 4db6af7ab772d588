"""What a person sees of a search, the log, an examination and a feature's card."""

import re
from typing import Any

import pytest
from click.testing import CliRunner, Result

from catalog import Catalog
from catalog.doctor.finding import Finding
from queries.cli.main import main
from queries.session import Context, FeatureCard
from queries.terminal.card import print_card
from queries.terminal.console import SafeConsole
from queries.terminal.control_characters import Ink
from queries.terminal.doctor_lines import doctor_lines
from queries.terminal.grid import PLAIN
from queries.terminal.log_lines import log_lines
from queries.terminal.screen import Way, columns_of, roomy
from queries.terminal.search_lines import search_lines
from tests.queries.test_tables import terminal, width_of

__all__ = ["terminal"]

PLAIN_INK = Ink(on=False)
HARMFUL = "x\x1b[2J\u202ey"


def run(root: Any, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["-C", str(root), *arguments], catch_exceptions=False)


# --- search


def hit(rank: int, feature: int, label: str, f1: float | None = 0.7837, **other: Any) -> dict[str, Any]:
    ends = (None, None) if f1 is None else (0.67, 0.869)
    row = {"rank": rank, "feature": feature, "label": label, "f1": f1, "f1_low": ends[0], "f1_high": ends[1]}
    return {"sae": "sae", "explainer": "lexical", "similarity": 0.5 / rank, **row, **other}


def test_a_search_shows_rank_cosine_feature_score_and_the_label_on_the_rest_of_the_line() -> None:
    rows = [
        hit(1, 311, 'the words "matrix" and "matrices" in any case; the tokens "array", "k"'),
        hit(2, 7, "short", None),
    ]
    assert search_lines(rows, 80, PLAIN_INK) == [
        "rank  cosine  feature  F1 (95%)          label",
        '   1   0.500      311  0.78 (0.67-0.87)  the words "matrix" and "matrices" in',
        '                                         any case; the tokens "array", "k"',
        "   2   0.250        7  not scored        short",
    ]
    assert search_lines(rows, 40, PLAIN_INK) == [
        "rank  cosine  feature  F1 (95%)",
        "   1   0.500      311  0.78 (0.67-0.87)",
        '    the words "matrix" and "matrices" in',
        '    any case; the tokens "array", "k"',
        "   2   0.250        7  not scored",
        "    short",
    ]


def test_a_search_names_saes_and_explainers_that_differ_and_obeys_nothing() -> None:
    rows = [hit(1, 1, HARMFUL * 40), hit(2, 2, "日本語" * 40, sae=HARMFUL, explainer="gpt")]
    for width in (20, 40, 80, 200):
        lines = search_lines(rows, width, PLAIN_INK)
        assert all(width_of(line) <= width for line in lines)
        assert not set("\x1b\u202e") & set("".join(lines))
    assert lines[0].split()[:5] == ["rank", "cosine", "sae", "explainer", "feature"]


# --- log


def snapshot(number: int, message: str, at: str, added: int | None, seconds: float | None, **other: Any) -> Any:
    row = {"snapshot": number, "message": message, "time": f"2026-01-01 {at}", "added": added, "seconds": seconds}
    rest = {"changed": 0, "removed": 0, "failed": None, "calls": 0, "cost": 0.5, "why": "first run", "tags": []}
    return {**row, **rest, **other}


def test_batches_of_a_step_are_one_line_also_where_steps_run_side_by_side() -> None:
    rows = [
        snapshot(9, "refresh scores", "10:00:30", 5, 1.0, failed=0),
        snapshot(8, "refresh labels", "10:00:20", 30, 15.0, failed=2, cost=1.0, calls=30),
        snapshot(7, "refresh labels", "10:00:18", 10, None),
        snapshot(6, "refresh neighbours", "10:00:15", 3, 2.0),
        snapshot(5, "refresh labels", "10:00:10", 20, None),
        # Another run, which was killed: no last snapshot has its sums.
        snapshot(4, "refresh labels", "08:00:02", 2, None),
        snapshot(3, "refresh labels", "08:00:01", 1, None, tags=["paper"]),
        snapshot(2, "refresh labels", "08:00:00", 4, None),
        snapshot(1, "study demo", "07:00:00", None, None, changed=None, removed=None, why=None, cost=None),
    ]
    lines = log_lines(rows, grouped=True)
    assert [(line["snapshot"], line["message"], line["rows"], line["tags"]) for line in lines] == [
        ("9", "refresh scores", "+5", ""),
        ("5, 7-8", "refresh labels", "+30", ""),
        ("6", "refresh neighbours", "+3", ""),
        ("2, 4", "refresh labels", "+6", ""),
        ("3", "refresh labels", "+1", "paper"),
        ("1", "study demo", None, ""),
    ]
    assert (lines[1]["failed"], lines[1]["calls"], lines[1]["cost"], lines[3]["cost"]) == (2, 30, 1.0, 1.0)
    assert [line["snapshot"] for line in log_lines(rows, grouped=False)] == list("987654321")


def test_the_log_of_a_terminal_is_grouped_and_that_of_a_pipe_is_not(
    made_root: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = run(made_root, "log", "-n", "1000").stdout.splitlines()
    # Of random features some labels have a problem.
    assert lines[0].split() == ["snapshot", "time", "message", "rows", "failed", "why"]
    every = run(made_root, "log", "-n", "1000", "--all").stdout.splitlines()
    assert all(width_of(line) <= 80 for line in (*lines, *every))
    assert run(made_root, "log", "-n", "0").exit_code != 0
    with Catalog(made_root, read_only=True) as catalog:
        count = catalog.value("SELECT count(*) FROM lake.snapshots()")
    assert len([line for line in every if line[:1].isdigit()]) == count
    # A header, and where the rest of what is cut can be read.
    assert len(every) <= count + 2
    assert len(lines) <= len(every)
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda self: False, raising=False)
    assert len(run(made_root, "log", "-n", "1000").stdout.splitlines()) == count


def test_columns_that_can_be_spared_give_way_first() -> None:
    rows = [{"step": "concept_positions", "new": 12, "gone": 3, "why": "kernel scoring.kernels.labels changed"}]
    columns = columns_of(rows, list(rows[0]))
    kept = {
        width: [c.name for c in roomy(columns, ("why", "gone"), Way(width, PLAIN_INK, PLAIN))[0]]
        for width in (80, 30, 24)
    }
    assert kept == {80: ["step", "new", "gone", "why"], 30: ["step", "new"], 24: ["step", "new"]}


# --- doctor


def test_an_examination_shows_what_is_wrong_or_that_nothing_is() -> None:
    sound = [Finding(name, "ok", "", "nothing wrong") for name in ("schema", "files", "keys")]
    assert doctor_lines(sound, 80, PLAIN_INK) == ["3 checks, nothing wrong"]
    wrong = [
        sound[0],
        Finding("files", "error", "activations", "data/x.parquet is lost: restore it from a copy, or harvest again"),
        Finding("keys", "warning", "", HARMFUL),
        Finding("keys", "error", "a", "b", fixed=True),
    ]
    assert doctor_lines(wrong, 60, PLAIN_INK) == [
        "error    files: activations: data/x.parquet is lost: restore",
        "         it from a copy, or harvest again",
        "warning  keys: x\\x1b[2J\\u202ey",
        "fixed    keys: a: b",
        "2 of 3 checks found something; 1 found nothing wrong",
    ]
    assert all(width_of(line) <= 40 for line in doctor_lines(wrong, 40, PLAIN_INK)[:-1])


def test_doctor_on_a_terminal_shows_only_what_is_wrong(made_root: Any) -> None:
    # The made catalog has no weights.
    result = run(made_root, "doctor")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0].startswith("error  weights: s: ")
    assert lines[-1] == "1 of 12 checks found something; 11 found nothing wrong"
    assert len(lines) <= 4


# --- show


def card() -> FeatureCard:
    tokens = tuple(f" word{i}" for i in range(60))
    strengths = tuple(9.0 if i == 50 else 1.0 if i == 52 else 0.0 for i in range(60))
    row = {"firings": 12, "density": 0.01, "mean": 1.0, "maximum": 2.0}
    label = {"explainer": HARMFUL, "label": f"{HARMFUL} 日本語 " * 20, "f1": None}
    found = {"concept": HARMFUL, "cohens_d": 1.234567, "auroc": 0.5, "rate_positive": 0.1, "rate_negative": 0.2}
    contexts = [Context(HARMFUL, 9.0, "top", "val", 1, "", tokens, strengths)]
    contexts += [Context("docs", 1.0, "top", "test", 2, "", (HARMFUL,), (1.0,))]
    lens = [(f"token{i}", 1.0) for i in range(10)]
    return FeatureCard("sae", 3, row, None, [], [label], [found], lens, lens, contexts, [(7, 0.5, HARMFUL * 9)])


def drawn(width: int, monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    console = SafeConsole(soft_wrap=True, width=width, **options)
    with console.capture() as capture:
        print_card(card(), console)
    return capture.get().splitlines()


def test_a_card_is_no_wider_than_the_terminal_and_shows_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (20, 40, 80, 200):
        lines = drawn(width, monkeypatch, force_terminal=True, color_system=None)
        assert [line for line in lines if width_of(line) > width] == []
        assert not set("\x1b\u202e") & set("".join(lines))
        assert "<<" in "".join(lines)
        assert width < 40 or "word50>>" in "".join(lines)
    # Into a pipe no line is broken: one for each context.
    (line,) = [line for line in drawn(80, monkeypatch, force_terminal=False) if "word50" in line]
    assert "word0 word1" in line
    assert "word59" in line


def test_the_highlights_of_a_card_need_no_brackets_where_there_are_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    coloured = "".join(drawn(80, monkeypatch, force_terminal=True, color_system="standard"))
    # A space at which a line is broken goes.
    assert re.search(r"\x1b\[7m ?word50\x1b\[0m", coloured)
    assert re.search(r"\x1b\[4m ?word52\x1b\[0m", coloured)
    assert "<<" not in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    plain = "".join(drawn(80, monkeypatch, force_terminal=True))
    assert re.search("<< ?word50>>", plain)
    assert "\x1b" not in plain


# --- every command


def test_no_command_prints_a_line_that_is_too_wide(made_root: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    for arguments in (
        ["log", "-x", "-n", "3"],
        ["diff", "1"],
        ["blame", "0"],
        ["sql", "SELECT * FROM features"],
    ):
        result = run(made_root, *arguments)
        assert result.exit_code == 0, result.output
        assert [line for line in result.stdout.splitlines() if width_of(line) > 40] == [], arguments
