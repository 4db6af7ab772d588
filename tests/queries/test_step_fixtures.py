"""What a step in SQL makes of a few rows: tests/fixtures/steps/STEP.json holds the tables that it reads, and its rows.

The query runs as its file has it, in an engine without a catalog, on tables with the columns and types of the schema.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from queries.refresh.reads import KEPT
from queries.refresh.step import packaged_steps
from tests.empty import make_empty

FIXTURES = sorted((Path(__file__).parents[1] / "fixtures" / "steps").glob("*.json"))
STEPS = {step.name: step for step in packaged_steps()}


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """The columns and types of each table of a catalog."""
    found: dict[str, dict[str, str]] = {}
    with make_empty(tmp_path_factory.mktemp("schema") / "catalog") as catalog:
        listed = "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE database_name = 'lake'"
        for table, column, kind in catalog.rows(listed):
            found.setdefault(table, {})[column] = kind
    return found


@pytest.fixture
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def put(engine: duckdb.DuckDBPyConnection, table: str, shape: dict[str, str], given: dict[str, Any]) -> None:
    """A table with the given rows; columns that they do not name are NULL."""
    columns = ", ".join(f'"{name}" {kind}' for name, kind in shape.items())
    engine.execute(f"CREATE TABLE {table} ({columns})")
    names = ", ".join(f'"{name}"' for name in given["columns"])
    for row in given["rows"]:
        engine.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(row))})", row)


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_a_step_gives_the_rows_of_its_fixture(
    path: Path, schema: dict[str, dict[str, str]], engine: duckdb.DuckDBPyConnection
) -> None:
    step, fixture = STEPS[path.stem], json.loads(path.read_text())
    needed = {*step.parents, KEPT} if step.folds else set(step.parents)
    assert needed == fixture["tables"].keys()
    assert fixture["parameters"] == step.parameters
    for table, given in fixture["tables"].items():
        put(engine, table, schema[step.writes if table == KEPT else table], given)
    found = engine.execute(step.query, fixture["parameters"]).fetchall()
    names = [column[0] for column in engine.description or []]
    assert sorted(names) == sorted(fixture["gives"]["columns"]) == sorted(schema[step.writes])
    order = [names.index(name) for name in fixture["gives"]["columns"]]
    assert sorted(tuple(row[at] for at in order) for row in found) == [tuple(row) for row in fixture["gives"]["rows"]]


def test_there_are_fixtures() -> None:
    assert len(FIXTURES) >= 5
