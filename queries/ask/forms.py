"""Takes statements that are no SELECT and that a person may ask: EXPLAIN, SHOW TABLES, DESCRIBE, PIVOT without values.

Each becomes a SELECT, which passes the same gate as any other.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from catalog.errors import QueryRefused
from catalog.quote import named, quoted
from queries.ask.parse_tree import parse
from queries.ask.walk import Names

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlglot import Token

MOST_PIVOTED = 1_000
_SPACE = r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)*"
_EXPLAIN = re.compile(rf"{_SPACE}EXPLAIN\b{_SPACE}", re.I | re.S)
_MORE = re.compile(r"(ANALY[SZ]E\b|\()", re.I)


def explained(sql: str) -> str | None:
    """What an EXPLAIN explains, None for any other statement. Raises QueryRefused for EXPLAIN ANALYZE."""
    match = _EXPLAIN.match(sql)
    if match is None:
        return None
    if _MORE.match(sql, match.end()):
        raise QueryRefused("EXPLAIN takes no options and no ANALYZE here: write EXPLAIN SELECT ..., and time the query")
    return sql[match.end() :]


def plan_lines(explained: "pa.Table", root: Path) -> "pa.RecordBatchReader":
    """The plan as a table of one column, `plan`, a row for each line; no path of this machine stands in it."""
    import pyarrow as pa

    text = "\n".join(explained["explain_value"].to_pylist()).replace(str(root), "")
    return pa.table({"plan": text.rstrip("\n").split("\n")}).to_reader()


def list_tables(cursor: duckdb.DuckDBPyConnection, part: Any, names: Names) -> None:
    """Write SHOW TABLES, a bare DESCRIBE and that of a view out, anywhere in a tree: as what the catalog has."""
    if isinstance(part, list):
        for item in part:
            list_tables(cursor, item, names)
    if not isinstance(part, dict):
        return
    if part.get("type") == "SHOW_REF" and part.get("table_name") in _LISTS:
        text = _LISTS[part["table_name"]](sorted(names.tables))
        alias = part["alias"] or "tables"
        listed = parse(cursor, f"FROM ({text}) AS tables")["statements"][0]["node"]["from_table"]
        part.clear()
        part.update(listed, alias=alias)
        return
    if (view := _described_view(part, names)) is not None:
        alias = part["alias"] or "described"
        listed = parse(cursor, f"FROM ({_VIEW.format(view=quoted(view), named=named(view))}) AS described")
        part.clear()
        part.update(listed["statements"][0]["node"]["from_table"], alias=alias)
        return
    for value in part.values():
        list_tables(cursor, value, names)


def _described_view(part: dict[str, Any], names: Names) -> str | None:
    """The view that a DESCRIBE is about, None for a table, a query and whatever else a part may be."""
    if part.get("type") != "SHOW_REF" or part.get("show_type") != "DESCRIBE" or not part.get("query"):
        return None
    query = part["query"]
    source = query.get("from_table") or {}
    whole = [item.get("type") for item in query.get("select_list", [])] == ["STAR"] and not query["cte_map"]["map"]
    name = str(source.get("table_name", "")).lower()
    ours = source.get("catalog_name", "").lower() in ("", "lake") and source.get("schema_name", "") in ("", "main")
    is_view = source.get("type") == "BASE_TABLE" and name in names.tables and name in names.views
    return name if whole and ours and is_view and "columns_doc" in names.tables else None


_VIEW = """
    SELECT d.column_name, d.column_type, c.doc
    FROM (SELECT column_name, column_type, row_number() OVER () AS place FROM (DESCRIBE {named})) AS d
    LEFT JOIN columns_doc AS c ON c.relation = {view} AND c.name = d.column_name
    ORDER BY d.place
"""
"""A view's columns take no NOT NULL and no default: the engine would say NO of each. They are documented instead."""


def _shown(tables: list[str]) -> str:
    return f"SELECT unnest([{', '.join(map(quoted, tables))}]) AS name"


def _described(tables: list[str]) -> str:
    rows = ", ".join(
        f"{{'name': {quoted(table)}, "
        f"'column_names': (SELECT list(column_name) FROM (DESCRIBE {named(table)})), "
        f"'column_types': (SELECT list(column_type) FROM (DESCRIBE {named(table)}))}}"
        for table in tables
    )
    return f"SELECT unnest([{rows}], recursive := true)"


_LISTS: dict[str, Callable[[list[str]], str]] = {'"tables"': _shown, "__show_tables_expanded": _described}


def filled(sql: str, values: Callable[[str], list[str]]) -> str:
    """The query with the values of each PIVOT that names none: those that there are, in order, as text.

    `values` runs a query of one column through the gate. What cannot be filled in is left, and the gate refuses it.
    """
    if "pivot" not in sql.lower() or len(sql) > 100_000:
        return sql
    for _ in range(20):
        found = _open_pivot(sql)
        if found is None:
            return sql
        query, start, end, item = found
        distinct = values(query)
        if len(distinct) > MOST_PIVOTED:
            raise QueryRefused(f"PIVOT would make more than {MOST_PIVOTED:,} columns of {item}: name the ones with IN")
        if not distinct:
            raise QueryRefused(f"PIVOT finds no value in {item}: there is nothing to make columns of")
        sql = f"{sql[:start]}(({item})::VARCHAR) IN ({', '.join(map(quoted, distinct))}){sql[end:]}"
    return sql


def _open_pivot(sql: str) -> tuple[str, int, int, str] | None:
    """The first PIVOT with an item without IN: a query for its values, where the item stands, the item."""
    import sqlglot

    try:
        tokens = list(sqlglot.tokenize(sql, read="duckdb"))
    except sqlglot.errors.SqlglotError:
        return None
    for index, token in enumerate(tokens):
        if token.text.upper() not in ("PIVOT", "PIVOT_WIDER") or token.token_type.name in ("STRING", "IDENTIFIER"):
            continue
        parts = list(_clauses(tokens, index + 1))
        if len(parts) < 2 or not parts[0] or parts[1][0].text.upper() != "ON":
            continue
        source = sql[parts[0][0].start : parts[0][-1].end + 1]
        for item in _items(parts[1][1:]):
            if not item or any(depth == 0 and t.text.upper() == "IN" for depth, t in _depths(item)):
                continue
            start, end = item[0].start, item[-1].end + 1
            text = sql[start:end]
            query = (
                f"{_ctes(sql, tokens, index)}SELECT DISTINCT ({text})::VARCHAR AS v FROM {source} "
                f"WHERE ({text}) IS NOT NULL ORDER BY v LIMIT {MOST_PIVOTED + 1}"
            )
            return query, start, end, text
    return None


def _depths(tokens: "Sequence[Token]") -> "Iterator[tuple[int, Token]]":
    depth = 0
    for token in tokens:
        depth -= token.text in (")", "]", "}")
        yield depth, token
        depth += token.text in ("(", "[", "{")


def _clauses(tokens: "Sequence[Token]", start: int) -> "Iterator[list[Token]]":
    """What follows PIVOT in parts: the source, then a part for each word that begins a clause."""
    part: list[Token] = []
    for depth, token in _depths(tokens[start:]):
        if depth < 0 or token.text == ";":
            break
        word = token.text.upper() if depth == 0 and token.token_type.name not in ("STRING", "IDENTIFIER") else ""
        if word in ("ON", "USING", "GROUP", "ORDER", "LIMIT", "UNION", "EXCEPT", "INTERSECT", "OFFSET"):
            yield part
            part = []
        part.append(token)
    yield part


def _items(tokens: "Sequence[Token]") -> "Iterator[list[Token]]":
    item: list[Token] = []
    for depth, token in _depths(tokens):
        if depth == 0 and token.text == ",":
            yield item
            item = []
        else:
            item.append(token)
    yield item


def _ctes(sql: str, tokens: "Sequence[Token]", index: int) -> str:
    """The WITH of the whole statement, if the PIVOT stands after it."""
    if tokens[0].text.upper() != "WITH":
        return ""
    for place, (depth, token) in enumerate(_depths(tokens)):
        if depth == 0 and token.text.upper() in ("SELECT", "FROM", "PIVOT", "VALUES") and place <= index:
            return sql[: token.start]
    return ""
