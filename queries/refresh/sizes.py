"""Estimates how much each step of a refresh will read, before any of them has run."""

from collections.abc import Iterable

from catalog.quote import TABLES
from queries.refresh import parts
from queries.refresh.context import Context
from queries.refresh.reads import parent_tables
from queries.refresh.step import Step, fingerprint


def rows_to_read(context: Context, steps: Iterable[Step]) -> dict[str, int]:
    """Rows of the tables that each of `steps`, in the order of what they read, has to look at.

    Of text and activations a step in parts that is as in its last run reads those alone that came since, if what else
    it reads is unchanged, or has only grown in the same way. Tables that are still to be made count as they are.
    """
    counts = dict(
        context.catalog.rows(
            f"SELECT t.table_name, s.record_count FROM {TABLES}.ducklake_table_stats AS s "
            f"JOIN {TABLES}.ducklake_table AS t ON t.table_id = s.table_id WHERE t.end_snapshot IS NULL"
        )
    )
    now = context.last_changes()
    grown: dict[str, bool] = {}
    """Of each table that these steps write: whether all of them only read what is new."""
    found = {}
    for step in steps:
        reads = parent_tables(step.parents, context.view_parents)
        run = context.runs.get(step.name)
        steady = run is not None and run[0] == fingerprint(context.made_of(step, context.parameters_of(step)))
        before = run[1] if run else {}
        only_new = steady and all(
            table in (*parts.FILES, "shards") or (before.get(table) == now[table] and grown.get(table, True))
            for table in reads
        )
        grown[step.writes] = only_new and grown.get(step.writes, True)
        fresh = reads & parts.FILES.keys() - set(step.whole) if only_new and step.partition else set()
        found[step.name] = sum(counts.get(table, 0) for table in reads - fresh)
        found[step.name] += sum(_newer(context, table, before.get(table)) for table in fresh)
    return found


def _newer(context: Context, table: str, since: int | None) -> int:
    """Rows of the files that came, or were replaced, after a snapshot; of all files if that is not known any more."""
    files = context.files()[table]
    then = context.files(since)[table].digests if since and context.knows(since) else {}
    return sum(files.rows[part] for part, digest in files.digests.items() if then.get(part) != digest)
