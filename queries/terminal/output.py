"""Prints a result: a table on a terminal, else NDJSON; --json, --csv, --parquet FILE.

Text from corpora and labels from language models are hostile: no control character and no markup of theirs
reaches a terminal. Results are streamed; only what a terminal shows is cut, and says so.
"""

import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO, TypeVar

import click

from queries.terminal.exports import plain_rows, stream_of, write_csv, write_parquet, write_rows
from queries.terminal.json_values import plain, safe_json

if TYPE_CHECKING:
    from queries.terminal.control_characters import Ink
    from queries.terminal.exports import Result

__all__ = ["Output", "output_options", "plain", "safe_json"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Output:
    """Where a result goes, as the options of a command say."""

    form: Literal["auto", "json", "csv", "parquet"] = "auto"
    path: Path | None = None
    quote_formulas: bool = False
    """In CSV, text that a spreadsheet would run begins with an apostrophe."""
    expanded: bool = False
    """On a terminal, one record per block."""
    pager: bool = False
    """On a terminal, through $PAGER."""

    @property
    def asked(self) -> bool:
        """Whether a form was asked for by an option."""
        return self.form != "auto"

    @property
    def drawn(self) -> bool:
        """Whether a person will look at it: on a terminal, and in no form that is for programs."""
        return self.form == "auto" and sys.stdout.isatty()

    def draw(self, picture: "Callable[[int, Ink], list[str]]") -> None:
        """Write the lines that `picture` makes for a terminal of a width; no control character of data is in them."""
        from queries.terminal.screen import draw

        draw(picture, _stdout(), pager=self.pager)

    def show(self, result: "Result", spare: Sequence[str] = ()) -> None:
        """Write `result` to standard output, or to the Parquet file. Raises InputError if the file cannot be made.

        On a narrow terminal the columns of rows that are `spare` give way first.
        """
        if self.drawn:
            from queries.terminal.screen import show_lines, show_table

            if isinstance(result, Sequence):
                show_lines(result, _stdout(), expanded=self.expanded, pager=self.pager, spare=spare)
            else:
                show_table(result, _stdout(), expanded=self.expanded, pager=self.pager)
            return
        if isinstance(result, Sequence) and self.form in ("json", "auto"):
            # Objects stay objects: as Arrow structs, all of them would get all of their keys.
            write_rows(({name: plain(value) for name, value in row.items()} for row in result), self.form, _stdout())
            return
        reader = stream_of(result)
        if self.form == "parquet" and self.path:
            rows = write_parquet(reader, self.path)
            click.echo(f"{rows:,} rows written to {self.path}", err=True)
            return
        stream = _stdout()
        if self.form == "csv":
            write_csv(reader, stream, quote_formulas=self.quote_formulas)
        else:
            write_rows(plain_rows(reader), self.form, stream)
        stream.flush()


def output_options(command: Callable[..., _T]) -> Callable[..., _T]:
    """Give a click command the options of `Output`, as one argument `output`."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON array of objects.")
    @click.option("--csv", "as_csv", is_flag=True, help="Print CSV with a header; lists and structs as JSON.")
    @click.option(
        "--quote-formulas",
        is_flag=True,
        help="With --csv, for spreadsheets: put ' before text that begins with =, +, -, @, tab or CR; not numbers.",
    )
    @click.option(
        "--parquet",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Write a Parquet file, whole or not at all.",
    )
    @click.option("-x", "--expanded", is_flag=True, help="On a terminal, print one block for each row.")
    @click.option("--pager", is_flag=True, help="On a terminal, page through the output with $PAGER, or less.")
    @wraps(command)
    def with_output(
        *args: Any,
        as_json: bool,
        as_csv: bool,
        quote_formulas: bool,
        parquet: Path | None,
        expanded: bool,
        pager: bool,
        **kwargs: Any,
    ) -> _T:
        if as_json + as_csv + (parquet is not None) > 1:
            raise click.UsageError("--json, --csv and --parquet exclude each other: give one of them")
        if quote_formulas and not as_csv:
            raise click.UsageError("--quote-formulas is about --csv: give both")
        form: Literal["auto", "json", "csv", "parquet"] = (
            "json" if as_json else "csv" if as_csv else "parquet" if parquet else "auto"
        )
        if expanded and form != "auto":
            raise click.UsageError(f"--expanded is about what a terminal shows: leave it out, or --{form}")
        return command(*args, output=Output(form, parquet, quote_formulas, expanded, pager), **kwargs)

    return with_output


def _stdout() -> TextIO:
    """Standard output as UTF-8 whatever the locale says, lone surrogates spelled out."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    return sys.stdout
