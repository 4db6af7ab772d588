"""The door for queries: what is over its time or memory, crashes or is interrupted ends, and nothing else does."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from catalog import Catalog
from catalog.errors import InputError, QueryRefused, QueryStopped, SaeqlError
from queries.ask import door
from queries.ask.door import ask
from queries.ask.limits import in_bytes, process_bytes, timeout
from queries.session import Session

DEAF = "SELECT damerau_levenshtein(repeat('a', 8000), repeat(range::VARCHAR, 8000)) AS x FROM range(1000)"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A catalog with three rows of `problems`, asked with 200 MB."""
    root = tmp_path_factory.mktemp("door")
    with Catalog.create(root) as catalog, catalog.write("rows") as tx:
        rows = [{"stage": "s", "subject": "t", "reason": "r", "count": n} for n in range(3)]
        tx.insert("problems", rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAEQL_MEMORY", "200MB")
        yield root


def runs(pid: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def located(root: Path) -> "Session":
    return Session(root)


def children() -> set[int]:
    """Of this thread, as the system lists them."""
    return {
        int(pid) for pid in Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/children").read_text().split()
    }


def test_a_query_over_its_time_is_stopped(place: Path) -> None:
    session = located(place)
    session.sql("SELECT 1")
    since = time.monotonic()
    with pytest.raises(QueryStopped, match=r"0\.5 s, its time limit.*--timeout or SAEQL_TIMEOUT"):
        session.sql(DEAF, timeout=0.5)
    assert time.monotonic() - since < 10
    assert session.sql("SELECT count(*) AS n FROM problems").to_pylist() == [{"n": 3}]


def test_rows_that_never_end_are_over_their_time_too(place: Path) -> None:
    reader = ask(located(place).location, "SELECT hash(range) FROM range(100000000000)", timeout=0.5)
    with pytest.raises(QueryStopped, match="time limit"):
        for _ in reader:
            pass


def test_the_clock_stands_while_the_receiver_sleeps(place: Path) -> None:
    reader = ask(located(place).location, "FROM range(300000)", timeout=30)
    rows = reader.read_next_batch().num_rows
    time.sleep(0.3)
    assert rows + sum(batch.num_rows for batch in reader) == 300_000


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT damerau_levenshtein(repeat('a', 30000), repeat('b', 30000)) AS x",
        "SELECT length(list_reduce(list_transform(range(33), x -> 'ab'), (a, b) -> a || a)) AS x",
    ],
)
def test_a_query_over_its_memory_is_stopped(place: Path, sql: str) -> None:
    with pytest.raises(QueryStopped, match="SAEQL_MEMORY"):
        located(place).sql(sql, timeout=60)


def test_a_result_that_is_too_large_to_hold_is_refused_and_streams_all_the_same(place: Path) -> None:
    sql = "SELECT repeat('a', 20000) AS x FROM range(12000)"
    with pytest.raises(QueryStopped, match=r"larger than the 0\.2 GB of SAEQL_MEMORY"):
        located(place).sql(sql)
    assert sum(batch.num_rows for batch in ask(located(place).location, sql)) == 12_000
    with pytest.raises(QueryStopped, match="a row of the result has 40 MB"):
        ask(located(place).location, "SELECT repeat('a', 40000000) AS x").read_all()


def test_a_crash_is_an_error_that_says_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    location = located(place).location
    # Of a process that waits for a query nobody could tell by its number that it has this one.
    monkeypatch.setattr(door._Worker, "_idle", [])
    before = children()
    reader = ask(location, "SELECT hash(range) FROM range(100000000000)")
    reader.read_next_batch()
    os.kill(max(children() - before), signal.SIGSEGV)
    with pytest.raises(QueryStopped, match=r"SIGSEGV.*the engine crashed"):
        for _ in reader:
            pass


def test_an_interrupted_query_is_ended_at_once(place: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    session = located(place)
    session.sql("SELECT 1")
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    since = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            session.sql(DEAF)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - since < 5


def test_a_killed_caller_leaves_no_query_and_no_file(place: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from queries.terminal.output import Output
from queries.ask.door import ask
from catalog import Location
reader = ask(Location.parse({str(place)!r}), "SELECT hash(range) AS x FROM range(100000000000)")
reader.read_next_batch()
import os
print(Path(f"/proc/{{os.getpid()}}/task/{{os.getpid()}}/children").read_text())
sys.stdout.flush()
for _ in reader: pass
"""
    caller = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert caller.stdout
    child = int(caller.stdout.readline())
    caller.kill()
    caller.wait()
    caller.stdout.close()
    for _ in range(100):
        if not runs(child):
            break
        time.sleep(0.1)
    assert not runs(child)
    assert list((place / "cache").glob("spill*")) == []


def test_types_and_nulls_come_through_as_the_engine_gives_them(place: Path) -> None:
    from queries.ask.guard import execute

    sql = (
        "SELECT 1::TINYINT a, 2::UBIGINT b, 170141183460469231731687303715884105727::HUGEINT c, 1.5::DECIMAL(5, 2) d, "
        "'a'::ENUM('b', 'a') e, DATE '2020-01-01' f, TIME '12:00:00' g, TIMESTAMPTZ '2020-01-01 00:00:00+00' h, "
        "INTERVAL 3 MONTH i, '\\x00ab'::BLOB j, '101'::BIT k, NULL l, [1, NULL]::INT[2] m, MAP {1: 'x'} n, "
        "{'a': [{'b': 1}]} o, '{\"a\": 1}'::JSON p, 'é'::VARCHAR q, 1e300 r, 'nan'::FLOAT s, "
        "union_value(z := 1) t, TIMESTAMP_NS '2020-01-01 00:00:00.000000001' u FROM range(3)"
    )
    with Catalog(place, read_only=True) as catalog:
        here = execute(sql, catalog).read_all()
        there = ask(catalog.location, sql).read_all()
    assert there.schema == here.schema
    assert there.combine_chunks().equals(here.combine_chunks()) or str(there) == str(here)  # NaN is not NaN


def test_what_cannot_be_sent_or_bound_is_the_callers_mistake(place: Path) -> None:
    session = located(place)
    with pytest.raises(InputError, match="cannot be sent"):
        session.sql("SELECT ?", [threading.Lock()])
    with pytest.raises(SaeqlError):
        session.sql("SELECT ?", ["\ud800"])
    with pytest.raises(QueryRefused):
        session.sql("SELECT '\ud800'")
    hits = {"hits": pa.table({"x": [1, 2]})}
    assert ask(session.location, "SELECT sum(x) AS s FROM hits", tables=hits).read_all().to_pylist() == [{"s": 3}]


def test_a_catalog_that_was_made_anew_is_not_the_old_one(place: Path, tmp_path: Path) -> None:
    root, total = tmp_path / "again", [{"n": 3}, {"n": 13}]
    for turn in range(2):
        shutil.copytree(place, root)
        assert Session(root).sql("SELECT sum(count) AS n FROM problems").to_pylist() == total[:1]
        with Catalog(root) as catalog, catalog.write("more") as tx:
            tx.insert("problems", [{"stage": "s", "subject": "t", "reason": "r", "count": 10}])
        assert Session(root).sql("SELECT sum(count) AS n FROM problems").to_pylist() == total[1:]
        root.rename(tmp_path / f"gone{turn}")


def test_the_limits_are_read_from_the_argument_then_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAEQL_TIMEOUT", raising=False)
    assert timeout(None) == 60
    monkeypatch.setenv("SAEQL_TIMEOUT", "5")
    assert timeout(None) == 5
    assert timeout(7) == 7
    assert timeout(0) == float("inf")
    for wrong in ("soon", "-1", "nan"):
        monkeypatch.setenv("SAEQL_TIMEOUT", wrong)
        with pytest.raises(InputError, match=f"SAEQL_TIMEOUT is '{wrong}'"):
            timeout(None)
    with pytest.raises(InputError, match="the time limit is -1"):
        timeout(-1)
    assert in_bytes("2.0 GiB") == 2 * 2**30
    assert process_bytes(500_000_000, 2) == 750_000_000 + 640 * 2**20 + 2 * 16 * 2**20
