"""Makes temporary tables with names of their own, and drops them together."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import duckdb

from catalog.quote import named

_numbers = count(1)
"""Shared by all connections of the process, so that no two of its temporary tables have one name."""


@dataclass(frozen=True)
class Relation:
    """A temporary table of one connection. As text it is the SQL that names it."""

    name: str

    def __str__(self) -> str:
        # With its database: the engine would look for a bare name in the lake first, which takes 5 ms.
        return f"temp.main.{self.name}"


class Scratch:
    """The temporary tables of one piece of work on one connection; `with` drops them at its end.

    Those made in a transaction are gone when it is rolled back.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection = connection
        self._made: list[Relation] = []

    def query(self, sql: str, parameters: Mapping[str, Any] | list[Any] | None = None) -> Relation:
        """The rows of a trusted query."""
        made = self._named()
        self.connection.execute(f"CREATE TEMP TABLE {made} AS {sql}", parameters or [])
        return made

    def rows(self, rows: list[dict[str, Any]], like: str) -> Relation:
        """These rows, with the columns and types of the catalog's table `like`; a column left out is NULL."""
        import pyarrow as pa

        made = self.query(f"FROM lake.{named(like)} LIMIT 0")
        if rows:
            schema = self.connection.execute(f"FROM {made}").to_arrow_table().schema
            self.arrow(pa.Table.from_pylist(rows, schema), into=made)
        return made

    def arrow(self, table: Any, into: Relation | None = None) -> Relation:
        """The rows of an Arrow table, in a table of their own or added to one that has its columns."""
        self.connection.register("_arrow", table)
        try:
            if into is None:
                return self.query("FROM _arrow")
            self.connection.execute(f"INSERT INTO {into} FROM _arrow")
            return into
        finally:
            self.connection.unregister("_arrow")

    def tuples(self, rows: Iterable[tuple[Any, ...]], shape: Mapping[str, str]) -> Relation:
        """These rows, with the columns and types of `shape`."""
        # One list for each column: binding them is faster than a row at a time, and than an Arrow table.
        lists = ", ".join(f"unnest(?::{kind}[]) AS {named(column)}" for column, kind in shape.items())
        values = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in shape]
        return self.query(f"SELECT {lists}", values)

    def drop(self) -> None:
        """Drop them all; those that a rollback took are no mistake."""
        made, self._made = self._made, []
        for relation in made:
            # After a failure the connection may be of no use any more, which the error says.
            with suppress(duckdb.Error):
                self.connection.execute(f"DROP TABLE IF EXISTS {relation}")

    def __enter__(self) -> "Scratch":
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    def _named(self) -> Relation:
        made = Relation(f"_scratch_{next(_numbers)}")
        self._made.append(made)
        return made
