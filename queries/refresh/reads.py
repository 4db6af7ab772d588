"""Finds what a query reads: its tables and views by scope, and where each of its columns comes from."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import sqlglot
from sqlglot import exp
from sqlglot.optimizer.qualify import qualify

from catalog.errors import StepError

if TYPE_CHECKING:
    pass

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
