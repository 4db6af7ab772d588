"""What a person may ask besides SELECT, and what looks like a column and is none."""

import json
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from catalog import Catalog
from catalog.errors import QueryRefused
from queries.ask.forms import MOST_PIVOTED
from queries.ask.guard import execute
from queries.cli.main import main
from queries.terminal.output import Output

ROWS = [("tokenise", "a", 1), ("tokenise", "b", 2), ("it's", "a", 3), ("harvest", "b", 10), ("harvest", "b", 4)]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    """A catalog with five rows of `problems`."""
    root = tmp_path_factory.mktemp("forms")
    with Catalog.create(root) as catalog, catalog.write("rows") as tx:
        tx.insert("problems", [{"stage": s, "subject": t, "reason": "r", "count": n} for s, t, n in ROWS])
    with Catalog(root, read_only=True) as catalog:
        yield catalog


def rows(catalog: Catalog, sql: str, parameters: object = None) -> list[tuple[object, ...]]:
    table = execute(sql, catalog, parameters).read_all()  # type: ignore[arg-type]
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


@pytest.mark.parametrize(
    "sql",
    [
        "PIVOT problems ON stage USING sum(count)",
        "PIVOT problems ON stage USING sum(count) GROUP BY subject ORDER BY subject",
        "PIVOT problems ON stage, subject USING count(*) GROUP BY reason",
        "PIVOT problems ON stage || subject USING max(count) AS m, min(count) GROUP BY reason",
        "PIVOT problems ON count USING count(*) GROUP BY stage ORDER BY ALL",
        "PIVOT (FROM problems WHERE count < 10) ON subject USING sum(count) GROUP BY stage ORDER BY stage LIMIT 2",
        "PIVOT problems ON stage IN ('harvest'), subject USING sum(count) GROUP BY reason",
        "WITH x AS (SELECT upper(stage) AS s, count FROM problems) PIVOT x ON s USING sum(count)",
        "FROM (PIVOT problems ON stage USING sum(count) GROUP BY subject) ORDER BY subject",
        "SELECT a.subject FROM (PIVOT problems ON stage USING sum(count) GROUP BY subject) AS a ORDER BY ALL",
    ],
)
def test_a_pivot_without_values_finds_them(small: Catalog, sql: str) -> None:
    """As the engine does it when nobody stands between."""
    with duckdb.connect() as engine:
        engine.execute("CREATE TABLE problems (stage VARCHAR, subject VARCHAR, reason VARCHAR, count BIGINT)")
        engine.executemany("INSERT INTO problems VALUES (?, ?, 'r', ?)", ROWS)
        wanted = engine.execute(sql).to_arrow_table()
    found = execute(sql, small).read_all()
    assert found.schema.names == wanted.schema.names
    assert found.to_pylist() == wanted.to_pylist()


def test_a_pivot_takes_parameters_and_says_when_it_has_no_or_too_many_columns(small: Catalog) -> None:
    filtered = "PIVOT (FROM problems WHERE count > $n) ON stage USING sum(count)"
    assert rows(small, filtered, {"n": 3}) == [("b", "r", 14)]
    with pytest.raises(QueryRefused, match="no value in stage"):
        rows(small, filtered, {"n": 99})
    with pytest.raises(QueryRefused, match=f"more than {MOST_PIVOTED:,} columns of r"):
        rows(small, f"PIVOT (SELECT range AS r FROM range({MOST_PIVOTED + 1})) ON r USING count(*)")


def test_show_tables_and_describe_list_what_the_catalog_has(small: Catalog) -> None:
    names = sorted(small.rows("SELECT lower(table_name) FROM __ducklake_metadata_lake.ducklake_table"))
    names += small.rows(
        "SELECT lower(view_name) FROM __ducklake_metadata_lake.ducklake_view WHERE end_snapshot IS NULL"
    )
    assert rows(small, "SHOW TABLES") == sorted(names)
    assert rows(small, "SELECT count(*) FROM (SHOW TABLES) WHERE name LIKE 'prob%'") == [(1,)]
    described = {name: (columns, types) for name, columns, types in rows(small, "DESCRIBE")}
    assert described["problems"][0] == ["stage", "subject", "reason", "count"]
    assert described["problems"][1][0] == "VARCHAR"
    assert set(described) == {name for (name,) in names}
    assert rows(small, "SHOW ALL TABLES") == rows(small, "DESCRIBE")
    assert [row[0] for row in rows(small, "DESCRIBE problems")] == ["stage", "subject", "reason", "count"]


def test_a_views_columns_are_described_by_what_they_hold(small: Catalog) -> None:
    """No `null: NO` stands there: the engine says so of every column of a view."""
    wanted = [
        ("corpus", "VARCHAR", "corpus"),
        ("split", "VARCHAR", "train, val or test"),
        ("documents", "BIGINT", "documents of the split"),
    ]
    for sql in ("DESCRIBE splits", "describe lake.main.SPLITS", "SHOW splits", "DESCRIBE FROM splits"):
        assert rows(small, sql)[:3] == wanted, sql
    assert rows(small, "SELECT s.doc FROM (DESCRIBE splits) AS s WHERE column_name = 'split'") == [wanted[1][2:]]
    # Of tables and queries the engine knows it.
    assert rows(small, 'SELECT "null" FROM (DESCRIBE problems) LIMIT 1') == [("NO",)]
    assert rows(small, 'SELECT "null" FROM (DESCRIBE SELECT split FROM splits)') == [("YES",)]


@pytest.mark.parametrize("sql", ["EXPLAIN FROM problems", "explain -- why\nSELECT 1", "/* a */ EXPLAIN FROM features"])
def test_explain_gives_the_plan_as_lines_without_paths(small: Catalog, sql: str) -> None:
    lines = [line for (line,) in rows(small, sql)]
    assert len(lines) > 3
    assert str(small.root) not in "\n".join(lines)  # type: ignore[arg-type]


def test_what_was_refused_without_need(small: Catalog) -> None:
    assert rows(small, "SELECT 5. + 1, typeof(5.), pg_typeof(1.5)") == [(6, "DECIMAL(1,0)", "decimal(2,1)")]
    one = "(SELECT 1 AS x) AS a"
    assert rows(small, f"FROM ({one} CROSS JOIN (SELECT 2 AS y) AS b) JOIN (SELECT 1 AS x, 3 AS z) AS c USING (x)") == [
        (1, 2, 3)
    ]
    joined = f"FROM {one} LEFT JOIN ((SELECT 1 AS y) AS b CROSS JOIN (VALUES (1), (2)) AS c(z)) ON x = z ORDER BY ALL"
    assert rows(small, joined) == [(1, 1, 1)]
    joined = f"FROM {one} CROSS JOIN ((SELECT 2 AS y) AS b CROSS JOIN (SELECT 3 AS z) AS c)"
    assert rows(small, joined) == [(1, 2, 3)]
    assert rows(small, "SELECT list_aggregate([1, 2], 'sum'), from_json('[1]', '[\"INT\"]')") == [(3, [1])]
    assert rows(small, "SELECT t.user FROM (SELECT 1 AS user) AS t") == [(1,)]


@pytest.mark.parametrize(
    ("sql", "advice"),
    [
        ("FROM histogram(problems, count)", r"unnest\(map_entries\(histogram\(c\)\), recursive := true\)"),
        ("SELECT reservoir_quantile(count, 0.5) FROM problems", "quantile_cont"),
        ("SELECT json_structure(reason) FROM problems", "json_keys"),
        ("EXPLAIN ANALYZE FROM problems", "EXPLAIN SELECT"),
        ("SELECT 1\0; COPY problems TO '/tmp/x'", "NUL, at 9"),
        ("SELECT current_user", r"t\.current_user"),
        ("SELECT filename FROM problems", "another name"),
    ],
)
def test_a_refusal_says_what_to_write_instead(small: Catalog, sql: str, advice: str) -> None:
    with pytest.raises(QueryRefused, match=advice):
        execute(sql, small)


def test_the_advice_for_a_histogram_holds(small: Catalog) -> None:
    sql = "FROM (SELECT unnest(map_entries(histogram(stage)), recursive := true) FROM problems) ORDER BY key"
    assert rows(small, sql) == [("harvest", 2), ("it's", 1), ("tokenise", 2)]


UNNAMED = "SELECT (1, 2) AS a, [(1, 'x')] AS b, MAP {'k': (1, (2, 3))} AS c, {'n': row(4)} AS d"
NAMED = {"a": {"1": 1, "2": 2}, "b": [{"1": 1, "2": "x"}], "c": {"k": {"1": 1, "2": {"1": 2, "2": 3}}}}


@pytest.mark.parametrize("form", ["auto", "json", "csv", "parquet"])
def test_rows_without_field_names_are_shown(
    small: Catalog, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Output(form, tmp_path / "x.parquet").show(execute(UNNAMED, small))  # type: ignore[arg-type]
    shown = capsys.readouterr().out
    if form == "parquet":
        assert pq.read_table(tmp_path / "x.parquet").to_pylist()[0]["a"] == NAMED["a"]
    elif form == "csv":
        assert '{""1"": 1, ""2"": 2}' in shown
    else:
        row = json.loads(shown)[0] if form == "json" else json.loads(shown)
        assert NAMED.items() <= row.items()


def test_the_command_line_asks_through_the_same_door(small: Catalog) -> None:
    result = CliRunner().invoke(main, ["-C", str(small.root), "sql", "SHOW TABLES"])
    assert '{"name": "problems"}' in result.output.splitlines()
    refused = CliRunner().invoke(main, ["-C", str(small.root), "sql", "SELECT user"])
    assert refused.exit_code == 2
