"""Walks DuckDB's own parse tree of a query against the allow-lists, and writes it out again.

Nothing here runs a query. A node, table or function that is not on a list is refused, so what a later DuckDB adds
is refused too.
"""

import json
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any

from catalog.errors import QueryRefused, UnknownName
from queries.ask.allowed import FUNCTIONS, NOT_LISTED, TABLE_FUNCTIONS
from queries.ask.parse_tree import cte_name, did_you_mean

_STRUCTURED = {"from_json", "from_json_strict", "json_transform", "json_transform_strict"}
_NAMING = {"array_aggr", "array_aggregate", "list_aggr", "list_aggregate"}
_DEEPEST = 200
_QUALIFIERS = {("", ""), ("", "main"), ("", "lake"), ("lake", "main")}

_EXPRESSION_CLASSES = """
    BETWEEN CASE CAST COLLATE COLUMN_REF COMPARISON CONJUNCTION CONSTANT FUNCTION LAMBDA LAMBDA_REF OPERATOR PARAMETER
    POSITIONAL_REFERENCE STAR SUBQUERY WINDOW
"""
_NODE_TYPES = """
    SELECT_NODE SET_OPERATION_NODE RECURSIVE_CTE_NODE
    BASE_TABLE EMPTY EXPRESSION_LIST JOIN PIVOT SHOW_REF SUBQUERY TABLE_FUNCTION
    DISTINCT_MODIFIER LIMIT_MODIFIER LIMIT_PERCENT_MODIFIER ORDER_MODIFIER ASCENDING DESCENDING ORDER_DEFAULT
"""
_EXPRESSIONS = frozenset(_EXPRESSION_CLASSES.split())
_NODES = frozenset(_NODE_TYPES.split())


_SESSION_NAMES = """
    current_catalog current_date current_role current_schema current_time current_timestamp current_user localtime
    localtimestamp session_user user
"""
_OF_SESSION = frozenset(_SESSION_NAMES.split())
"""What DuckDB's binder makes a function of if no column has the name (GetSQLValueFunctionName)."""
_OF_FILES = frozenset({"filename", "file_row_number", "file_index", "rowid", "snapshot_id"})
"""DuckLake's and Parquet's virtual columns: paths on this machine, and numbers that change when files are rewritten."""


@dataclass(frozen=True)
class Names:
    """What the catalog holds, in lower case: its tables and views now, and every definition each view ever had."""

    tables: frozenset[str]
    views: dict[str, list[str]]


class Walk:
    """One pass over a tree: refuses what is not listed, qualifies tables, collects the names used.

    `scope` holds the CTE names that DuckDB would resolve at this place, so that a CTE in one subquery
    does not legitimise a table elsewhere. `snapshot` gives the number of a snapshot or tag, or raises UnknownName.
    """

    def __init__(self, names: Names, extra: Set[str], snapshot: Callable[[str], int]):
        self.names = names
        self.extra = extra
        self.snapshot = snapshot
        self.used: set[str] = set()

    def visit(self, part: Any, scope: frozenset[str]) -> None:
        """Check `part` and everything below it."""
        if isinstance(part, list):
            for item in part:
                self.visit(item, scope)
        if not isinstance(part, dict):
            return
        kind = part.get("class", part.get("type"))
        listed = _EXPRESSIONS if "class" in part else _NODES
        if isinstance(kind, str) and kind not in listed:
            raise QueryRefused(f"{kind.replace('_', ' ').lower()} is not allowed in a query")
        if kind == "CONSTANT":
            _keep_constant(part)
            return
        if kind in ("FUNCTION", "WINDOW"):
            self._function(part["function_name"], FUNCTIONS)
            _check_structure(part)
            _check_aggregate(part)
        elif kind == "BASE_TABLE":
            self._table(part, scope)
        elif kind == "CAST" and "VARIANT" in json.dumps(part["cast_type"]).upper():
            raise QueryRefused("a cast to VARIANT is not allowed: JSON nested deeply makes the engine crash; use JSON")
        elif kind == "COLUMN_REF":
            self._column(part["column_names"])
        elif kind == "JOIN":
            for name in part["using_columns"]:
                self._column([name])
            _keep_cross(part)
        elif kind == "SHOW_REF" and (part["table_name"] or part["show_type"] not in ("DESCRIBE", "SUMMARY")):
            raise QueryRefused(f"SHOW is not allowed; the catalog has {', '.join(sorted(self.names.tables))}")
        elif kind == "PIVOT" and any(pivot["pivot_enum"] for pivot in part["pivots"]):
            raise QueryRefused("PIVOT over a type is not allowed: write PIVOT ... ON column IN ('a', 'b')")
        elif kind == "PIVOT":
            _columns_of_pivot(part, self._column)
        if "cte_map" in part:
            scope = self._ctes(part["cte_map"]["map"], scope)
        for key, value in part.items():
            if kind == "TABLE_FUNCTION" and key == "function":
                self._function(value["function_name"], TABLE_FUNCTIONS)
                self.visit(value["children"], scope)
            elif kind == "RECURSIVE_CTE_NODE" and key == "right":
                self.visit(value, scope | {cte_name(part["cte_name"])})
            elif key not in ("cte_map", "cast_type"):
                self.visit(value, scope)

    def _ctes(self, ctes: list[dict[str, Any]], scope: frozenset[str]) -> frozenset[str]:
        """Each CTE sees those before it, and the rest of its query sees them all."""
        for entry in ctes:
            self.visit(entry["value"], scope)
            scope |= {cte_name(entry["key"])}
        return scope

    def _table(self, part: dict[str, Any], scope: frozenset[str]) -> None:
        catalog, schema, name = (part[key].lower() for key in ("catalog_name", "schema_name", "table_name"))
        if not catalog and not schema and name in scope | self.extra:
            if part.get("at_clause"):
                raise QueryRefused(f"{part['table_name']!r} is no table of the catalog: AT reads those alone")
            return
        given = ".".join(part[key] for key in ("catalog_name", "schema_name", "table_name") if part[key])
        if (catalog, schema) not in _QUALIFIERS:
            raise QueryRefused(f"{given!r} is outside the catalog: only lake.main can be read")
        if name not in self.names.tables:
            known = sorted(self.names.tables)
            hint = did_you_mean(name, known) or f"; it has {', '.join(known)}"
            raise UnknownName(f"the catalog has no table or view {given!r}{hint}")
        if part.get("at_clause"):
            self._at(part["at_clause"], name)
        self.used.add(name)
        part.update(catalog_name="lake", schema_name="main")

    def _at(self, at: dict[str, Any], table: str) -> None:
        """A snapshot is a number, a tag's name, which becomes its number here, or a parameter."""
        if table in self.names.views:
            # DuckLake would take the old definition, and read today's tables with it.
            raise QueryRefused(f"{table!r} is a view, and AT reads tables: read the whole catalog as it was, with --at")
        expression = at["expr"]
        inner = expression["child"] if expression["class"] == "CAST" else expression
        if expression["class"] == "PARAMETER" or (at["unit"].upper() == "TIMESTAMP" and inner["class"] == "CONSTANT"):
            return
        kind = expression["value"]["type"]["id"] if expression["class"] == "CONSTANT" else None
        if at["unit"].upper() != "VERSION" or kind not in ("INTEGER", "BIGINT", "VARCHAR"):
            raise QueryRefused("AT takes (VERSION => a snapshot's number, or a tag in quotes)")
        number = self.snapshot(str(expression["value"]["value"]))
        expression["value"].update(type={"id": "INTEGER", "type_info": None}, value=number)

    def _column(self, names: list[str]) -> None:
        """Refuse what looks like a column and is none: DuckDB makes a function of it, or reads it off the files."""
        name = names[-1].lower()
        if name in _OF_FILES:
            raise QueryRefused(
                f"{'.'.join(names)!r} is no column of the catalog's: the engine gives it to every table, with paths or "
                "numbers of its files, which change; a column of your own needs another name"
            )
        if name in _OF_SESSION and len(names) == 1:
            raise QueryRefused(
                f"{names[0]!r} alone is a function of the time or the session, which gives another answer each time; "
                f"if it is a column of yours, say whose, as in t.{names[0]}"
            )

    def _function(self, name: str, listed: frozenset[str]) -> None:
        if name.lower() in listed:
            return
        if listed is TABLE_FUNCTIONS and name.lower() == "histogram":
            raise QueryRefused(
                "FROM histogram(t, c) runs SQL held in a string; write "
                "FROM (SELECT unnest(map_entries(histogram(c)), recursive := true) FROM t)"
            )
        if listed is TABLE_FUNCTIONS:
            raise QueryRefused(f"{name}(...) may not be read from; allowed in FROM: {', '.join(sorted(listed))}")
        if name.lower() in NOT_LISTED:
            raise QueryRefused(f"the function {name!r} is not allowed: {NOT_LISTED[name.lower()]}")
        hint = did_you_mean(name, listed)
        raise QueryRefused(f"the function {name!r}{hint} is not allowed: only pure functions are, no files, no effects")


def _check_structure(function: dict[str, Any]) -> None:
    """Refuse a structure for JSON that is computed: the engine crashes on one that is nested deeply."""
    if function["function_name"].lower() not in _STRUCTURED or len(function["children"]) < 2:
        return
    given = function["children"][1]
    if given["class"] == "PARAMETER":
        return
    text = given["value"]["value"] if given["class"] == "CONSTANT" else None
    if not isinstance(text, str) or text.count("{") + text.count("[") > _DEEPEST:
        raise QueryRefused(
            f"the structure that {function['function_name']} takes is a text in quotes, with at most {_DEEPEST} lists "
            "and objects"
        )


def _check_aggregate(function: dict[str, Any]) -> None:
    """Refuse a function that a list function is given by name, unless it is a listed one, spelled out."""
    if function["function_name"].lower() not in _NAMING or len(function["children"]) < 2:
        return
    given = function["children"][1]
    name = given["value"]["value"] if given["class"] == "CONSTANT" else None
    if not isinstance(name, str) or name.lower() not in FUNCTIONS:
        raise QueryRefused(f"{function['function_name']} takes the name of a listed aggregate in quotes, not {name!r}")


def _columns_of_pivot(part: dict[str, Any], check: Callable[[list[str]], None]) -> None:
    """The names of columns that a PIVOT or UNPIVOT holds as text."""
    for name in part["groups"]:
        check([name])
    for pivot in part["pivots"]:
        # Of an UNPIVOT the entries are columns, of a PIVOT values.
        for entry in pivot["entries"] if pivot["unpivot_names"] else []:
            for value in entry["values"]:
                check([str(value["value"])])


def _keep_cross(join: dict[str, Any]) -> None:
    """Spell a CROSS JOIN inside another join as INNER ON 1 = 1: rendered as a comma it would bind more loosely."""
    for side in ("left", "right"):
        inner = join[side]
        if inner.get("type") != "JOIN" or inner["ref_type"] != "CROSS" or (side, join["ref_type"]) == ("left", "CROSS"):
            continue
        kind = {"type": {"id": "INTEGER", "type_info": None}, "is_null": False, "value": 1}
        one = {"class": "CONSTANT", "type": "VALUE_CONSTANT", "alias": "", "query_location": 0, "value": kind}
        equal = {"class": "COMPARISON", "type": "COMPARE_EQUAL", "alias": "", "query_location": 0}
        inner.update(ref_type="REGULAR", condition={**equal, "left": one, "right": {**one}})


def _keep_constant(part: dict[str, Any]) -> None:
    """Spell 1e10 and 5. as casts: rendered as 10000000000.0 and 5 they would come back as other types."""
    constant = part["value"]
    kind = constant["type"]
    if constant["is_null"]:
        return
    if kind["id"] == "DECIMAL" and kind["type_info"]["scale"] == 0:
        spelled = str(constant["value"])
    elif kind["id"] == "DOUBLE":
        spelled = repr(float(constant["value"]))
    else:
        return
    text = {"type": {"id": "VARCHAR", "type_info": None}, "is_null": False, "value": spelled}
    child = {**part, "alias": "", "value": text}
    part.pop("value")
    part |= {"class": "CAST", "type": "OPERATOR_CAST", "child": child, "try_cast": False}
    part["cast_type"] = kind
