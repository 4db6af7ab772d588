"""Commands that ask: sql, search, show."""

import sys

import click

from queries.cli.interruption import reading
from queries.cli.place import catalog_path
from queries.terminal.control_characters import read_input
from queries.terminal.output import Output, output_options

_at = click.option("--at", metavar="N", help="The catalog as it was at this snapshot or tag.")


@click.command()
@click.argument("query")
@click.option("-p", "--param", "parameters", type=(str, str), multiple=True, help="Bind $NAME to VALUE.")
@_at
@click.option("--timeout", type=float, metavar="SECONDS", help="Stop it after this time; 0 for none.  [default: 60]")
@output_options
@click.pass_context
def sql(
    context: click.Context,
    query: str,
    parameters: tuple[tuple[str, str], ...],
    at: str | None,
    timeout: float | None,
    output: Output,
) -> None:
    """Run one SELECT over the catalog; QUERY is `-` to read it from stdin.

    Only reading is possible, and only of the catalog's tables and views. `FROM labels AT (VERSION => 12)`, or a tag
    in quotes instead of the number, reads one table as it was; --at reads everything so.
    """
    from queries.ask.door import ask

    with reading():
        text = read_input() if query == "-" else query
        output.show(ask(catalog_path(context), text, dict(parameters) or None, at=at, timeout=timeout))


@click.command()
@click.argument("text")
@click.option("-k", default=10, show_default=True, help="How many labels.")
@click.option("--explainer", help="Only labels of this explainer.")
@_at
@output_options
@click.pass_context
def search(context: click.Context, text: str, k: int, explainer: str | None, at: str | None, output: Output) -> None:
    """The features whose labels mean something like TEXT."""
    from queries.session import connect

    rows = connect(catalog_path(context)).search(text, k, explainer, at)
    if output.drawn and not output.expanded and rows:
        from queries.terminal.search_lines import search_lines

        output.draw(lambda width, ink: search_lines(rows, width, ink))
    else:
        output.show(rows)


@click.command()
@click.argument("feature", type=int)
@click.option("--sae", help="SAE, where the catalog has several.")
@click.option("--contexts", default=5, show_default=True, help="How many of the strongest contexts.")
@_at
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--pager", is_flag=True, help="On a terminal, page through the output with $PAGER, or less.")
@click.pass_context
def show(
    context: click.Context, feature: int, sae: str | None, contexts: int, at: str | None, as_json: bool, pager: bool
) -> None:
    """All that is known of one FEATURE: statistics, labels with scores, contexts, logit lens, neighbours."""
    from queries.session import connect
    from queries.terminal.card import card_json, print_card

    card = connect(catalog_path(context)).feature(feature, sae, contexts, at)
    if as_json:
        click.echo(card_json(card))
        return
    from queries.terminal.console import SafeConsole
    from queries.terminal.control_characters import exact
    from queries.terminal.pager import paged

    terminal = sys.stdout.isatty()
    with paged(exact(sys.stdout), wanted=pager) as out:
        print_card(card, SafeConsole(file=out, force_terminal=terminal or None, soft_wrap=True))
