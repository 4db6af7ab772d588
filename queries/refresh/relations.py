"""Gives a step's query the tables that it reads: as they are or as a plan expects them, whole or in stale parts."""

import re
from collections.abc import Iterable, Mapping

import sqlglot
from sqlglot import exp

from catalog.quote import named
from catalog.store.scratch import Relation
from queries.refresh.reads import table_nodes

_WITH = re.compile(r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)*WITH\b(\s+RECURSIVE\b)?", re.IGNORECASE | re.DOTALL)


class Relations:
    """Maps a table's name to the relation that stands for it, as trusted SQL.

    A refresh reads the catalog's tables. A plan puts the rows that a step would write beside them (`expect`), and
    steps that read the table see those.
    """

    def __init__(self, views: Mapping[str, str]) -> None:
        self._views = views
        self._expected: dict[str, str] = {}

    def of(self, table: str) -> str:
        """The relation that stands for a table."""
        return self._expected.get(table, f"lake.main.{named(table)}")

    def expect(self, table: str, scope: str, fresh: Relation, columns: Iterable[str]) -> None:
        """From now on the rows of `table` within `scope` are those of `fresh`."""
        listed = ", ".join(map(named, columns))
        there = f"SELECT {listed} FROM {self.of(table)} WHERE ({scope}) IS NOT true"
        self._expected[table] = f"({there} UNION ALL SELECT {listed} FROM {fresh})"

    def query(self, text: str, tables: Iterable[str], narrowed: Mapping[str, str] | None = None) -> str:
        """The query with every table replaced by its relation, or hidden behind it; `tables` are those it names itself.

        `narrowed` has smaller relations for some of them. If nothing is to be replaced, the text comes back as it is.
        """
        narrowed = narrowed or {}
        if not self._expected and not narrowed:
            return text
        if not self._expected and not _names_a_cte(text, tables):
            # Much faster than to take the query apart.
            return _shadowed(text, narrowed)
        tree = sqlglot.parse_one(text, read="duckdb")
        replaced = False
        for table in list(table_nodes(tree)):
            relation = self._relation(table.name.lower(), narrowed)
            if relation is not None:
                alias = table.alias or table.name
                # Parsed as a part of a query: the aliases of columns and the joins of the place stay with it.
                inner = sqlglot.parse_one(f"SELECT * FROM {relation}", read="duckdb")
                new = exp.Subquery(this=inner, alias=exp.TableAlias(this=exp.to_identifier(alias)))
                new.set("joins", table.args.get("joins"))
                table.replace(new)
                replaced = True
        return tree.sql(dialect="duckdb", comments=False) if replaced else text

    def _relation(self, name: str, narrowed: Mapping[str, str]) -> str | None:
        """The relation for a table or view, None if it is the table itself."""
        if name in self._views and self._expected:
            body = self.query(self._views[name], ())
            return f"({body})" if body != self._views[name] else None
        return narrowed.get(name) or self._expected.get(name)


def _names_a_cte(text: str, tables: Iterable[str]) -> bool:
    """Whether a CTE of the query may have the name of one of the tables."""
    names = "|".join(map(re.escape, tables))
    return (
        re.search(rf'\b({names})"?\s*(\([^()]*\)\s*)?AS\s*(NOT\s+MATERIALIZED|MATERIALIZED)?\s*\(', text, re.I)
        is not None
    )


def _shadowed(text: str, relations: Mapping[str, str]) -> str:
    """The query with tables hidden behind CTEs of their names."""
    if not relations:
        return text
    # Each use of a table is narrowed by itself, as if the relation stood there.
    listed = ", ".join(f"{named(table)} AS NOT MATERIALIZED (FROM {relation})" for table, relation in relations.items())
    begins = _WITH.match(text)
    if begins:
        return f"WITH{begins[1] or ''} {listed}, {text[begins.end() :]}"
    return f"WITH {listed} {text}"
