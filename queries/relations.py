"""What a step's query reads in a run: tables as they are, or as a plan expects them, whole or in stale parts."""

from collections.abc import Callable, Mapping

import sqlglot
from sqlglot import exp

from catalog.transaction import named
from queries.lineage import KEPT, table_nodes


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

    def expect(self, table: str, scope: str, fresh: str, columns: list[str]) -> None:
        """From now on the rows of `table` within `scope` are those of the temporary table `fresh`."""
        listed = ", ".join(map(named, columns))
        there = f"SELECT {listed} FROM {self.of(table)} WHERE ({scope}) IS NOT true"
        self._expected[table] = f"({there} UNION ALL SELECT {listed} FROM {fresh})"

    def query(self, text: str, narrow: Callable[[str, str], str] | None = None) -> str:
        """The query with every table replaced by its relation.

        `narrow(table, relation)` may make it smaller. If nothing is to be replaced, the text comes back as it is.
        """
        if narrow is None and not self._expected:
            return text
        tree = sqlglot.parse_one(text, read="duckdb")
        replaced = False
        for table in list(table_nodes(tree)):
            relation = self._relation(table.name.lower(), narrow)
            if relation is not None:
                alias = table.alias or table.name
                # Parsed as a part of a query: the aliases of columns and the joins of the place stay with it.
                inner = sqlglot.parse_one(f"SELECT * FROM {relation}", read="duckdb")
                new = exp.Subquery(this=inner, alias=exp.TableAlias(this=exp.to_identifier(alias)))
                new.set("joins", table.args.get("joins"))
                table.replace(new)
                replaced = True
        return tree.sql(dialect="duckdb", comments=False) if replaced else text

    def _relation(self, name: str, narrow: Callable[[str, str], str] | None) -> str | None:
        """The relation for a table or view, None if it is the table itself."""
        if name in self._views and self._expected:
            body = self.query(self._views[name], None)
            return f"({body})" if body != self._views[name] else None
        plain = self.of(name)
        narrowed = narrow(name, plain) if narrow and name not in self._views else plain
        return None if narrowed == f"lake.main.{named(name)}" and name != KEPT else narrowed
