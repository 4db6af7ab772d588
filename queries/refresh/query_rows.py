"""Makes the rows of a step that is a query alone: those of stale parts, or of all of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from catalog.quote import content, named
from catalog.store.scratch import Relation, Scratch
from queries.refresh import parts
from queries.refresh.context import Context
from queries.refresh.parts import Made, Part
from queries.refresh.reads import KEPT
from queries.refresh.target import Target


@dataclass(frozen=True)
class QueryRows:
    """What a query gives, and the rows of its table that they replace."""

    now: dict[Part, str]
    """Digest of what each part is made from; empty if the step has no parts."""
    scope: str
    rows: Relation | None
    """None if no part is stale."""
    contents: dict[Part, tuple[int, str]]
    touched: list[Part]


def query_rows(
    target: Target, inputs: Mapping[str, int], recorded: Mapping[Part, Made], context: Context, scratch: Scratch
) -> QueryRows:
    """Run the step's query over what is stale; `inputs` are the last changes of the tables that it reads."""
    step = target.step
    if not step.partition:
        return QueryRows({}, _filtered(step.slice, target), _made(target, {}, context, scratch), {}, [])
    parents = _parted_parents(target, context)
    # The fingerprint, and the last change of what is read whole and has no parts.
    seed = json.dumps([target.fingerprint, {t: s for t, s in inputs.items() if t not in parents}])
    now = parts.joined(step.partition, parents, seed)
    found = parts.difference(now, {part: made.digest for part, made in recorded.items()})
    if not found.stale and not found.gone and step.name in context.runs:
        return QueryRows(now, step.slice, None, {}, [])
    selection = parts.select(step.partition, _grouped(target), found, step.folds)
    rows = _made(target, _narrowed(target, selection, parents, context, scratch), context, scratch)
    scope = _filtered(_replaced(target, selection, rows, context, scratch), target)
    return QueryRows(now, scope, rows, _contents(target, selection, rows, context), selection.read)


def _parted_parents(target: Target, context: Context) -> dict[str, parts.Parted]:
    """The tables that the step reads in parts of its own columns."""
    found = {table: context.parted(table) for table in target.reads}
    return {t: parted for t, parted in found.items() if parted and set(parted.columns) <= set(target.step.partition)}


def _made(target: Target, narrowed: Mapping[str, str], context: Context, scratch: Scratch) -> Relation:
    """The rows of the step's query, with these relations in place of some of its tables."""
    step = target.step
    tables = sorted({*step.parents, KEPT} if step.folds else step.parents)
    query = context.relations.query(step.query, tables, narrowed)
    cast = ", ".join(f"CAST({named(name)} AS {kind}) AS {named(name)}" for name, kind in target.columns.items())
    where = target.filter or "true"
    return scratch.query(f"SELECT {cast} FROM ({query}\n) WHERE {where}", target.named_in(query))


def _narrowed(
    target: Target,
    selection: parts.Selection,
    parents: Mapping[str, parts.Parted],
    context: Context,
    scratch: Scratch,
) -> dict[str, str]:
    """The relations that stand for the tables of which the query is to read some parts alone."""
    step, of = target.step, context.relations.of
    found: dict[str, str] = {}
    if step.folds:
        shape = _shape(target, context, written=True)
        own = f"(SELECT * FROM {of(step.writes)} WHERE {step.slice})"
        grown = scratch.tuples(selection.grown, shape)
        found[KEPT] = parts.narrowed(own, shape, selection.grown, grown, bounded=False)
    if selection.everything:
        return found
    these = scratch.tuples(selection.read, _shape(target, context))
    for table in sorted(step.parents & parents.keys() - set(step.whole)):
        columns = parents[table].columns
        read = [tuple(part[step.partition.index(c)] for c in columns) for part in selection.read]
        found[table] = parts.narrowed(of(table), columns, read, these, bounded=table in parts.FILES)
    return found


def _replaced(target: Target, selection: parts.Selection, rows: Relation, context: Context, scratch: Scratch) -> str:
    """The predicate over the rows of the table that these rows replace."""
    step = target.step
    if selection.everything:
        return step.slice
    shape = _shape(target, context, written=True)
    anew = scratch.tuples(sorted(set(selection.groups) - set(selection.grown)), shape)
    listed, touched = ", ".join(map(named, shape)), ", ".join(map(named, step.touches))
    replaced = f"({listed}) IN (SELECT ({listed}) FROM {anew})"
    if selection.grown:
        replaced += f" OR ({touched}) IN (SELECT ({touched}) FROM {rows})"
    return f"({step.slice}) AND ({replaced})"


def _grouped(target: Target) -> set[str]:
    """Columns of the partition by which rows are replaced: those that the table has.

    Rows of a step that folds hang together within the groups that it touches: a rank over corpora is no corpus's own.
    """
    own = set(target.step.touches) if target.step.folds else set(target.columns)
    return own & set(target.columns) & set(target.step.partition)


def _shape(target: Target, context: Context, *, written: bool = False) -> dict[str, str]:
    """Types of the partition's columns, or of those of them by which rows that are `written` are replaced."""
    return {c: context.type_of(c) for c in target.step.partition if not written or c in _grouped(target)}


def _filtered(scope: str, target: Target) -> str:
    return f"({scope}) AND ({target.filter})" if target.filter else scope


def _contents(
    target: Target, selection: parts.Selection, rows: Relation, context: Context
) -> dict[Part, tuple[int, str]]:
    """(rows, digest of the rows) of each part that was made, for a step whose rows say their part."""
    if not set(target.step.partition) <= target.columns.keys():
        return {}
    listed = ", ".join(map(named, target.step.partition))
    counted = context.catalog.rows(f"SELECT {listed}, count(*), {content('f')} FROM {rows} AS f GROUP BY {listed}")
    found = {tuple(row[:-2]): (int(row[-2]), str(row[-1])) for row in counted}
    return {part: found.get(part, (0, "0")) for part in selection.read}
