"""Runs ingest and refresh with their progress on the terminal."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from catalog import Catalog
    from catalog.store.location import Location
    from catalog.study.file import Study
    from ingest.pipeline import IngestReport
    from queries.refresh.engine import StepResult
    from queries.refresh.options import Options
    from queries.terminal.progress import Bars

STUDY = "study.toml"
FEW = 3
"""Problems of one kind that have a line each."""


def run_ingest(root: "Path | Location", study: "Study", wait: float = 0.0) -> None:
    """Ingest with progress on stderr; at the end, say what this run left out, and how much earlier ones did."""
    from catalog import Catalog
    from ingest.receipt import unchanged
    from queries.terminal.progress import Bars

    with Catalog.create(root) as catalog, Bars() as bars:
        before = set(catalog.rows("FROM problems"))
        report = unchanged(catalog, study, wait) or _ingested(catalog, study, bars, wait)
        for corpus in report.corpora:
            bars.say(
                f"{corpus.corpus}: {corpus.documents} documents, {corpus.tokens} tokens "
                f"({corpus.added} documents new, {corpus.duplicates} duplicates and {corpus.empty} empty left out)"
            )
        done = report.harvest
        bars.say(f"harvest: {done.shards} shards new, {done.skipped} whole; {done.activations} activations new")
        problems = catalog.rows("FROM problems ORDER BY ALL")
        for line in told_problems([row for row in problems if row not in before]):
            bars.say(line)
        if earlier := sum(row in before for row in problems):
            bars.say(f'left out earlier: {earlier}; `saeql sql "FROM problems"` lists them')


def told_problems(problems: list[tuple[str, str, str, int]]) -> list[str]:
    """Lines about (stage, subject, reason, count) rows; more than FEW subjects with one reason share a line.

    >>> told_problems([("text", name, "empty", 2) for name in "abcd"])
    ['left out (text): empty (8), in 4 places, such as a, b, c; `saeql sql "FROM problems"` lists them']
    """
    alike: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for stage, subject, reason, count in problems:
        alike.setdefault((stage, reason), []).append((subject, count))
    lines = []
    for (stage, reason), found in alike.items():
        if len(found) <= FEW:
            lines += [f"left out ({stage}): {subject}: {reason} ({count})" for subject, count in found]
            continue
        total, names = sum(count for _, count in found), ", ".join(subject for subject, _ in found[:FEW])
        told = f"left out ({stage}): {reason} ({total}), in {len(found)} places, such as {names}"
        lines.append(f'{told}; `saeql sql "FROM problems"` lists them')
    return lines


def _ingested(catalog: "Catalog", study: "Study", bars: "Bars", wait: float) -> "IngestReport":
    # Torch and transformers: seconds, which an ingest that has nothing to do does without.
    from ingest.pipeline import ingest_study

    return ingest_study(catalog, study, bars.show, wait)


def run_refresh(
    root: "Path | Location",
    steps: tuple[str, ...] = (),
    wait: float = 0.0,
    chosen: "Callable[[Catalog], Options] | None" = None,
    study_file: Path | None = None,
) -> "list[StepResult]":
    """Refresh with progress on stderr; without `chosen`, with the parameters of the catalog's study."""
    from catalog import Catalog
    from queries.refresh.engine import Listener, refresh
    from queries.refresh.explain import configure, left_out
    from queries.refresh.options import Options, settings_of
    from queries.terminal.progress import Bars

    with Catalog.writable(root) as catalog, Bars() as bars:
        if study_file is not None:
            allow_study(study_file)
            configure(catalog, study_file, wait)
        options = chosen(catalog) if chosen else Options(settings=settings_of(catalog))
        results = refresh(catalog, steps, options, Listener(bars.step, bars.advance, bars.result), wait)
        said = {
            "done": "refreshed",
            "current": "up to date",
            "part": "done in part",
            "failed": "failed",
            "waiting": "not run",
        }
        counts = {state: sum(result.state == state for result in results) for state in said}
        bars.say("steps: " + ", ".join(f"{n} {said[state]}" for state, n in counts.items() if n))
        for line in left_out(catalog):
            bars.say(line)
        if any(result.state == "part" for result in results):
            left = sum(result.left for result in results)
            keys = f" ({left} keys)" if left else ""
            bars.say(f"done in part because of {_limits(options)}: `saeql plan` shows what is left{keys}")
    return results


def _limits(options: "Options") -> str:
    """The options that leave stale keys as they are, as they were given."""
    said = {
        "--where": options.where.sql if options.where else None,
        "--max-calls": options.max_calls,
        "--max-cost": options.max_cost,
        "--keep-labels": "" if options.keep else None,
    }
    return " and ".join(f"{flag} {value}".rstrip() for flag, value in said.items() if value is not None) or "a limit"


def allow(endpoints: tuple[str, ...]) -> None:
    """Allow these endpoints on this machine, and say so."""
    from catalog.trust.endpoints import allow_endpoint

    for url in endpoints:
        _say_allowed(allow_endpoint(url), "--allow-endpoint")


def allow_study(path: Path) -> None:
    """Allow the endpoints that a study file names, and say so: only for a file that the user has passed."""
    from catalog.study.file import Study
    from catalog.trust.endpoints import allow_named

    for name in allow_named(Study.load(path)):
        _say_allowed(name, str(path))


def _say_allowed(name: str | None, why: str) -> None:
    from queries.terminal.control_characters import visible
    from queries.terminal.progress import say

    if name is not None:
        plain = "; it is plain http, which others can read on the way" if name.startswith("http:") else ""
        said = f"{name} may get text and OPENAI_API_KEY from now on ({why}; saeql's allowed.json keeps the list){plain}"
        say(visible(said))
