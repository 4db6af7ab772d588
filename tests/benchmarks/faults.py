"""Refreshes that are killed with SIGKILL at random moments, and what the next one makes of what they left.

    python tests/benchmarks/faults.py [--kills 50] [--seed N] [--json]

- The catalog is that of tests/queries/disturbed.py: two shards of text, refreshed, then a third shard and another SAE,
  so that every kind of step has work: SQL in whole and in parts, vectors, and labels and judgements that an HTTP server
  on this machine is asked for. Once it is refreshed undisturbed: that is what is expected.
- A round takes a copy and kills its refreshes, each at a moment drawn evenly from the time that the undisturbed one
  took, until one of them ends by itself. Rounds go on until there were `--kills`.
- After each kill no request was sent whose answer was stored before, and the doctor finds no error; a key that is there
  twice would be one. After each round every table and every vector is as expected, and what `doctor --fix` collects
  is gone.
- `calls_beyond` counts the answers that were lost because the process died before it stored them.
"""

import json
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))

from catalog import Catalog  # noqa: E402
from catalog.doctor.examine import examine  # noqa: E402
from catalog.doctor.finding import Finding  # noqa: E402
from catalog.versions.log import snapshots  # noqa: E402
from tests.queries import disturbed  # noqa: E402
from tests.queries.disturbed import Contents, Killer, contents, copy, differences  # noqa: E402
from tests.scoring.chat_server import Endpoint, answer, serving  # noqa: E402


def examined(root: Path, *, fix: bool = False) -> tuple[list[Finding], list[Finding]]:
    """What the doctor finds to be broken, and what a killed process left behind."""
    with Catalog(root) as catalog:
        findings = examine(catalog, fix=fix, age=timedelta(0))
    left = [f for f in findings if f.severity == "warning" and f.check in ("orphans", "vector versions")]
    return [f for f in findings if f.severity == "error"], left


def reached(root: Path, since: int) -> str:
    """The last step that a refresh had committed."""
    with Catalog(root, read_only=True) as catalog:
        found = [said for said in snapshots(catalog) if said["snapshot"] > since]
    return str(found[0]["message"]) if found else "nothing"


def prepare(folder: Path, killer: Killer) -> Path:
    """The catalog with work for every kind of step."""
    root = folder / "grown"
    disturbed.build(root)
    if killer.refresh(root)[0]:
        raise click.ClickException("the first refresh failed")
    with Catalog(root) as catalog:
        disturbed.add_text(catalog, disturbed.MORE[0], 2)
    return root


def play(
    root: Path, killer: Killer, server: Endpoint, seconds: float, chance: random.Random, kills: int
) -> Counter[str]:
    """One round: refresh and kill until a refresh ends, or `kills` are reached; then one that is left alone."""
    found: Counter[str] = Counter()
    with Catalog(root, read_only=True) as catalog:
        begun = catalog.snapshot()
    while True:
        left_alone = found["kills"] == kills
        before = disturbed.stored(root)
        server.requests.clear()
        code, _ = killer.refresh(root, **({} if left_alone else {"after": chance.uniform(0, seconds)}))
        sent = disturbed.sent(server.requests)
        found["calls"] += len(sent)
        found["paid_again"] += sum(request in before for request in sent)
        if code == 0:
            return found
        if code != -signal.SIGKILL:
            raise click.ClickException(f"a refresh ended with {code}")
        found["kills"] += 1
        found[f"after {reached(root, begun)}"] += 1
        errors, left = examined(root)
        found["errors"] += len(errors)
        found["left_behind"] += bool(left)


def finish(root: Path, expected: Contents, found: Counter[str]) -> list[str]:
    """Collect what the round left behind; the tables that are not as expected."""
    examined(root, fix=True)
    errors, left = examined(root)
    found["errors"] += len(errors)
    found["not_collected"] += len(left)
    return differences(contents(root), expected)


@click.command()
@click.option("--kills", default=50, show_default=True)
@click.option("--seed", type=int, help="Of the moments; a new one by default, which is printed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(kills: int, seed: int | None, as_json: bool) -> None:
    """Measure, and print lines or one JSON object. Exit with 1 if anything is not as expected."""
    os.environ.update(disturbed.ENVIRONMENT)
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    chance, found, rounds = random.Random(seed), Counter[str](), 0
    differing: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, serving() as server, Killer(server.url) as killer:
        server.answer = answer
        grown = prepare(Path(folder), killer)
        server.requests.clear()
        undisturbed = copy(grown, Path(folder, "undisturbed"))
        _, seconds = killer.refresh(undisturbed)
        expected, needed = contents(undisturbed), len(server.requests)
        while found["kills"] < kills:
            root = copy(grown, Path(folder, f"round{rounds}"))
            one = play(root, killer, server, seconds, chance, kills - found["kills"])
            differing.update(finish(root, expected, one))
            one["calls_beyond"] = one.pop("calls") - needed
            found.update(one)
            rounds += 1
    results: dict[str, Any] = {"kills": found["kills"], "seed": seed, "rounds": rounds}
    results |= {"undisturbed_s": round(seconds, 2), "calls_of_a_round": needed}
    for name in ("calls_beyond", "paid_again", "errors", "left_behind", "not_collected"):
        results[name] = found[name]
    results["tables_that_differ"] = dict(differing)
    results["killed"] = {name: n for name, n in found.most_common() if name.startswith("after ")}
    if as_json:
        click.echo(json.dumps(results))
    else:
        for name, value in results.items():
            click.echo(f"{name:20} {value}")
    if differing or found["paid_again"] or found["errors"] or found["not_collected"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
