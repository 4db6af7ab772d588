"""What a result looks like on each way out, with values and text that mean harm."""

import csv
import io
import json
import math
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import InputError
from queries.terminal import screen
from queries.terminal.control_characters import visible
from queries.terminal.json_values import plain
from queries.terminal.output import Output, output_options

HOSTILE = "\x1b[31m[bold]x[/bold]\x9b2J\u202e:smile:\n\ttail"


def printed(result: Any, *flags: str) -> Result:
    """What a command with `output_options` prints for `result`."""

    @click.command()
    @output_options
    def command(output: Output) -> None:
        """A command."""
        output.show(result)

    return CliRunner().invoke(command, flags)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard output says that it is a terminal, a plain one."""
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda self: self.name == "<stdout>", raising=False)
    monkeypatch.setenv("TERM", "dumb")


def test_a_pipe_gets_one_json_object_a_line() -> None:
    table = pa.table({"label": ["Matrix", "é\n"], "f1": pa.array([0.83, math.nan], pa.float32())})
    lines = printed(table).stdout.splitlines()
    assert lines == ['{"label": "Matrix", "f1": 0.83}', '{"label": "é\\n", "f1": null}']


def test_json_is_one_array_also_when_empty() -> None:
    assert json.loads(printed(pa.table({"a": [1, 2]}), "--json").stdout) == [{"a": 1}, {"a": 2}]
    assert json.loads(printed(pa.table({"a": pa.array([], pa.int64())}), "--json").stdout) == []


def test_every_kind_of_value_has_its_json() -> None:
    values: dict[str, Any] = {
        "whole": pa.array([Decimal(2**100)], pa.decimal128(38, 0)),
        "short": pa.array([Decimal("1.25")]),
        "long": pa.array([Decimal("0.12345678901234567890123")]),
        "infinite": [math.inf],
        "day": [date(2020, 1, 2)],
        "at": pa.array([datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)], pa.timestamp("us", "UTC")),
        "exact": pa.array([1], pa.timestamp("ns")),
        "clock": [time(1, 2)],
        "span": [timedelta(days=1)],
        "interval": pa.array([(1, 2, 3_500_000_000)], pa.month_day_nano_interval()),
        "blob": [b"\x00\xff"],
        "map": pa.array([[(1, "x")]], pa.map_(pa.int32(), pa.string())),
        "listed": pa.array([[([1], 2)]], pa.map_(pa.list_(pa.int32()), pa.int32())),
        "nested": [{"a": [1, None], "b": math.nan}],
        "flag": [True],
        "nothing": [None],
    }
    (row,) = json.loads(printed(pa.table(values), "--json").stdout)
    assert row == {
        "whole": 2**100,
        "short": 1.25,
        "long": "0.12345678901234567890123",
        "infinite": None,
        "day": "2020-01-02",
        "at": "2020-01-02T03:04:05+00:00",
        "exact": "1970-01-01 00:00:00.000000001",
        "clock": "01:02:00",
        "span": "1 day, 0:00:00",
        "interval": "P1M2DT3.5S",
        "blob": "AP8=",
        "map": {"1": "x"},
        "listed": [[[1], 2]],
        "nested": {"a": [1, None], "b": None},
        "flag": True,
        "nothing": None,
    }


def test_float32_shows_the_digits_it_has() -> None:
    assert printed(pa.table({"a": pa.array([6.2], pa.float32())})).stdout == '{"a": 6.2}\n'


def test_csv_quotes_and_nests() -> None:
    table = pa.table({"a": ['x,"y"', None], "b": [[1, 2], []]})
    rows = list(csv.reader(io.StringIO(printed(table, "--csv").stdout)))
    assert rows == [["a", "b"], ['x,"y"', "[1, 2]"], ["", "[]"]]


def test_columns_of_one_name_are_told_apart() -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], names=["a", "a", "a_1"])
    assert json.loads(printed(table).stdout) == {"a": 1, "a_1": 2, "a_1_1": 3}


def test_rows_as_mappings_are_a_result_too() -> None:
    assert json.loads(printed([{"rank": 1, "label": "x"}]).stdout) == {"rank": 1, "label": "x"}


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_json_escapes_what_a_terminal_would_obey(flags: tuple[str, ...]) -> None:
    text = printed(pa.table({HOSTILE: [HOSTILE]}), *flags).stdout
    assert not set("\x1b\x9b\u202e\t") & set(text)
    parsed = json.loads(text)
    assert (parsed[0] if flags else parsed) == {HOSTILE: HOSTILE}


@pytest.mark.usefixtures("terminal")
def test_a_terminal_gets_a_table_that_obeys_nothing() -> None:
    shown = printed(pa.table({HOSTILE: [HOSTILE, None]})).stdout
    assert not set("\x1b\x9b\u202e\t") & set(shown)
    assert r"\x1b[31m[bold]x[/bold]\x9b2J\u202e:smile:\n\ttail" in shown
    assert "NULL" in shown
    assert "───" in shown


@pytest.mark.usefixtures("terminal")
def test_a_terminal_gets_escaped_csv() -> None:
    assert "\\x1b[31m" in printed(pa.table({"a": [HOSTILE]}), "--csv").stdout


@pytest.mark.usefixtures("terminal")
def test_a_long_table_is_cut_and_says_so() -> None:
    lines = printed(pa.table({"n": range(screen.ROWS + 1)})).stdout.splitlines()
    assert lines[:3] == ["  n", "───", "  0"]
    assert lines[-2] == str(screen.ROWS - 1)
    assert lines[-1].startswith(f"{screen.ROWS} of {screen.ROWS + 1} rows shown")


def test_batches_are_streamed() -> None:
    pulled: list[int] = []

    def batches() -> Any:
        for number in range(3):
            pulled.append(number)
            yield pa.record_batch({"n": [number]})
        raise ValueError("the engine failed")

    schema = pa.schema([("n", pa.int64())])
    result = printed(pa.RecordBatchReader.from_batches(schema, batches()))
    assert result.stdout.splitlines() == ['{"n": 0}', '{"n": 1}', '{"n": 2}']
    assert pulled == [0, 1, 2]
    assert isinstance(result.exception, ValueError)


def test_parquet_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    result = printed(pa.table({"a": [1, 2], "b": [[1.0], None]}), "--parquet", str(path))
    assert pq.read_table(path).to_pylist() == [{"a": 1, "b": [1.0]}, {"a": 2, "b": None}]
    assert result.stdout == ""
    assert "2 rows" in result.stderr


def test_a_failed_parquet_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    path.write_text("old")

    def batches() -> Any:
        yield pa.record_batch({"n": [1]})
        raise InputError("the query failed")

    reader = pa.RecordBatchReader.from_batches(pa.schema([("n", pa.int64())]), batches())
    assert isinstance(printed(reader, "--parquet", str(path)).exception, InputError)
    assert [file.name for file in tmp_path.iterdir()] == ["out.parquet"]
    assert path.read_text() == "old"


def test_parquet_says_what_it_cannot_hold(tmp_path: Path) -> None:
    table = pa.table({"i": pa.array([(1, 2, 3)], pa.month_day_nano_interval())})
    error = printed(table, "--parquet", str(tmp_path / "x.parquet")).exception
    assert isinstance(error, InputError)
    assert "VARCHAR" in str(error)
    missing = printed(pa.table({"a": [1]}), "--parquet", str(tmp_path / "no" / "x.parquet")).exception
    assert isinstance(missing, InputError)


def test_forms_exclude_each_other() -> None:
    result = printed(pa.table({"a": [1]}), "--json", "--csv")
    assert result.exit_code == 2
    assert "exclude each other" in result.stderr


@given(st.text())
def test_visible_text_is_printable_and_ordinary_text_is_kept(text: str) -> None:
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 or char in "\u202e\u2066\u200b" for char in visible(text))
    if text.isalnum():
        assert visible(text) == text


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(), st.lists))
def test_any_value_becomes_strict_json(value: object) -> None:
    json.dumps(plain(value), allow_nan=False)
