"""What a person sees of a result: tables that fit the terminal, blocks, and what is said of the rest."""

import io
import json
import math
import time
import unicodedata
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from queries.cli.main import main
from queries.refresh.engine import StepResult
from queries.refresh.options import Options, Where
from queries.terminal import screen
from queries.terminal.cells import LONGEST, cell, cut, number, numbers, wrapped
from queries.terminal.control_characters import visible
from queries.terminal.grid import PLAIN, TABLE, Column, blocks, listed, table
from queries.terminal.output import Output, output_options
from queries.terminal.progress import Bars, described
from queries.terminal.work import _limits
from tests.empty import make_empty

HEAPED = "a" + "\u0301" * 100_000
HARMFUL = "a\x1b[2J\x9b31m\u202eb\u200b\r\n"


def width_of(line: str) -> int:
    """How many columns a terminal takes for a line, by Unicode's own tables."""
    return sum(
        0 if unicodedata.category(c) in ("Mn", "Me") else 1 + (unicodedata.east_asian_width(c) in "WF") for c in line
    )


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard output is a terminal of 80 columns without colours."""
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda self: self.name == "<stdout>", raising=False)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "80")


def printed(result: Any, *flags: str) -> Result:
    @click.command()
    @output_options
    def command(output: Output) -> None:
        output.show(result)

    return CliRunner().invoke(command, flags, catch_exceptions=False)


def picture(result: Any, *flags: str) -> list[str]:
    return printed(result, *flags).stdout.splitlines()


# --- cells


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.783783783783784, "0.7838"),
        (123.456789, "123.5"),
        (12810464.4, "12810464"),
        (1.5e-7, "1.5e-07"),
        (6.02e23, "6.02e+23"),
        (-0.0, "0"),
        (46.0, "46"),
        (math.nan, "NaN"),
        (-math.inf, "-inf"),
        (Decimal(2**100), str(2**100)),
        (Decimal("0.12345678901234567890"), "0.1235"),
    ],
)
def test_a_number_has_four_digits_and_an_integer_all(value: float | Decimal, text: str) -> None:
    assert number(value) == text
    assert cell(2**100) == str(2**100)


def test_a_column_of_numbers_has_the_same_decimals_where_each_keeps_three_digits() -> None:
    assert numbers([0.75, 0.7222222, 0.05123, None]) == ["0.7500", "0.7222", "0.0512", "NULL"]
    assert numbers([0.75, 0.0007222222]) == ["0.75", "0.0007222"]
    assert numbers([1.0, 2.0, 30.0]) == ["1", "2", "30"]
    assert numbers([1.0, 1e-30]) == ["1", "1e-30"]
    assert numbers([1, 2, None]) == ["1", "2", "NULL"]
    assert numbers([0.5, math.nan, math.inf]) == ["0.5", "NaN", "inf"]
    assert numbers([Decimal("1.25"), Decimal("2.5")]) == ["1.25", "2.50"]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=5))
def test_a_shown_number_is_near_the_number(values: list[float]) -> None:
    for value, text in zip(values, numbers(values), strict=True):
        assert math.isclose(float(text), value, rel_tol=6e-3)


def test_lists_and_structs_are_one_line_and_bounded() -> None:
    assert cell([1, None, 0.123456, ["x\n"]]) == '[1, NULL, 0.1235, ["x\\n"]]'
    assert cell({"a": {"b": [True]}, 'q"': b"\x00\xff"}) == '{"a": {"b": [true]}, "q\\"": AP8=}'
    deep: Any = []
    for _ in range(900):
        deep = [deep]
    for huge in ([0] * 1_000_000, {str(i): "x" * 1000 for i in range(1000)}, ["x" * 1_000_000], deep, "x" * 1_000_000):
        assert len(cell(huge)) <= LONGEST + 1
    assert cell([0] * 1_000_000).endswith("…")


def test_null_is_told_from_text() -> None:
    assert [cell(value) for value in (None, "", "NULL", "null")] == ["NULL", "", '"NULL"', "null"]


@given(st.text(st.sampled_from("ab 日本語한😀e\u0301\u0308é│"), max_size=30), st.integers(1, 20))
def test_text_is_cut_at_the_columns_that_a_terminal_draws(text: str, width: int) -> None:
    assert width_of(cut(text, width)) <= width
    if width_of(text) <= width and len(text) <= 4 * width:
        assert cut(text, width) == text
    lines = wrapped(text, max(width, 2), 100)
    assert all(width_of(line) <= max(width, 2) for line in lines)
    if "\u0301\u0301\u0301" not in text and len(text) < 8:
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_accents_heaped_on_a_letter_are_cut() -> None:
    assert len(cut(HEAPED, 10)) < 50


# --- tables


def test_a_small_table() -> None:
    rows = pa.table(
        {
            "feature": [311, 7],
            "label": ["the words", None],
            "f1": [0.783783783783784, math.nan],
            "tokens": [["a", "b\n"], []],
            "empty": ["", "x"],
        }
    )
    assert picture(rows) == [
        "feature │ label     │     f1 │ tokens       │ empty",
        "────────┼───────────┼────────┼──────────────┼──────",
        '    311 │ the words │ 0.7838 │ ["a", "b\\n"] │',
        "      7 │ NULL      │    NaN │ []           │ x",
    ]


def test_programs_get_every_digit() -> None:
    rows = pa.table({"f1": [0.783783783783784]})
    assert json.loads(printed(rows, "--json").stdout) == [{"f1": 0.783783783783784}]
    assert printed(rows, "--csv").stdout == "f1\n0.783783783783784\n"


def test_text_is_cut_and_columns_of_the_middle_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    rows = {"sae": ["s"] * 12, "label": ["all that this feature is about"] * 12}
    assert picture(pa.table(rows))[::13] == [
        "sae │ label",
        "s   │ all that this feature is about",
    ]
    assert picture(pa.table({**rows, "n": [12345] * 12, "density": [0.25] * 12, "f1": [0.5] * 12}))[:3] == [
        "sae │ label      │     n │ density │  f1",
        "────┼────────────┼───────┼─────────┼────",
        "s   │ all that … │ 12345 │    0.25 │ 0.5",
    ]
    many = {**rows, **{f"column_{i}": [i * 1000] * 12 for i in range(4)}, "f1": [0.5] * 12}
    assert [*picture(pa.table(many))[:3], *picture(pa.table(many))[-3:]] == [
        "sae │ label         │ … │ column_3 │  f1",
        "────┼───────────────┼───┼──────────┼────",
        "s   │ all that thi… │ … │     3000 │ 0.5",
        "3 columns not shown (-x shows all):",
        "column_0, column_1, column_2",
        "12 rows",
    ]


def test_few_rows_that_are_too_wide_are_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    wide = {f"column_{i}": [i, None] for i in range(5)} | {"label": ["all that this feature is about, it says", ""]}
    assert picture(pa.table(wide)) == [
        "── 1 of 2 ──────────────────────────────",
        "column_0  0",
        "column_1  1",
        "column_2  2",
        "column_3  3",
        "column_4  4",
        "label     all that this feature is",
        "          about, it says",
        "── 2 of 2 ──────────────────────────────",
        *[f"column_{i}  NULL" for i in range(5)],
        "label",
        "too wide for a table here: a block for",
        "each row",
    ]


def test_one_record_is_shown_whole_and_blocks_can_be_asked_for() -> None:
    text = " ".join(["word"] * 30)
    assert picture(pa.table({"n": [1], "text": [text]})) == [
        "n     1",
        "text  " + " ".join(["word"] * 15),
        "      " + " ".join(["word"] * 15),
    ]
    assert picture(pa.table({"n": [1, 2]}), "-x") == ["── 1 of 2 " + "─" * 50, "n  1", "── 2 of 2 " + "─" * 50, "n  2"]
    assert printed(pa.table({"n": [1]}), "-x", "--csv").exit_code == 2


def test_rows_that_are_cut_are_said_to_be() -> None:
    lines = picture(pa.table({"text": ["x" * 100, "y"]}))
    assert lines[2:] == ["x" * 79 + "…", "y", "what ends in … is cut: -x shows more of it"]


def test_lines_that_are_cut_are_said_to_be_however_many_there_are() -> None:
    """As plan and log print them: rows of ours."""
    rows = [{"step": "labels", "why": "because " * 20}] * 30
    lines = picture(rows)
    assert [len(line) for line in lines[1:-1]] == [80] * 30
    assert lines[-1] == "what ends in … is cut: -x shows more of it"
    assert picture([{"step": "labels", "why": "first run"}])[-1] == "labels  first run"
    assert picture(rows, "-x")[-1] != lines[-1]


def test_a_huge_record_is_said_to_be_cut() -> None:
    huge = pa.table({"n": [1], "text": ["x" * 1_000_000], "end": ["so…"]})
    lines = picture(huge)
    assert (len(lines), lines[-1]) == (1 + 4 + 1 + 1, "what ends in … is cut: -x shows more of it")
    lines = picture(huge, "-x")
    assert (len(lines), lines[-1]) == (1 + 40 + 1 + 1, "what ends in … is cut: --json gives all of it")
    assert picture(huge.select(["n", "end"]), "-x")[-1] == "end  so…"


def test_an_empty_result_has_its_heading() -> None:
    empty = pa.table({"feature": pa.array([], pa.int64()), "label": pa.array([], pa.string())})
    assert picture(empty) == ["feature │ label", "────────┼──────", "0 rows"]
    assert picture([]) == ["nothing to show"]


def test_wide_characters_and_accents_keep_the_columns() -> None:
    lines = picture(pa.table({"a": ["日本語", "e\u0301te\u0301", "😀", "abc"], "b": ["x"] * 4}))
    assert lines == [
        "a      │ b",
        "───────┼──",
        "日本語 │ x",
        "e\u0301te\u0301    │ x",
        "😀     │ x",
        "abc    │ x",
    ]


def test_harmful_text_and_names_are_spelled_in_every_picture() -> None:
    rows = pa.table({HARMFUL: [HARMFUL], "nested": [{HARMFUL: [HARMFUL]}]})
    for flags in ((), ("-x",)):
        shown = printed(rows, *flags).stdout
        assert not set("\x1b\x9b\u202e\u200b\r") & set(shown)
        assert "a\\x1b[2J\\x9b31m" in shown


def test_a_huge_value_is_cut_before_it_is_measured() -> None:
    rows = pa.table({"n": [1, 2] * 50, "text": ["日" * 350_000, HEAPED] * 50, "items": [list(range(10_000))] * 100})
    began = time.process_time()
    lines = picture(rows)
    assert time.process_time() - began < 5
    assert all(width_of(line) <= 80 and len(line) < 400 for line in lines)
    blocks_of_two = picture(rows.slice(0, 2), "-x")
    assert len(blocks_of_two) < 2 * 3 * 41
    assert all(width_of(line) <= 80 for line in blocks_of_two)


# --- many rows


def counted(rows: int, pulled: list[int], batch: int = 1000) -> pa.RecordBatchReader:
    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, rows, batch):
            pulled.append(start)
            yield pa.record_batch({"n": range(start, min(start + batch, rows))})

    return pa.RecordBatchReader.from_batches(pa.schema([("n", pa.int64())]), batches())


def test_rows_over_the_limit_are_counted_not_kept() -> None:
    pulled: list[int] = []
    lines = picture(counted(100_000, pulled))
    assert len(lines) == 2 + screen.ROWS + 1
    assert lines[-1] == "200 of 100,000 rows shown; --json, --csv and --parquet FILE give all"
    assert len(pulled) == 100


def test_counting_ends_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "_COUNTING_SECONDS", 0)
    pulled: list[int] = []
    assert picture(counted(100_000, pulled))[-1].startswith("200 of more than 2,000 rows shown")
    assert len(pulled) == 2


def test_the_first_rows_are_shown_before_the_rest_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    pulled: list[int] = []
    seen: list[int] = []
    monkeypatch.setattr(screen, "_count", lambda reader, count: seen.append(len(pulled)) or (count, True))
    printed(counted(100_000, pulled))
    assert seen == [1]


@pytest.mark.parametrize(("rows", "last"), [(9, "8"), (200, "200 rows"), (201, "200 of 201 rows shown")])
def test_as_many_rows_as_are_shown_are_not_called_cut(rows: int, last: str) -> None:
    assert picture(counted(rows, [], batch=100))[-1].strip().startswith(last)


def test_blocks_that_were_asked_for_are_fewer() -> None:
    lines = picture(counted(1000, []), "--expanded")
    assert len(lines) == 2 * 20 + 1
    assert lines[-1].startswith("20 of 1,000 rows shown")


# --- properties

CELLS = st.text(st.sampled_from("ab ,日本語한😀é\u0301\x1b\n\t\u202e\u200b│"), max_size=60)


@st.composite
def grids(draw: st.DrawFn) -> list[Column]:
    rows = draw(st.integers(0, 12))
    names = draw(st.lists(st.text("abcdefgh_", min_size=1, max_size=10), min_size=1, max_size=25, unique=True))
    columns = []
    for name in names:
        right = draw(st.booleans())
        values: st.SearchStrategy[str] = st.integers(-(10**12), 10**12).map(str) if right else CELLS.map(visible)
        columns.append(Column(name, draw(st.lists(values, min_size=rows, max_size=rows)), right))
    return columns


@settings(max_examples=80, deadline=None)
@given(grids(), st.integers(20, 250))
def test_no_line_is_too_wide_and_every_column_is_shown_or_said(columns: list[Column], width: int) -> None:
    for look in (TABLE, PLAIN):
        found = table(columns, width, look)
        assert all(width_of(line) <= width for line in found.lines)
        assert not any(unicodedata.category(c) in ("Cc", "Cf") for line in found.lines for c in line)
        heading = found.lines[0].replace("│", " ").split()
        assert set(heading) - {"…"} | set(found.hidden) == {column.name for column in columns}
        assert ("…" in heading) == bool(found.hidden)
        assert len(found.lines) == len(columns[0].cells) + 1 + (look is TABLE)
        said = " ".join(listed(found.hidden, width, most=100)).replace(",", "").split()
        assert said == found.hidden
    found = blocks(columns, width, 4)
    assert all(width_of(line) <= width for line in found.lines)


@settings(max_examples=40, deadline=None)
@given(grids(), st.integers(20, 120))
def test_the_room_of_a_terminal_is_used_before_a_cell_is_cut(columns: list[Column], width: int) -> None:
    found = table(columns, width)
    whole = sum(max(width_of(text) for text in (c.name, *c.cells)) for c in columns) + 3 * (len(columns) - 1)
    assert found.cut == (whole > width)


def test_names_without_end_are_counted() -> None:
    assert listed([f"column_{i}" for i in range(1000)], 40, "998 not shown:", most=3) == [
        "998 not shown: column_0, column_1,",
        "column_2, column_3, column_4, column_5,",
        "column_6, column_7, column_8, 991 more",
    ]


# --- colours and pager


def test_bold_and_dim_are_for_terminals_that_know_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pa.table({"a": [None, "x"]})
    assert "\x1b" not in printed(rows).stdout
    monkeypatch.setenv("TERM", "xterm-256color")
    assert printed(rows).stdout == "\x1b[1ma   \x1b[0m\n\x1b[2m────\x1b[0m\n\x1b[2mNULL\x1b[0m\nx\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in printed(rows).stdout


def test_a_pager_is_used_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    seen = tmp_path / "seen"
    monkeypatch.setenv("PAGER", f"tee {seen}")
    rows = pa.table({"n": range(screen.ROWS + 5)})
    printed(rows)
    assert not seen.exists()
    printed(rows, "--pager")
    assert len(seen.read_text().splitlines()) == 2 + screen.ROWS + 5 + 1
    seen.unlink()
    printed([{"a": 1}], "--pager")
    assert seen.read_text() == "a\n1\n"


def test_a_pager_that_is_left_early_or_is_not_there_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGER", "true")
    assert printed(pa.table({"n": range(100_000)}), "--pager").exit_code == 0
    for pager in ("no-such-pager", "'"):
        monkeypatch.setenv("PAGER", pager)
        result = printed(pa.table({"n": [1]}), "--pager")
        assert (result.exit_code, result.stdout) == (0, "n\n─\n1\n")
        assert "cannot be started" in result.stderr


def test_into_a_pipe_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda self: False, raising=False)
    monkeypatch.setenv("PAGER", "no-such-pager")
    result = printed(pa.table({"n": [1.23456789]}), "-x", "--pager")
    assert (result.stdout, result.stderr) == ('{"n": 1.23456789}\n', "")


# --- small answers


def test_a_tag_is_said_in_a_line(tmp_path: Path) -> None:
    with make_empty(tmp_path / "c") as catalog:
        newest = catalog.newest()

    def said(*arguments: str) -> str:
        return CliRunner().invoke(main, ["-C", str(tmp_path / "c"), "tag", *arguments], catch_exceptions=False).stdout

    assert said("before") == f"before -> {newest}\n"
    assert said("before", "--delete") == f"before no longer names {newest}\n"


def test_a_step_that_is_done_in_part_says_how_much_is_left_and_why() -> None:
    assert described(StepResult("labels", "part", left=3)) == "labels: +0 ~0 -0 rows, 3 left (0.0 s)"
    assert described(StepResult("scores", "part")) == "scores: +0 ~0 -0 rows, done in part (0.0 s)"
    assert described(StepResult("labels", "done")) == "labels: +0 ~0 -0 rows (0.0 s)"
    options = Options(where=Where("(feature < 3)", ("feature",)), max_calls=0, keep=frozenset({"labels"}))
    assert _limits(options) == "--where (feature < 3) and --max-calls 0 and --keep-labels"
    assert _limits(Options(max_cost=0.5)) == "--max-cost 0.5"


def test_a_bar_has_a_percentage_only_if_its_total_is_known() -> None:
    bars, drawn = Bars(), io.StringIO()
    task = bars._bars.add_task("contexts_stratum", total=None, figures="")
    console = Console(file=drawn, width=80)
    console.print(bars._bars.get_renderable())
    assert "contexts_stratum" in drawn.getvalue()
    assert "%" not in drawn.getvalue()
    bars._bars.update(task, total=50, completed=20)
    console.print(bars._bars.get_renderable())
    assert " 40% " in drawn.getvalue()
