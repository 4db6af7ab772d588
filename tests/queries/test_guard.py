"""The read-only gate, attacked: nothing is read, written or made outside the catalog's tables."""

import hashlib
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog import Catalog
from catalog.errors import ForeignCatalog, InputError, QueryRefused, SaeqlError, UnknownName
from catalog.store.location import Server
from queries.ask.allowed import FUNCTIONS, TABLE_FUNCTIONS
from queries.ask.guard import check, execute, lock_down, run
from tests.empty import make_empty
from tests.hand_rows import feature_stats, label
from tests.postgres import Postgres

pytestmark = pytest.mark.usefixtures("two_threads")

SECRET = "xyzzy-plugh-31337"


@dataclass(frozen=True)
class World:
    """A catalog with a few rows, and files beside it that no query may touch."""

    catalog: Catalog
    canary: Path
    version: int
    postgres: Postgres | None

    @property
    def server(self) -> Server:
        return self.catalog.location.server or Server("127.0.0.1", 1, "saeql", "none")

    def state(self) -> dict[str, str]:
        """Every path under the catalog and the canary with the digest of each file, and the metadata's database."""
        dump = self.postgres.contents(self.server.database) if self.postgres else ""
        return {"database": dump} | {
            str(path): hashlib.blake2b(path.read_bytes()).hexdigest() if path.is_file() else "folder"
            for root in (self.catalog.root, self.canary)
            for path in sorted(root.rglob("*"))
            # SQLite maps its read locks into memory here; the database and its log are compared.
            if path.suffix != ".sqlite-shm"
        }

    def attack(self, sql: str) -> str:
        """`sql` with {canary}, {csv}... filled in."""
        paths = {"canary": self.canary, "root": self.catalog.root, "db": self.canary / "other.sqlite"}
        address = self.server.parameters(read_only=False).replace("'", "")
        for name, path in {**paths, "server": address}.items():
            sql = sql.replace("{" + name + "}", str(path))
        return sql


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, metadata: Postgres | None) -> Iterator[World]:
    root = tmp_path_factory.mktemp("guard")
    canary = root / "canary"
    canary.mkdir()
    for name in ("secret.csv", "secret.txt", "secret.json", "problems"):
        (canary / name).write_text(f'"{SECRET}"\n')
    engine = duckdb.connect()
    engine.execute(f"COPY (SELECT '{SECRET}' AS secret) TO '{canary}/secret.parquet'")
    engine.close()
    (canary / "other.sqlite").write_bytes(b"")
    place = root / "catalog"
    with make_empty(place, metadata) as catalog:
        with catalog.write("first") as tx:
            for count in (1, 2, 3):
                row = {"stage": "tokenise", "subject": f"doc {count}", "reason": "too [bold]short[/bold]"}
                tx.insert("problems", [{**row, "count": count}])
        version = catalog.snapshot()
        with catalog.write("second") as tx:
            tx.insert("problems", [{"stage": "harvest", "subject": "sae", "reason": "overflow", "count": 10}])
            _study(tx.insert)
    with Catalog(place, read_only=True) as catalog:
        yield World(catalog, canary, version, metadata)


def _study(insert: Callable[[str, list[dict[str, Any]]], None]) -> None:
    insert("study", [{"name": "s", "explainer": "lexical", "scorer": "d", "concept": "linear algebra", "source": None}])
    insert("feature_stats", [feature_stats(917), feature_stats(918)])
    insert("labels", [label(917, "Matrix products")])
    document = {
        "hash": "h",
        "shard": 0,
        "split": "train",
        "start": 0,
        "tokens": 2,
        "source": "f.py",
        "text": "a matrix",
    }
    insert("documents", [{"corpus": "c", "document": 0, **document}])
    place = {"corpus": "c", "shard": 0, "document": 0, "sequence": 0, "length": 2}
    insert("tokens", [{**place, "position": 0, "token": 5, "char_start": 0, "char_end": 1}])
    insert("tokens", [{**place, "position": 1, "token": 6, "char_start": 1, "char_end": 8}])
    insert(
        "activations",
        [{"sae": "a", "corpus": "c", "shard": 0, "feature": 917, "position": 1, "activation": 6.25}],
    )
    window = {"sae": "a", "corpus": "c", "feature": 917, "kind": "top", "split": "train", "stratum": 0, "rank": 1}
    insert("contexts", [{**window, "start": 0, "length": 2, "peak": 1, "activation": 6.25}])


FORBIDDEN = Path(__file__).with_name("forbidden.sql").read_text().splitlines()[2:]


@pytest.fixture(scope="module")
def untouched(world: World) -> Iterator[World]:
    """Compares the catalog and the canaries before and after all the attacks that use it."""
    before = world.state()
    yield world
    assert world.state() == before


REFUSED = [*FORBIDDEN, "", ";", "-- nothing", "SELECT '\x00'", "SELECT '\ud800'", "\x00"]


@pytest.mark.parametrize("sql", REFUSED)
def test_refuses_what_is_not_a_pure_select(untouched: World, sql: str) -> None:
    attack = untouched.attack(sql).replace("\\n", "\n")
    with pytest.raises((QueryRefused, UnknownName)) as refused:
        execute(attack, untouched.catalog).read_all()
    assert SECRET not in str(refused.value)


def test_what_is_refused_is_refused_by_the_querys_own_process(untouched: World) -> None:
    for sql in REFUSED[::8]:
        attack = untouched.attack(sql).replace("\\n", "\n")
        with pytest.raises((QueryRefused, UnknownName)) as refused:
            run(attack, untouched.catalog).read_all()
        assert SECRET not in str(refused.value)


@pytest.mark.parametrize("depth", [100, 900, 5_000, 100_000])
@pytest.mark.parametrize(("before", "after"), [("(", ")"), ("[", "]"), ("NOT ", ""), ("1 + ", "")])
def test_survives_deep_nesting(untouched: World, before: str, after: str, depth: int) -> None:
    # A crash would end the tests here, where the query's own process would be said to have crashed.
    told = _told(untouched, f"SELECT {before * depth}true{after * depth} AS x FROM problems LIMIT 0")
    assert len(told) < 1_000


def _told(world: World, sql: str) -> str:
    """Everything that a user would see."""
    try:
        return str(execute(sql, world.catalog).read_all().to_pylist())
    except SaeqlError as error:
        return str(error)


ALLOWED: list[tuple[str, list[tuple[object, ...]]]] = [
    ("SELECT 1 AS a, 'it''s' AS b -- a comment", [(1, "it's")]),
    ("VALUES (1, 'a'), (2, 'b')", [(1, "a"), (2, "b")]),
    ("SELECT a FROM (VALUES (1), (3)) AS t(a) WHERE a > 2", [(3,)]),
    ("FROM problems SELECT count ORDER BY count", [(1,), (2,), (3,), (10,)]),
    ("SELECT count(*) FROM lake.main.problems, lake.problems AS p, main.problems AS q", [(64,)]),
    ("SELECT PROBLEMS.count FROM Problems WHERE stage ILIKE 'HARV%'", [(10,)]),
    ("SELECT count(*) FROM problems AT (VERSION => {version})", [(3,)]),
    ("SELECT count(*) FROM problems AS p AT (VERSION => {version}) JOIN problems AS q USING (subject)", [(3,)]),
    ("SELECT a.count, b.count FROM problems a JOIN problems b ON b.count = a.count + 1 ORDER BY ALL", [(1, 2), (2, 3)]),
    ("SELECT count FROM problems a ANTI JOIN (SELECT 2 AS count) b USING (count) ORDER BY 1", [(1,), (3,), (10,)]),
    ("SELECT a.x, b.y FROM (SELECT 1 x) a POSITIONAL JOIN (SELECT 2 y) b", [(1, 2)]),
    ("SELECT x, count FROM (SELECT 5 x) ASOF JOIN problems ON x >= count", [(5, 3)]),
    ("WITH problems AS (SELECT * FROM problems WHERE count = 2) SELECT count FROM problems", [(2,)]),
    ("WITH a AS (SELECT 1 x), b AS MATERIALIZED (SELECT x + 1 AS y FROM a) SELECT * FROM a, b", [(1, 2)]),
    ("WITH RECURSIVE t(n) AS (SELECT 1 UNION SELECT n + 1 FROM t WHERE n < 4) SELECT sum(n) FROM t", [(10,)]),
    ("SELECT (WITH a AS (SELECT 7 x) SELECT x FROM a), (SELECT max(count) FROM problems)", [(7, 10)]),
    ("SELECT stage, sum(count) FROM problems GROUP BY ALL ORDER BY ALL", [("harvest", 10), ("tokenise", 6)]),
    ("SELECT sum(count) FILTER (count > 1) FROM problems GROUP BY ROLLUP (stage) ORDER BY 1", [(5,), (10,), (15,)]),
    ("SELECT stage, count FROM problems QUALIFY row_number() OVER (PARTITION BY stage ORDER BY count DESC) = 1 "
     "ORDER BY 1", [("harvest", 10), ("tokenise", 3)]),
    ("SELECT lag(count) OVER w, sum(count) OVER (w ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM problems "
     "WINDOW w AS (ORDER BY count) ORDER BY count", [(None, 1), (1, 3), (2, 5), (3, 13)]),
    ("SELECT DISTINCT ON (stage) stage, count FROM problems ORDER BY stage, count LIMIT 1", [("harvest", 10)]),
    ("SELECT list(count ORDER BY count DESC)[1:2] FROM problems", [([10, 3],)]),
    ("SELECT list_transform([1, 2], x -> x + 1), list_filter([1, 2], lambda x: x > 1)", [([2, 3], [2])]),
    ("SELECT [i * 2 FOR i IN [1, 2, 3] IF i > 1], list_reduce([1, 2, 3], (a, b) -> a + b)", [([4, 6], 6)]),
    ("SELECT {'a': {'b': 3}}.a.b, struct_pack(x := 1).x, MAP {'k': 'v'}['k'], (['a', 'b'])[2]", [(3, 1, "v", "b")]),
    ("SELECT unnest(histogram), unnest(deciles) FROM feature_stats WHERE feature = 917", [(1, 0.5), (3, 1.5)]),
    ("SELECT t.x * p.count FROM problems p, unnest([1, 2]) AS t(x) WHERE count < 2 ORDER BY 1", [(1,), (2,)]),
    ("SELECT sum(range) FROM range(5)", [(10,)]),
    ("SELECT y FROM range(3) t(x), LATERAL (SELECT x * x AS y) ORDER BY 1", [(0,), (1,), (4,)]),
    ("""SELECT '{"a": [1, 2]}'::JSON ->> '$.a[1]', json_extract('{"a.b": 1}', 'a.b')::INT""", [("2", 1)]),
    ("""SELECT key FROM json_each('{"a": 1, "b": 2}') ORDER BY key""", [("a",), ("b",)]),
    ("SELECT 'abc' ~ 'b', regexp_matches('abc', 'b'), regexp_extract('abc', '(b)(c)', 2)", [(False, True, "c")]),
    ("SELECT DATE '2020-01-01'::TIMESTAMP::VARCHAR, datediff('day', DATE '2020-01-01', DATE '2020-02-01')",
     [("2020-01-01 00:00:00", 31)]),
    ("SELECT 7 // 2, -7 % 3, 2 ** 3, -2 ** 2, 1e3, typeof(1e3), typeof(1.5), 1 IN [1, 2]",
     [(3, -1, 8.0, 4.0, 1000.0, "DOUBLE", "DECIMAL(2,1)", True)]),
    ("SELECT e'a\\tb', $$c'd$$, 'é', \"count\" FROM problems WHERE count = 1",
     [("a\tb", "c'd", "é", 1)]),
    ("SELECT * EXCLUDE (reason, subject) REPLACE (upper(stage) AS stage) FROM problems WHERE count = 1",
     [("TOKENISE", 1)]),
    ("SELECT max(COLUMNS('^c')) FROM problems", [(10,)]),
    ("SELECT stage.upper().lower() FROM problems WHERE count = 10", [("harvest",)]),
    ("PIVOT problems ON stage IN ('harvest', 'tokenise') USING sum(count)  GROUP BY reason ORDER BY reason",
     [("overflow", 10, None), ("too [bold]short[/bold]", None, 6)]),
    ("UNPIVOT (SELECT 1 AS a, 2 AS b) ON a, b INTO NAME n VALUE v", [("a", 1), ("b", 2)]),
    ("SELECT 1 AS a UNION BY NAME SELECT 2 AS b ORDER BY ALL", [(1, None), (None, 2)]),
    ("(SELECT 1 UNION ALL SELECT 2) EXCEPT SELECT 2", [(1,)]),
    ("SELECT column_name FROM (DESCRIBE problems) LIMIT 1", [("stage",)]),
    ("SELECT label, maximum FROM features WHERE label ILIKE '%matrix%'", [("Matrix products", 6.25)]),
    ("SELECT string_agg(text, '|' ORDER BY position), max(activation) FROM context_tokens GROUP BY feature",
     [("a| matrix", 6.25)]),
    ("SELECT text FROM token_text WHERE position = 1", [(" matrix",)]),
    ("SELECT count(*) FROM problems WHERE count = ANY([1, 2]) AND count NOT IN (SELECT 2)", [(1,)]),
    ("SELECT count(*) FROM problems TABLESAMPLE 100%", [(4,)]),
    ("SELECT try_cast('x' AS INT), coalesce(NULL, 1), quantile_cont(count, 0.5) FROM problems", [(None, 1, 2.5)]),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "expected"), ALLOWED)
def test_passes_what_only_reads_the_catalog(world: World, sql: str, expected: list[tuple[object, ...]]) -> None:
    assert _rows(execute(sql.replace("{version}", str(world.version)), world.catalog)) == expected


@pytest.mark.parametrize(("sql", "expected"), ALLOWED[::12])
def test_the_querys_own_process_gives_the_same(world: World, sql: str, expected: list[tuple[object, ...]]) -> None:
    assert _rows(run(sql.replace("{version}", str(world.version)), world.catalog)) == expected


def _rows(reader: pa.RecordBatchReader) -> list[tuple[object, ...]]:
    return list(zip(*(column.to_pylist() for column in reader.read_all().columns), strict=True))


@pytest.mark.parametrize("sql", [*(sql for sql, _ in ALLOWED), "SELECT 1\uff1bDELETE FROM problems", "SELECT 1e400"])
def test_what_runs_means_what_was_written(world: World, sql: str) -> None:
    sql = sql.replace("{version}", str(world.version))
    cursor = world.catalog.connection.cursor()
    cursor.execute("USE lake")
    answers = []
    for text in (sql, check(sql, world.catalog).sql):
        result = cursor.execute(text)
        answers.append(([str(column[1]) for column in result.description or []], result.fetchall()))
    assert answers[0] == answers[1]


def test_parameters_are_bound(world: World) -> None:
    assert run("SELECT $x + 1 AS y", world.catalog, {"x": 2}).read_all().to_pylist() == [{"y": 3}]
    assert run("SELECT ? || ? AS y", world.catalog, ["'; --", "b"]).read_all().to_pylist() == [{"y": "'; --b"}]
    at = run("SELECT count(*) AS n FROM problems AT (VERSION => $v)", world.catalog, {"v": world.version})
    assert at.read_all().to_pylist() == [{"n": 3}]
    with pytest.raises(InputError, match="parameters: x"):
        run("SELECT $x", world.catalog)


def test_extra_tables_are_readable_only_in_their_query(world: World) -> None:
    hits = pa.table({"feature": [917], "score": [0.5]})
    sql = "SELECT label, score FROM hits JOIN features USING (feature)"
    rows = run(sql, world.catalog, tables={"hits": hits}).read_all().to_pylist()
    assert rows == [{"label": "Matrix products", "score": 0.5}]
    with pytest.raises(UnknownName, match="hits"):
        run(sql, world.catalog)


def test_unknown_names_list_the_known_ones(world: World) -> None:
    with pytest.raises(UnknownName, match=r"view 'zzz'; it has activations, .*problems"):
        check("FROM zzz", world.catalog)
    # The nearest name is enough: there are 57.
    with pytest.raises(UnknownName, match=r"view 'featurs' \(did you mean features\?\)$"):
        check("FROM featurs", world.catalog)
    with pytest.raises(UnknownName, match=r"cuont.*did you mean count\?.*problems has stage, subject, reason, count"):
        run("SELECT cuont FROM problems", world.catalog)
    with pytest.raises(QueryRefused, match=r"list_sums.*did you mean list_sum\?"):
        check("SELECT list_sums([1])", world.catalog)
    with pytest.raises(QueryRefused, match=r"character 17: 'x AND y'"):
        check("SELECT 'é' FORM x AND y", world.catalog)


def test_a_failure_while_rows_stream_is_an_input_error(world: World) -> None:
    reader = run("SELECT replace(range::VARCHAR, '4000000', 'x')::INT AS x FROM range(5000000)", world.catalog)
    with pytest.raises(InputError, match=r"Could not convert string 'x'|did not say why"):
        reader.read_all()


def test_hostile_views_and_macros_of_a_foreign_catalog_are_refused(tmp_path: Path, metadata: Postgres | None) -> None:
    # The opening refuses such a catalog (tests/catalog/test_stranger.py); this is for what comes in after it.
    place = tmp_path / "c"
    with make_empty(place, metadata) as catalog:
        catalog.connection.execute("CREATE VIEW lake.main.bad AS FROM duckdb_settings()")
        catalog.connection.execute("CREATE VIEW lake.main.worse AS SELECT * FROM bad")
        for sql in ("FROM bad", "FROM worse", "WITH x AS (FROM worse) FROM x"):
            with pytest.raises(QueryRefused, match="duckdb_settings"):
                check(sql, catalog)
        assert check("FROM features", catalog).tables == ("features",)
        with pytest.raises(ForeignCatalog, match="view 'bad' is not one of saeql's"):
            run("SELECT 1", catalog)
        catalog.connection.execute("CREATE MACRO lake.main.lower(x) AS 'mine'")
        with pytest.raises(QueryRefused, match="redefines the function 'lower'"):
            check("SELECT lower('A')", catalog)


def test_a_writable_catalog_is_read_through_its_own_connection(tmp_path: Path, metadata: Postgres | None) -> None:
    place = tmp_path / "c"
    with make_empty(place, metadata) as catalog:
        assert run("SELECT count(*) AS n FROM problems", catalog).read_all().to_pylist() == [{"n": 0}]
        with catalog.write("after") as tx:
            tx.insert("problems", [{"stage": "a", "subject": "b", "reason": "c", "count": 1}])
        assert run("SELECT count(*) AS n FROM problems", catalog).read_all().to_pylist() == [{"n": 1}]


def test_the_server_itself_refuses_to_write_for_a_reader(untouched: World) -> None:
    """Past the gate and the engine: what is sent to the server as it is."""
    if untouched.postgres is None:
        pytest.skip("SQLite has no server")
    cursor = untouched.catalog.connection.cursor()
    for sql in ("DELETE FROM ducklake_table", "CREATE TABLE made (i INT)"):
        with pytest.raises(duckdb.Error, match="read-only transaction"):
            cursor.execute("CALL postgres_execute('__ducklake_metadata_lake', ?)", [sql])
    # Not only because the engine opens its transactions so: that would be another's default.
    asked = "SELECT current_setting(''default_transaction_read_only'')"
    assert cursor.execute(f"FROM postgres_query('__ducklake_metadata_lake', '{asked}')").fetchall() == [("on",)]


def test_the_connection_is_locked_down(world: World) -> None:
    lock_down(world.catalog.connection)
    cursor = world.catalog.connection.cursor()
    leaked = pa.table({"x": [1]})
    for sql in (
        f"FROM read_text('{world.canary}/secret.txt')",
        f"COPY (SELECT 1) TO '{world.canary}/out.csv'",
        f"ATTACH '{world.canary}/new.duckdb'",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "RESET lock_configuration",
        "FROM leaked",
    ):
        with pytest.raises(duckdb.Error):
            cursor.execute(sql)
    assert leaked.num_rows == 1


@pytest.fixture
def heard() -> Iterator[None]:
    """Ctrl-C is heard: a process that a shell started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a.range, sum(hash(a.range + b.range)) FROM range(3000) AS a, range(10000000) AS b GROUP BY 1",
        "SELECT a.range FROM range(1000000) AS a, range(1000000) AS b WHERE hash(a.range + b.range) = 0",
    ],
)
def test_ctrl_c_stops_the_engine(world: World, sql: str) -> None:
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        run(sql, world.catalog).read_all()
    assert run("SELECT 1 AS x", world.catalog).read_all().to_pylist() == [{"x": 1}]


def test_every_listed_function_exists_and_none_reaches_out() -> None:
    with duckdb.connect() as engine:
        found = engine.execute("SELECT lower(function_name), function_type FROM duckdb_functions()").fetchall()
    assert {name for name, kind in found if kind != "pragma"} >= FUNCTIONS
    assert {name for name, kind in found if kind == "table"} >= TABLE_FUNCTIONS
    reaching = re.compile(
        r"^(postgres|read_|write_|sqlite|duckdb_|ducklake_|pragma_|pg_(?!typeof$)|current_|icu_|set(seed|_config)|has_)"
        r"|_scan|glob|query|setting|variable|env$|nextval|sleep|random|uuid|serialize|_logs?$|secret|parquet"
    )
    assert [name for name in FUNCTIONS | TABLE_FUNCTIONS if reaching.search(name)] == []


FRAGMENTS = [
    "SELECT 1", "SELECT * FROM problems", "FROM problems", "DELETE FROM problems", "INSERT INTO problems", "VALUES (1)",
    "COPY", "TO '{canary}/out.csv'", "FROM '{canary}/secret.csv'", "read_text('{canary}/secret.txt')", "FROM", "SELECT",
    "CREATE TABLE made AS", "DROP TABLE problems", "WITH a AS (", ")", "(", ";", "--", "/*", "*/", "\n", "'", '"', "$$",
    "$a$", "E'\\'", ",", "UNION ALL", "a", "x -> ", "problems", "AT (VERSION => 1)", "EXPLAIN ANALYZE", "ATTACH",
    "'{canary}/new.db'", "LATERAL", "JOIN", "ON true", "WHERE", "EXISTS", "PIVOT", "USING count(*)", "::", "JSON",
    "query('DELETE FROM problems')", "sqlite_query('lake', 'DELETE FROM ducklake_table')", "AS t", "\x00", "\u202e",
    "\n", "BEGIN", "COMMIT", "RETURNING *", "DESCRIBE", "SHOW TABLES", "LIMIT 1", "PREPARE p AS",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=9).map(" ".join))
def test_no_mixture_of_fragments_gets_out(untouched: World, sql: str) -> None:
    assert SECRET not in _told(untouched, untouched.attack(sql))
    try:
        checked = check(untouched.attack(sql), untouched.catalog).sql
    except SaeqlError:
        return
    (statement,) = duckdb.extract_statements(checked)
    assert statement.type == duckdb.StatementType.SELECT
