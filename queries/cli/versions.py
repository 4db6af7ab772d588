"""Commands about versions: log, diff, rollback, tag, blame, gc."""

from typing import Any

import click

from queries.cli.numbers import NUMBER
from queries.cli.place import catalog_path
from queries.terminal.control_characters import visible
from queries.terminal.lines import show_lines
from queries.terminal.output import Output, output_options
from queries.terminal.progress import say

_LOG = ("snapshot", "time", "message", "rows", "tags", "failed", "calls", "cost", "why")

_BLAME = ("snapshot", "time", "table", "explainer", "change", "old_f1", "new_f1", "new_label", "why")


@click.command()
@click.option("-n", "limit", default=20, show_default=True, help="How many snapshots, or lines, newest first.")
@click.option("--step", help="Only snapshots that this step made.")
@click.option("--table", help="Only snapshots that changed this table.")
@click.option("--all", "everything", is_flag=True, help="On a terminal, a line for each batch of a refresh step too.")
@output_options
@click.pass_context
def log(
    context: click.Context, limit: int, step: str | None, table: str | None, everything: bool, output: Output
) -> None:
    """The snapshots: when (UTC), what, which tables, how many rows, what they cost, and their tags.

    On a terminal, the batches in which a refresh step commits its rows are one line.
    """
    from catalog import Catalog
    from catalog.versions.log import snapshots
    from queries.refresh.step import packaged_steps
    from queries.terminal.log_lines import log_lines

    drawn = output.drawn and not output.expanded
    with Catalog(catalog_path(context), read_only=True) as catalog:
        steps = [known.name for known in packaged_steps()]
        # Lines of several snapshots are counted when they are made.
        rows = snapshots(catalog, None if drawn and limit > 0 else limit, step, table, steps)
    if drawn:
        rows = log_lines(rows, grouped=not everything)[:limit]
    show_lines(rows, _LOG, output, ("tags", "failed", "calls", "cost"), ("why", "time", "cost", "calls"))


@click.command()
@click.argument("a")
@click.argument("b", required=False)
@click.option("--table", help="The rows of this table that differ; else the tables, with counts.")
@click.option("--limit", default=1000, show_default=True, help="At most so many rows of a table; 0 for all.")
@output_options
@click.pass_context
def diff(context: click.Context, a: str, b: str | None, table: str | None, limit: int, output: Output) -> None:
    """What differs from snapshot A to snapshot B, the newest if left out: numbers or tags, in either order.

    Rows are matched by key. Tables with scores are sorted by the change of f1, separation or fve, biggest loss first.
    """
    from catalog import Catalog
    from catalog.store.snapshots import resolve
    from queries.terminal.result_rows import difference_rows, table_rows

    with Catalog(catalog_path(context), read_only=True) as catalog:
        first, second = resolve(catalog, a), catalog.newest() if b is None else resolve(catalog, b)
        if table is None:
            output.show(table_rows(catalog, first, second), spare=("note",))
            return
        total, rows = difference_rows(catalog, first, second, table, limit or None)
        show_lines(rows, tuple(rows[0]) if rows else (), output)
        if len(rows) < total:
            say(f"{len(rows)} of {total} rows that differ are shown: see --limit")


@click.command()
@click.argument("step")
@click.option("--to", "to", required=True, help="Snapshot or tag whose rows come back.")
@click.option("--downstream", is_flag=True, help="Roll back the steps that read from it as well.")
@click.option("--wait", default=0.0, type=NUMBER, show_default=True, help="Seconds to wait for another writer.")
@output_options
@click.pass_context
def rollback(context: click.Context, step: str, to: str, downstream: bool, wait: float, output: Output) -> None:
    """Give the rows of STEP as they were at a snapshot, as a new snapshot: nothing is lost.

    The next refresh makes them again from what they are made of: roll back what that is, too, or tag and compare.
    """
    from catalog import Catalog
    from queries.refresh.rollback import rollback as roll_back

    root = catalog_path(context)
    with Catalog.writable(root) as catalog:
        done = roll_back(catalog, step, to, downstream=downstream, wait=wait)
    rows: list[dict[str, Any]] = [
        {
            "step": part.step,
            "table": part.table,
            "to": done.to,
            "snapshot": done.snapshot if part.changes else None,
            "added": part.changes.added,
            "changed": part.changes.changed,
            "removed": part.changes.removed,
        }
        for part in done.steps
    ]
    output.show(rows)
    if done.snapshot is None:
        say(f"nothing to change: the rows of {step} are those of snapshot {done.to}; no snapshot was made")


@click.command()
@click.argument("name", required=False)
@click.argument("at", required=False, metavar="[N]")
@click.option("--move", is_flag=True, help="Give the name to another snapshot than it has.")
@click.option("--delete", is_flag=True, help="Remove the name; the snapshot stays.")
@output_options
@click.pass_context
def tag(context: click.Context, name: str | None, at: str | None, move: bool, delete: bool, output: Output) -> None:
    """Name snapshot N, the newest if left out; without NAME, list the names.

    A name works wherever a snapshot's number does, and gc never expires a named snapshot.
    """
    from catalog import Catalog
    from catalog.versions.tags import delete_tag, set_tag
    from queries.terminal.result_rows import tag_rows

    root = catalog_path(context)
    if delete and (name is None or at is not None or move):
        raise click.UsageError("--delete takes the NAME alone")
    if name is None:
        with Catalog(root, read_only=True) as catalog:
            output.show(tag_rows(catalog))
        return
    with Catalog.writable(root) as catalog:
        number = delete_tag(catalog, name) if delete else set_tag(catalog, name, at, move=move)
    if output.drawn and not output.expanded:
        said = f"{name} no longer names {number}" if delete else f"{name} -> {number}"
        output.draw(lambda width, ink: [visible(said)])
    else:
        output.show([{"tag": name, "snapshot": number, "deleted": delete}])


@click.command()
@click.argument("place", nargs=-1, required=True, metavar="[SAE] FEATURE")
@click.option("--sae", help="SAE, where the catalog has several.")
@output_options
@click.pass_context
def blame(context: click.Context, place: tuple[str, ...], sae: str | None, output: Output) -> None:
    """Each snapshot that changed the label or score of FEATURE, oldest first: from what, to what, and why."""
    from catalog import Catalog
    from catalog.versions.blame import blame as changes
    from queries.ask.feature import chosen_sae

    if len(place) > 2 or (len(place) == 2 and sae is not None):
        raise click.UsageError("give a FEATURE, with its SAE before it or as --sae")
    if not place[-1].isdecimal():
        raise click.UsageError(f"{place[-1]!r} is not a valid integer: FEATURE is the number of a latent")
    with Catalog(catalog_path(context), read_only=True) as catalog:
        name = chosen_sae(catalog, place[0] if len(place) == 2 else sae)
        show_lines(changes(catalog, name, int(place[-1])), _BLAME, output, spare=("why", "table", "time"))


@click.command()
@click.option("--keep-days", type=float, required=True, help="Snapshots younger than this stay.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--wait", default=0.0, type=NUMBER, show_default=True, help="Seconds to wait for another writer.")
@output_options
@click.pass_context
def gc(context: click.Context, keep_days: float, dry_run: bool, wait: float, output: Output) -> None:
    """Expire old snapshots, and free the files, vectors and weights that only they needed.

    The newest snapshot and those with a tag stay. What is freed cannot be read, compared or rolled back to again.
    """
    from catalog import Catalog
    from catalog.versions.gc import collect_garbage
    from queries.terminal.result_rows import freed_rows

    root = catalog_path(context)
    with Catalog(root, read_only=True) if dry_run else Catalog.writable(root) as catalog:
        freed = collect_garbage(catalog, keep_days, dry_run=dry_run, wait=wait)
    output.show(freed_rows(freed))
    kept = ", ".join(f"{number} ({name})" for name, number in freed.kept.items())
    total = freed.bytes + freed.vector_bytes + freed.weight_bytes
    say(
        f"{len(freed.snapshots)} snapshots {'would expire' if dry_run else 'expired'}, "
        f"{total:,} bytes {'to free' if dry_run else 'freed'}" + (f"; kept by a tag: {kept}" if kept else "")
    )
