"""Time of `diff` between two snapshots of a table of a million rows that differ in a thousand.

Prints one JSON object with --json. Run: python tests/benchmarks/refresh_diff.py
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from catalog import Catalog
from catalog.store.scratch import Relation
from catalog.versions.diff import diff, diff_rows


def diff_seconds(rows: int = 1_000_000, differing: int = 1_000, repeats: int = 3) -> dict[str, object]:
    """Build the table in a temporary catalog, change `differing` of its rows by key, and time both forms of diff.

    A tenth of the differing keys is new, a tenth is gone, the others have another value, all over the table.
    """
    with tempfile.TemporaryDirectory() as folder, Catalog.create(Path(folder)) as catalog:
        columns = [row[:2] for row in catalog.rows("DESCRIBE lake.separation")]
        values = ", ".join(
            {"sae": "'s'", "concept": "'c'", "feature": "i"}.get(name, f"CAST(i % 100 AS {kind})")
            for name, kind in columns
        )
        with catalog.write("fill") as tx:
            tx.execute(f"INSERT INTO lake.separation SELECT {values} FROM range(?) AS t(i)", [rows])
        before = catalog.snapshot()
        catalog.connection.execute("CREATE TEMP TABLE fresh AS FROM lake.separation")
        step, part = rows // differing, differing // 10
        catalog.connection.execute(
            "UPDATE fresh SET separation = separation + 1 WHERE feature % ? = 1 AND feature // ? >= ?",
            [step, step, 2 * part],
        )
        catalog.connection.execute("DELETE FROM fresh WHERE feature % ? = 2 AND feature // ? < ?", [step, step, part])
        catalog.connection.execute(
            "INSERT INTO fresh SELECT * REPLACE (feature + ? AS feature) FROM fresh WHERE feature BETWEEN 10 AND ?",
            [rows, part + 9],
        )
        with catalog.write("change") as tx:
            tx.replace("separation", Relation("fresh"), ["sae", "concept", "feature"])
        after = catalog.snapshot()
        tables, keys = [], []
        for _ in range(repeats):
            begun = time.perf_counter()
            (counted,) = diff(catalog, before, after)
            middle = time.perf_counter()
            found = diff_rows(catalog, before, after, "separation")
            tables.append(middle - begun)
            keys.append(time.perf_counter() - middle)
        command = [sys.executable, "-m", "queries.cli.main", "-C", folder, "diff", str(before), str(after)]
        begun = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        whole = time.perf_counter() - begun
        return {
            "rows": rows,
            "added": counted.added,
            "removed": counted.removed,
            "changed": counted.changed,
            "keys_found": len(found.rows),
            "diff_seconds": round(max(tables), 3),
            "diff_table_seconds": round(max(keys), 3),
            "command_seconds": round(whole, 3),
            "runs": repeats,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    figures = diff_seconds(arguments.rows)
    if arguments.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    for name, value in figures.items():
        sys.stdout.write(f"{name:>20}  {value}\n")


if __name__ == "__main__":
    main()
