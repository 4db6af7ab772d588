"""The command check: conditions that should hold in a catalog, for a person or a continuous integration."""

import dataclasses
from pathlib import Path

import click

from queries.cli.interruption import reading
from queries.cli.place import catalog_path
from queries.terminal.control_characters import visible
from queries.terminal.json_values import plain, safe_json
from queries.terminal.output import Output, output_options


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--against", metavar="N", help="Snapshot or tag that $against in a query means.")
@click.option("--at", metavar="N", help="Check the catalog as it was at this snapshot or tag.")
@click.option("--rows", default=10, show_default=True, help="How many failing rows of a check are shown.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Stop a query after this time.  [default: 60]")
@output_options
@click.pass_context
def check(
    context: click.Context,
    file: Path,
    against: str | None,
    at: str | None,
    rows: int,
    timeout: float | None,
    output: Output,
) -> None:
    """Run the checks of FILE: each is a query for rows that should not be there. Exit code 1 if one returns any.

    FILE is TOML: [[check]] with `name` and `query`. A query may compare with an earlier version, as
    `FROM scores AT (VERSION => $against)`.
    """
    from queries.ask.checks import read_checks, run_checks

    with reading():
        given = {"against": against, "at": at, "most": max(rows, 0), "timeout": timeout}
        found = list(run_checks(catalog_path(context), read_checks(file), **given))  # type: ignore[arg-type]
    if output.drawn and not output.expanded:
        for one in found:
            why = one.problem or (f"{one.failed:,} rows" if one.failed else "")
            click.echo(visible(f"{one.state:<6}  {': '.join(part for part in (one.name, why) if part)}"))
            for row in one.rows:
                click.echo(f"        {safe_json(plain(row))}")
    else:
        told = [dataclasses.asdict(one) for one in found]
        if output.form in ("csv", "parquet"):
            # Rows of two checks have not the same columns.
            told = [{**one, "rows": safe_json(plain(one["rows"]))} for one in told]
        output.show(told)
    if any(one.state != "ok" for one in found):
        context.exit(1)
