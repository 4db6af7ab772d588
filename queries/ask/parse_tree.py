"""Takes DuckDB's own parse tree of a query from its text, and writes the text back."""

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any

import duckdb

from catalog.errors import QueryRefused

LONGEST = 200_000


def parse(cursor: duckdb.DuckDBPyConnection, sql: str) -> dict[str, Any]:
    """DuckDB's tree of exactly one SELECT."""
    if len(sql) > LONGEST:
        raise QueryRefused(f"the query has {len(sql):,} characters, more than {LONGEST:,}: pass lists as parameters")
    if "\0" in sql:
        # The engine would read up to it and ignore the rest.
        raise QueryRefused(f"the query holds the character NUL, at {sql.index(chr(0)) + 1}: leave it out")
    try:
        sql.encode()
    except UnicodeEncodeError:
        raise QueryRefused("the query is not valid Unicode: it holds half of a surrogate pair") from None
    tree: dict[str, Any] = json.loads(scalar(cursor, "SELECT json_serialize_sql(?)", sql))
    if tree["error"]:
        raise QueryRefused(_why_not(sql, tree))
    if len(tree["statements"]) != 1:
        raise QueryRefused(f"one SELECT statement is expected, got {len(tree['statements'])}: run them one by one")
    return tree


def _why_not(sql: str, tree: dict[str, Any]) -> str:
    said = first_line(tree["error_message"])
    if tree["error_type"] == "parser":
        at = int(tree.get("position") or 0)
        return f"DuckDB cannot read this query: {said} (character {at + 1}: {sql[at : at + 30]!r})"
    if "pivot" in sql.lower():
        return "PIVOT needs the values it makes columns of: write PIVOT ... ON column IN ('a', 'b')"
    if said.startswith("Only SELECT"):
        return "the catalog is read-only here: only one SELECT statement is allowed (WITH, FROM, VALUES, DESCRIBE too)"
    return f"DuckDB cannot take this query apart: {said}"


def render(cursor: duckdb.DuckDBPyConnection, tree: dict[str, Any]) -> str:
    """The tree as SQL, by DuckDB."""
    return str(scalar(cursor, "SELECT json_deserialize_sql(?::JSON)", json.dumps(tree)))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """' (did you mean x?)' for the nearest known name, nothing if none is near."""
    near = difflib.get_close_matches(name.lower(), known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def scalar(cursor: duckdb.DuckDBPyConnection, sql: str, parameter: str) -> Any:
    row = cursor.execute(sql, [parameter]).fetchone()
    return row[0] if row else None


def first_line(error: object) -> str:
    """What an error of DuckDB says, without its class and the picture of the query."""
    return re.sub(r"^[A-Z][A-Za-z ]* Error: ", "", str(error).split("\n", 1)[0])


def cte_name(name: str) -> str:
    """The name of a CTE, which must not be one that DuckDB would take for a file if the CTE were out of scope."""
    if not name.replace(" ", "_").isidentifier():
        raise QueryRefused(f"{name!r} cannot name a CTE: use letters, digits and _")
    return name.lower()


def canonical(part: Any) -> Any:
    """A tree without places in the text, and with VALUES as it was before rendering wrapped it in SELECT * FROM."""
    if isinstance(part, list):
        return [canonical(item) for item in part]
    if not isinstance(part, dict):
        return part
    part = {key: canonical(value) for key, value in part.items() if key != "query_location"}
    if part.get("type") == "SUBQUERY" and "class" not in part:
        node = part["subquery"]["node"]
        values = node.get("from_table") or {}
        bare = [item.get("type") for item in node.get("select_list", [])] == ["STAR"] and not node["where_clause"]
        if bare and values.get("type") == "EXPRESSION_LIST" and values["alias"] == "valueslist":
            return values | {"alias": part["alias"], "expected_names": part["column_name_alias"]}
    return part
