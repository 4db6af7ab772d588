"""Queries that would not end, or would take all memory: seconds until `saeql sql` left, and its peak memory.

    python tests/benchmarks/bombs.py [--json] [--wait 3] [--memory 500MB] [NAME...]

Each query runs alone as `saeql sql --timeout 60` on an empty catalog. When its processes have used `--wait` seconds of
CPU, or after 60 s, it gets one SIGINT, as from Ctrl-C. `left` counts from that signal, or is 0 for a query that had
ended before; the memory is the sum of resident pages over the processes of the command, looked at every 20 ms. Exit
code 1 if one took more than a second to leave, left a process or a file behind, or held more than
`limits.process_bytes` and 400 MB for the command itself.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))

_DEEP = "repeat('[', 200000) || repeat(']', 200000)"
_MANY = "range(1000000) AS a, range(1000000) AS b"
_DOUBLE = "list_reduce(list_transform(range(33), x -> 'ab'), (a, b) -> a || a)"
BOMBS = {
    "repeat": "SELECT repeat('a', 4000000000) AS x",
    "repeat of repeat": "SELECT length(repeat(repeat('a', 100000), 100000)) AS x",
    "repeat of a list": "SELECT len(repeat([1, 2, 3], 1000000000)) AS x",
    "repeat by row": "SELECT sum(length(repeat('a', 100000000 + range))) AS x FROM range(1000)",
    "lpad": "SELECT length(lpad('a', 2000000000, 'b')) AS x",
    "rpad": "SELECT length(rpad('é', 2000000000, 'é')) AS x",
    "replace": "SELECT length(replace(repeat('a', 1000000), 'a', repeat('b', 100000))) AS x",
    "regexp_replace": "SELECT length(regexp_replace(repeat('a', 1000000), 'a', repeat('b', 100000), 'g')) AS x",
    "regexp_replace groups": "SELECT sum(length(regexp_replace(repeat('ab', 500000 + range), '(.*?)b', "
    "'\\1\\1', 'g'))) AS x FROM range(100000)",
    "regexp_extract_all": "SELECT sum(len(regexp_extract_all(repeat('a', 1000000 + range), '.'))) AS x "
    "FROM range(100000)",
    "regexp repetition": "SELECT count(*) AS x FROM range(100000) WHERE "
    "regexp_matches(repeat('a', 1000000 + range), '(a{0,900}){0,1}c')",
    "printf": "SELECT length(printf('%2000000000d', 1)) AS x",
    "format": "SELECT length(format('{:2000000000}', 1)) AS x",
    "concat": "SELECT length(concat(repeat('a', 1000000000), repeat('b', 1000000000), repeat('c', 1000000000))) AS x",
    "string_agg": "SELECT length(string_agg(repeat('a', 10000), ',')) AS x FROM range(1000000)",
    "split": "SELECT len(string_split(repeat('a,', 200000000), ',')) AS x",
    "upper": "SELECT sum(length(upper(repeat('ß', 100000000)))) AS x FROM range(1000)",
    "reverse": "SELECT sum(length(reverse(repeat('é', 50000000)))) AS x FROM range(1000)",
    "hex": "SELECT length(hex(hex(hex(hex(repeat('a', 100000000)))))) AS x",
    "base64": "SELECT length(to_base64(to_base64(repeat('a', 500000000)::BLOB)::BLOB)) AS x",
    "url_encode": "SELECT length(url_encode(url_encode(url_encode(repeat('é', 50000000))))) AS x",
    "bitstring": "SELECT bit_count(bitstring('1', 2000000000)) AS x",
    "lambda doubles text": f"SELECT length({_DOUBLE}) AS x",
    "list_reduce": "SELECT list_reduce(range(100000000), (a, b) -> (a * b) % 7) AS x",
    "list_reduce doubles a list": "SELECT len(list_reduce([[1]] || list_transform(range(40), x -> [1]), "
    "(a, b) -> a || a)) AS x",
    "nested lambdas": "SELECT list_sum(list_transform(range(100000), x -> list_sum(list_transform(range(100000), "
    "y -> x * y)))) AS x",
    "list_filter": "SELECT len(list_filter(range(1000000000), x -> x % 2 = 0)) AS x",
    "range as a list": "SELECT len(range(10000000000)) AS x",
    "range by row": "SELECT sum(len(range(10000000 + r.range))) AS x FROM range(10000) AS r",
    "generate_series": "SELECT len(generate_series(TIMESTAMP '0001-01-01', TIMESTAMP '9999-01-01', INTERVAL 1 SECOND)) "
    "AS x",
    "list_resize": "SELECT len(list_resize([1], 2000000000, 7)) AS x",
    "list of lists": "SELECT len(flatten([range(50000000), range(50000000), range(50000000), range(50000000)])) AS x",
    "list_sort": "SELECT list_sort(list_transform(range(100000000), x -> hash(x)))[1] AS x",
    "list_distinct": "SELECT len(list_distinct(list_transform(range(100000000), x -> hash(x)))) AS x",
    "list_aggregate": "SELECT list_aggregate(range(200000000), 'mode') AS x",
    "map": "SELECT cardinality(map(range(100000000), range(100000000))) AS x",
    "map_from_entries": "SELECT cardinality(map_from_entries(list_transform(range(50000000), "
    "x -> {'k': x, 'v': x}))) AS x",
    "histogram": "SELECT cardinality(histogram(hash(range))) AS x FROM range(1000000000)",
    "to_json": "SELECT length(to_json(range(300000000))::VARCHAR) AS x",
    "json_group_array": "SELECT length(json_group_array(repeat('a', 1000))) AS x FROM range(100000000)",
    "json_tree": f"SELECT count(*) AS x FROM json_tree({_DEEP})",
    "json_pretty": f"SELECT length(json_pretty({_DEEP})) AS x",
    "damerau_levenshtein": "SELECT damerau_levenshtein(repeat('a', 30000), repeat('b', 30000)) AS x",
    "levenshtein": "SELECT sum(levenshtein(repeat('a', 100000), repeat('b', 100000 + range))) AS x FROM range(1000)",
    "jaro": "SELECT sum(jaro_similarity(repeat('ab', 1000000), repeat('ba', 1000000 + range))) AS x FROM range(1000)",
    "jaccard": "SELECT sum(jaccard(repeat('ab', 50000000), repeat('ba', 50000000 + range))) AS x FROM range(1000)",
    "md5": "SELECT max(md5(repeat('a', 500000000 + range))) AS x FROM range(1000)",
    "sha256": "SELECT max(sha256(repeat(range::VARCHAR, 1000000))) AS x FROM range(1000000)",
    "strip_accents": "SELECT sum(length(strip_accents(repeat('é', 50000000)))) AS x FROM range(1000)",
    "like": "SELECT repeat('a', 1000000) || range::VARCHAR LIKE repeat('%a', 5000) || 'b' AS x FROM range(100000)",
    "factorial": "SELECT sum(factorial((range % 30)::INT)) AS x FROM range(10000000000)",
    "cross join": f"SELECT sum(hash(a.range + b.range)) AS x FROM {_MANY}",
    "cross join that finds nothing": f"SELECT a.range AS x FROM {_MANY} WHERE hash(a.range + b.range) = 0",
    "rows without end": "SELECT hash(range) AS x FROM range(1000000000000)",
    "wide rows without end": "SELECT repeat('a', 100000) AS x FROM range(1000000000)",
    "recursive CTE": "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) AS x FROM t",
    "recursive CTE that doubles": "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT unnest([n, n]) FROM t) "
    "SELECT count(*) AS x FROM t",
    "CTEs that double": "WITH a0 AS (SELECT 1 AS x)"
    + "".join(f", a{i + 1} AS (FROM a{i} UNION ALL FROM a{i})" for i in range(40))
    + " SELECT sum(hash(x)) AS x FROM a40",
    "order": "SELECT hash(range) AS x FROM range(10000000000) ORDER BY x",
    "distinct": "SELECT count(DISTINCT hash(range)) AS x FROM range(10000000000)",
    "group by many": "SELECT hash(range) AS h, count(*) AS x FROM range(10000000000) GROUP BY h",
    "window": "SELECT max(r) AS x FROM (SELECT median(range) OVER (ORDER BY hash(range)) AS r FROM range(1000000000))",
    "cube": "SELECT count(*) AS x FROM range(100000) AS t(a) GROUP BY CUBE "
    f"({', '.join(f'a % {n}' for n in range(2, 11))})",
    "quantile": "SELECT quantile_cont(hash(range), 0.5) AS x FROM range(10000000000)",
    "list by group": "SELECT range % 10 AS g, list(range) AS x FROM range(10000000000) GROUP BY g",
    "PIVOT": "PIVOT (SELECT range AS r FROM range(10000000000)) ON r % 7 USING sum(r)",
    "many conditions": f"SELECT {' AND '.join(['1 = 1'] * 19000)} AS x",
    "many columns": f"SELECT {', '.join(['1'] * 60000)}",
    "many unions": " UNION ALL ".join(["SELECT 1 AS x"] * 5000),
}


def _tree(root: int) -> list[int]:
    """The process and those that it or its threads started."""
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                todo += map(int, (thread / "children").read_text().split())
    return found


def _resident(pids: list[int]) -> int:
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return total * os.sysconf("SC_PAGE_SIZE")


def _alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def _worked(pids: list[int]) -> float:
    """Seconds of CPU that the processes have used."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError, IndexError):
            ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(sql: str, catalog: Path, wait: float, memory: str) -> dict[str, Any]:
    """Run one query as a command, interrupt it, and say how it went."""
    environment = os.environ | {"SAEQL_MEMORY": memory, "SAEQL_CATALOG": str(catalog), "PYTHONPATH": str(REPOSITORY)}
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from queries.cli.main import main; main()"
    )
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", code, "sql", "--timeout", "60", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        cwd="/",
        text=True,
    )
    assert process.stdin
    assert process.stderr
    process.stdin.write(sql)
    process.stdin.close()
    peak, asked, pids = 0, 0.0, [process.pid]
    while process.poll() is None:
        pids = sorted({*pids, *_tree(process.pid)})
        peak = max(peak, _resident(pids))
        now = time.monotonic()
        if not asked and (_worked(pids) > wait or now - started > 60):
            process.send_signal(signal.SIGINT)
            asked = now
        if asked and now - asked > 20:
            process.kill()
        time.sleep(0.02)
    ended = time.monotonic()
    said = process.stderr.read().strip().splitlines()
    # The system may still be giving back the memory of a killed process.
    for _ in range(100):
        if not any(_alive(pid) for pid in pids):
            break
        time.sleep(0.02)
    return {
        "seconds": round(ended - started, 2),
        "left": round(ended - asked, 2) if asked else 0.0,
        "interrupted": bool(asked),
        "peak_mb": round(peak / 1e6),
        "exit": process.returncode,
        "orphans": sum(_alive(pid) for pid in pids),
        "said": said[-1][:150] if said else "",
    }


def main() -> int:
    """Run the bombs; 1 if one of them broke a bound."""
    from catalog import Catalog
    from queries.ask.limits import in_bytes, process_bytes

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only those whose name contains it")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--wait", type=float, default=3.0, metavar="SECONDS", help="of CPU, until Ctrl-C")
    parser.add_argument("--memory", default="500MB", help="SAEQL_MEMORY")
    given = parser.parse_args()
    chosen = {k: v for k, v in BOMBS.items() if not given.names or any(name in k for name in given.names)}
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "catalog"
        with Catalog.create(place) as catalog:
            catalog.connection.execute(f"SET memory_limit = '{given.memory}'")
            engine = in_bytes(str(catalog.value("SELECT current_setting('memory_limit')")))
        bound = process_bytes(engine, os.cpu_count() or 1) + 400_000_000
        for name, sql in chosen.items():
            results[name] = found = measure(sql, place, given.wait, given.memory)
            if not given.json:
                line = f"{name:30} {found['seconds']:6.2f} s, left {found['left']:5.2f} s, {found['peak_mb']:5} MB"
                sys.stdout.write(f"{line}, exit {found['exit']:3}  {found['said']}\n")
                sys.stdout.flush()
        leftovers = [str(path) for path in (place / "cache").glob("spill*")]
    late = sorted(name for name, found in results.items() if found["left"] > 1)
    large = sorted(name for name, found in results.items() if found["peak_mb"] * 1e6 > bound)
    orphans = sorted(name for name, found in results.items() if found["orphans"])
    summary = {
        "bombs": len(results),
        "slowest_to_leave": max((found["left"] for found in results.values()), default=0.0),
        "largest_mb": max((found["peak_mb"] for found in results.values()), default=0),
        "bound_mb": round(bound / 1e6),
        "late": late,
        "large": large,
        "orphans": orphans,
        "leftovers": leftovers,
    }
    sys.stdout.write(json.dumps({"summary": summary, "results": results} if given.json else summary) + "\n")
    return 1 if late or large or orphans or leftovers else 0


if __name__ == "__main__":
    sys.exit(main())
