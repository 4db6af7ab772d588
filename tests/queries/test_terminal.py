"""What reaches a terminal: no character of data steers it. And what happens where nothing can be written."""

import csv
import io
import json
import logging
import sys
import unicodedata
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from rich.text import Text

from catalog import Catalog
from catalog.errors import InputError
from queries.cli import main as cli
from queries.cli.main import main
from queries.terminal.console import SafeConsole
from queries.terminal.control_characters import Guarded, guarded, read_input, readable, visible
from queries.terminal.output import Output, output_options
from queries.terminal.progress import Bars

EVIL = "a\x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b31m\x85\u202eb\u200b\U000e0041\ud83d\rc"
SPELLED = "a\\x1b]52;c;ZXZpbA==\\x07\\x1b[2J\\x9b31m\\x85\\u202eb\\u200b\\U000e0041\\ud83d\\rc"
# Arabic, Syriac and Kaithi marks in front of numbers and Egyptian joiners are seen; Unicode calls them formats.
SEEN = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD, *range(0x13430, 0x13440)}


def shown(command: click.Command, *arguments: str) -> Result:
    """What a command of its own prints through the group's way out."""
    group = type(main)(commands={"it": command}, context_settings={"color": True})
    return CliRunner().invoke(group, ["it", *arguments])


def test_every_control_format_and_half_character_is_spelled() -> None:
    for code in (
        *range(0x3000),
        *range(0xD800, 0xE000),
        *range(0xFE00, 0x10000),
        *range(0x10000, 0x14000),
        *range(0xE0000, 0xE0200),
    ):
        kind = unicodedata.category(chr(code))
        if kind in ("Cc", "Cf", "Cs", "Zl", "Zp") and code not in SEEN:
            assert visible(chr(code)).isascii(), hex(code)
            assert (readable(chr(code)) == chr(code)) == (chr(code) in "\n\t"), hex(code)
    assert visible("déjà 行列 مصفوفة 😀 e\u0301") == "déjà 行列 مصفوفة 😀 e\u0301"
    assert visible(EVIL) == SPELLED


@pytest.mark.parametrize(
    "way", ["echo", "print", "write", "log", "warn", "error", "usage", "bug", "bars", "console", "cause"]
)
def test_data_is_spelled_out_on_every_way_to_the_terminal(way: str) -> None:
    @click.command()
    def command() -> None:
        match way:
            case "echo":
                click.echo(EVIL)
            case "print":
                print(EVIL, file=sys.stderr)  # noqa: T201
            case "write":
                sys.stdout.writelines([EVIL])
            case "log":
                logging.lastResort.emit(logging.makeLogRecord({"msg": EVIL}))  # type: ignore[union-attr]
            case "warn":
                sys.stderr.write(warnings.formatwarning(EVIL, UserWarning, "x.py", 1))
            case "error":
                raise InputError(EVIL)
            case "usage":
                raise click.UsageError(EVIL)
            case "bug":
                raise RuntimeError(EVIL)
            case "cause":
                raise OSError(5, EVIL, EVIL)
            case "bars":
                with Bars() as bars:
                    bars.say(EVIL)
            case "console":
                SafeConsole(soft_wrap=True).print(Text(EVIL), "[red]not markup[/red] :smile:", Text(EVIL, style="bold"))

    result = shown(command)
    printed = result.stdout + result.stderr
    assert not set("\x1b\x07\x9b\x85\u202e\u200b\U000e0041\ud83d\r") & set(printed)
    assert "\\x1b]52;c;ZXZpbA==" in printed
    if way == "bug":
        assert result.exit_code == 1
        assert "this is a bug in saeql (RuntimeError)" in printed
    if way == "console":
        assert "[red]not markup[/red] :smile:" in printed


def test_a_query_that_fails_on_a_document_shows_its_text_harmless(mine: Catalog) -> None:
    for query in (f"SELECT '{EVIL[:-3]}'::INT", f'SELECT * FROM "{EVIL[:-3]}"', f'SELECT "{EVIL[:-3]}" FROM documents'):
        result = CliRunner().invoke(main, ["-C", str(mine.root), "sql", query])
        assert result.exit_code in (1, 2)
        assert "\\x1b]52" in result.stderr
        assert not set("\x1b\x07\x9b\u202e\u200b") & set(result.output)


def test_names_in_usage_errors_and_problems_are_harmless(made_root: Path, tmp_path: Path) -> None:
    for arguments in (
        ["\x1b[2J"],
        ["log", "\x1b[2J"],
        ["show", "\x1b[2J"],
        ["log", "--\x1b[2J"],
        ["tag", "x\x1b[2J"],
        ["ingest", "\x1b[2J"],
    ):
        result = CliRunner().invoke(main, ["-C", str(made_root), *arguments])
        assert result.exit_code in (1, 2)
        assert "\x1b" not in result.output
    (tmp_path / "s.toml").write_text('name = "x"\n"a\\u001b[2J" = 1\n[model]\nname = "\\u001b]52;c;x\\u0007"\n')
    result = CliRunner().invoke(main, ["-C", str(made_root), "plan", "--study", str(tmp_path / "s.toml")])
    assert (result.exit_code, "\\x1b[2J" in result.output, "\x1b" in result.output) == (2, True, False)


def test_what_others_write_while_bars_are_drawn_is_shown_above_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", Guarded(file, "standard error", lossy=True))
    with Bars() as bars:
        bars.show("reading \x1b[2J[bold]x\ny", 1, 2, "\x1b]52;c;x\x07")
        sys.stderr.write("a library's \x1b]8;;http://evil\x1b\\word\nand more")
    text = file.getvalue()
    assert "a library's \\x1b]8;;http://evil\\x1b\\word" in text
    assert "and more" in text
    assert "reading \\x1b[2J[bold]x\\ny" in text
    assert [part for part in ("\x1b]52", "\x1b]8;;http", "\x1b[2J") if part in text] == []


# --- CSV


def table(result: Any, *flags: str) -> Result:
    @click.command()
    @output_options
    def command(output: Output) -> None:
        output.show(result)

    return shown(command, *flags)


CELLS = [
    "=1+1",
    "+x",
    "-x",
    "@SUM(A1)",
    "\tx",
    "\rx",
    " =x",
    "\uff1dx",
    "-3",
    "+3.5e-2",
    "-",
    "a=b",
    "3-4",
    "",
    "-3x",
    "'=x",
]
QUOTED = [
    "'=1+1",
    "'+x",
    "'-x",
    "'@SUM(A1)",
    "'\tx",
    "'\rx",
    "' =x",
    "'\uff1dx",
    "-3",
    "+3.5e-2",
    "'-",
    "a=b",
    "3-4",
    "",
    "'-3x",
    "'=x",
]


def test_csv_quotes_formulas_where_asked_and_is_exact_elsewhere() -> None:
    rows = pa.table({"=HYPERLINK(1)": CELLS, "n": [-1.5] * len(CELLS)})
    plain = list(csv.reader(io.StringIO(table(rows, "--csv").stdout_bytes.decode(), newline="")))
    assert [row[0] for row in plain] == ["=HYPERLINK(1)", *CELLS]
    quoted = list(csv.reader(io.StringIO(table(rows, "--csv", "--quote-formulas").stdout_bytes.decode(), newline="")))
    assert [row[0] for row in quoted] == ["'=HYPERLINK(1)", *QUOTED]
    assert {row[1] for row in quoted[1:]} == {"-1.5"}
    assert table(rows, "--quote-formulas").exit_code == table(rows, "--json", "--quote-formulas").exit_code == 2


def test_csv_and_json_in_a_pipe_keep_the_text() -> None:
    evil = EVIL.replace("\ud83d", "")
    assert (
        next(csv.reader(io.StringIO(table(pa.table({evil: [1]}), "--csv").stdout_bytes.decode(), newline="")))[0]
        == evil
    )
    assert json.loads(table([{"text": EVIL}], "--json").stdout) == [{"text": EVIL}]


# --- streams that cannot be written


class _Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


class _Left(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize(
    ("arguments", "stream"),
    [
        *product([["sql", "SELECT 1"], ["sql", "SELECT 1", "--csv"], ["--help"]], [None, _Full(), _Left()]),
        (["show", "1"], _Left()),
        (["log"], _Full()),
    ],
)
def test_output_that_cannot_be_written_is_one_line(
    arguments: list[str], stream: Any, made_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", said)
    with pytest.raises(SystemExit) as end:
        main(["-C", str(made_root), *arguments])
    assert end.value.code == 1
    if isinstance(stream, _Left):
        assert said.getvalue() == ""
    else:
        reason = "it is closed" if stream is None else "No space left on device"
        assert said.getvalue() == f"saeql: standard output cannot be written: {reason}\n"


def test_a_message_that_nobody_can_read_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (None, _Full(), _Left()):
        monkeypatch.setattr(sys, "stderr", stream)
        with guarded():
            click.echo("lost", err=True)
            with Bars() as bars:
                bars.say("lost")
                bars.show("x", 1, 2)


def test_input_that_is_closed_or_not_utf8_is_said(monkeypatch: pytest.MonkeyPatch, made_root: Path) -> None:
    for stdin, said in (
        (None, "standard input is closed"),
        (io.TextIOWrapper(io.BytesIO(b"SELECT '\xff'"), encoding="utf-8"), "not UTF-8 at byte 8"),
        (
            io.TextIOWrapper(io.BytesIO(b"SELECT '\xff'"), encoding="utf-8", errors="surrogateescape"),
            "not UTF-8 at char",
        ),
    ):
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(InputError, match=said):
            read_input()


def test_arguments_that_are_no_text_are_usage_errors(made_root: Path) -> None:
    for bad in ("\udcff", "a\0b"):
        result = CliRunner().invoke(main, ["-C", str(made_root), "sql", bad])
        assert result.exit_code == 2
        assert "the argument" in result.stderr
    assert cli.main is main
