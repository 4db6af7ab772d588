"""What a query reads: its tables and views by scope, the order of the steps, and where each column comes from."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import sqlglot
from sqlglot import exp
from sqlglot.optimizer.qualify import qualify

from catalog.errors import StepError

if TYPE_CHECKING:
    from queries.step import Step

KEPT = "kept"
"""In a step's query: the rows that the step made before, of the parts that only grew."""
_PURE_TABLES = frozenset({"unnest", "range", "generate_series"})

Schema = Mapping[str, Mapping[str, str]]
"""Columns of each table and view, with their types."""


def table_nodes(tree: exp.Expr, where: str = "the query") -> Iterator[exp.Table]:
    """The places of a query that name a table or view; names of CTEs are none, where the CTE is in scope.

    Raises StepError for a table function that reaches beyond the catalog.
    """
    for table in tree.find_all(exp.Table):
        if not isinstance(table.this, exp.Identifier):
            called = table.this.name or table.this.sql_name()
            if called.lower() not in _PURE_TABLES:
                raise StepError(
                    f"{where}, line {line_of(table)}: {called}(...) reads from outside of the catalog: a step reads "
                    "tables and views, so that a refresh knows when it is stale"
                )
        elif table.name.lower() not in _ctes_in_scope(table):
            yield table


def _ctes_in_scope(table: exp.Table) -> set[str]:
    """Names of the CTEs that a name at this place could mean: of the queries around it, those before its own."""
    found: set[str] = set()
    inside: exp.Expr = table
    node = table.parent
    while node is not None:
        if isinstance(node, exp.With):
            for cte in node.expressions:
                if cte is inside and not node.recursive:
                    break
                found.add(cte.alias_or_name.lower())
                if cte is inside:
                    break
        else:
            with_ = node.args.get("with_")
            if with_ is not None and with_ is not inside:
                found |= {cte.alias_or_name.lower() for cte in with_.expressions}
        inside, node = node, node.parent
    return found


def tables_read(tree: exp.Expr, where: str = "the query") -> set[str]:
    """Names of the tables and views that a query reads, its own CTEs and `kept` left out."""
    return {table.name.lower() for table in table_nodes(tree, where)} - {KEPT}


def line_of(node: exp.Expr) -> int | str:
    """The line of a node in its file, as far as the parser kept it."""
    for part in node.walk():
        if "line" in part.meta:
            return int(part.meta["line"])
    return "?"


def canonical(tree: exp.Expr, schema: Schema) -> str:
    """The query with every column qualified, in one layout, without comments: equal for queries that say the same."""
    qualified = qualify(
        tree.copy(), schema=dict(schema), dialect="duckdb", validate_qualify_columns=False, quote_identifiers=False
    )
    return qualified.sql(dialect="duckdb", comments=False, normalize=True)


def column_sources(query: str, schema: Schema) -> dict[str, list[str]]:
    """For each column of the result, the `table.column`s that its value comes from (sqlglot.lineage)."""
    from sqlglot.lineage import lineage

    text = canonical(sqlglot.parse_one(query, read="duckdb"), schema)
    tree = sqlglot.parse_one(text, read="duckdb").assert_is(exp.Query)
    found = {}
    for name in tree.named_selects:
        leaves = set()
        traced = lineage(name, tree, schema=dict(schema), dialect="duckdb", validate_qualify_columns=False)
        for node in traced.walk():
            if isinstance(node.source, exp.Table) and not node.downstream:
                leaves.add(f"{node.source.name}.{node.name.rpartition('.')[2]}")
        found[name] = sorted(leaves)
    return found


def parent_tables(parents: Iterable[str], views: Mapping[str, set[str]]) -> set[str]:
    """The tables behind these tables and views. `views` maps a view to what it reads."""
    found: set[str] = set()
    waiting = set(parents)
    while waiting:
        name = waiting.pop()
        if name in views:
            waiting |= views[name]
        else:
            found.add(name)
    return found


def ordered(steps: Iterable["Step"], views: Mapping[str, set[str]]) -> list["Step"]:
    """Steps with each after all those that write what it reads; ties in alphabetical order.

    Raises StepError on a cycle, naming its files.
    """
    steps = list(steps)
    writers: dict[str, list[Step]] = {}
    for step in steps:
        writers.setdefault(step.writes, []).append(step)
    after = {
        step.name: {w.name for table in parent_tables(step.parents, views) for w in writers.get(table, [])}
        for step in steps
    }
    done: list[Step] = []
    while len(done) < len(steps):
        names = {step.name for step in done}
        ready = [step for step in steps if step.name not in names and after[step.name] <= names]
        if not ready:
            stuck = [step for step in steps if step.name not in names]
            told = "; ".join(
                f"{step.file}, line {step.line_of(table)} reads {table}"
                for step in sorted(stuck, key=lambda step: step.name)
                for table in sorted(step.parents)
                if any(w in stuck for w in writers.get(table, []))
            )
            raise StepError(f"these steps wait for each other: {told}")
        done.append(ready[0])
    return done


def check_steps(steps: Iterable["Step"], known: Iterable[str]) -> None:
    """Raise StepError, with file and line, for a table that there is not, and for steps whose slices overlap."""
    tables = set(known)
    by_table: dict[str, list[Step]] = {}
    for step in steps:
        for table in sorted({*step.parents, step.writes} - tables):
            raise StepError(
                f"{step.file}, line {step.line_of(table)}: the catalog has no table or view {table!r}; "
                f"it has {', '.join(sorted(tables))}"
            )
        for other in by_table.setdefault(step.writes, []):
            ours, theirs = step.sliced, other.sliced
            if not ours or not theirs or ours[0] != theirs[0] or ours[1] == theirs[1]:
                raise StepError(
                    f"{other.file}, line {other.line_of('slice')} and {step.file}, line {step.line_of('slice')}: both "
                    f"write {step.writes} where {other.slice} and {step.slice}; slices of one table must differ in the "
                    "value of one column"
                )
        by_table[step.writes].append(step)
