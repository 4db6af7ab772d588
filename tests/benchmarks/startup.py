"""How long a person waits for a command that starts cold: sql, show, search, and the demo when nothing is to be done.

    python tests/benchmarks/startup.py DEMO [--repeat 9] [--demo-repeat 3] [--json]

DEMO is a folder that `saeql demo DEMO` has filled. Commands take turns with `python -c pass`, and each is given as a
median and as a multiple of that: on a busy machine the multiple says more.
"""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click

REPOSITORY = Path(__file__).parents[2]
_PROGRAM = "import sys; from queries.cli.start import main; main()"


def seconds(arguments: list[str]) -> float:
    """Wall-clock time of one Python process."""
    since = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"{arguments} failed: {done.stderr[-500:]}")
    return time.perf_counter() - since


def measured(commands: dict[str, list[str]], repeat: int) -> dict[str, list[float]]:
    """Times of each command, all of them in turns."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeat):
        for name, arguments in commands.items():
            times[name].append(seconds(arguments))
    return times


@click.command()
@click.argument("demo", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--repeat", default=9, show_default=True)
@click.option("--demo-repeat", default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(demo: Path, repeat: int, demo_repeat: int, as_json: bool) -> None:
    """Measure, and print a line for each command."""
    place = str(demo.absolute())
    here = ["-c", _PROGRAM, "-C", place]
    bare = {"python -c pass": ["-c", "pass"]}
    commands = {
        **bare,
        "saeql --version": ["-c", _PROGRAM, "--version"],
        "saeql sql 'SELECT 1'": [*here, "sql", "SELECT 1"],
        "saeql show 64": [*here, "show", "64"],
    }
    # The first of each reads files from the disk, and the demo's first may have work to do.
    again = {**bare, "saeql search": [*here, "search", "linear algebra"], "saeql demo": ["-c", _PROGRAM, "demo", place]}
    for arguments in (*commands.values(), *again.values()):
        seconds(arguments)
    times = measured(commands, repeat)
    for name, more in measured(again, demo_repeat).items():
        times[name] = times.get(name, []) + more
    base = statistics.median(times["python -c pass"])
    rows = [
        {
            "command": name,
            "seconds": round(statistics.median(taken), 3),
            "least": round(min(taken), 3),
            "times_bare": round(statistics.median(taken) / base, 1),
            "runs": len(taken),
        }
        for name, taken in times.items()
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        click.echo(
            f"{row['command']:<22} {row['seconds']:7.3f} s  least {row['least']:7.3f} s  "
            f"{row['times_bare']:6.1f} x bare  ({row['runs']} runs)"
        )


if __name__ == "__main__":
    main()
