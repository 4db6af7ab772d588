"""Commands that bring results up to date: plan and refresh."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from queries.cli.lines import show_lines
from queries.cli.numbers import NUMBER
from queries.cli.place import catalog_path
from queries.output import Output, output_options

if TYPE_CHECKING:
    from catalog import Catalog
    from catalog.store.location import Location
    from queries.context import Options
    from queries.engine import StepResult

_WORK = 3


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What plan and refresh have in common."""
    for option in (
        click.option(
            "--study",
            "study_file",
            type=click.Path(path_type=Path),
            help="Take concepts, explainers, scorers and step parameters from this study file first.",
        ),
        click.option("--where", help="Only keys for which this holds, such as 'feature < 100'."),
        click.option("--keep-labels", is_flag=True, help="Keep labels whose examples changed; score them anew."),
        click.option("--retry", is_flag=True, help="Ask again for labels and judgements that have a problem."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("steps", nargs=-1, metavar="[STEP]...")
@_options
@click.option(
    "--explain",
    metavar="STEP",
    help="The query of one step, what it reads, where its columns come from, and the keys that are stale.",
)
@click.option("--exit-code", is_flag=True, help="Exit with 3 if there is work.")
@output_options
@click.pass_context
def plan(
    context: click.Context,
    steps: tuple[str, ...],
    study_file: Path | None,
    where: str | None,
    keep_labels: bool,
    retry: bool,
    explain: str | None,
    exit_code: bool,
    output: Output,
) -> None:
    """What `refresh` would do: new, changed and gone rows of each step, why, and the calls and money it takes.

    Nothing is written. Counts that depend on labels which nobody has seen yet are the most there can be.
    """
    from catalog import Catalog
    from queries.cli.progress import say
    from queries.planning import explained, explanation_text, left_out, plan_rows, planned
    from queries.terminal import visible

    with Catalog(catalog_path(context), read_only=True) as catalog:
        options = _read(catalog, study_file, where, keep_labels, retry)
        results = planned(catalog, (explain,) if explain else steps, options, study_file)
        if explain:
            said = explained(catalog, explain, results)
            if output.asked:
                output.show([said])
            else:
                click.echo("\n".join(visible(line) for line in explanation_text(said).splitlines()))
        else:
            rows = plan_rows(results, study_file)
            paid = ("calls", "prompt_tokens", "completion_tokens", "cost") if any(row["calls"] for row in rows) else ()
            if rows or not output.drawn:
                columns = ("step", "new", "changed", "gone", "unchanged", *paid, "why")
                show_lines(
                    rows, columns, output, ("gone", *paid), ("completion_tokens", "prompt_tokens", "unchanged", "why")
                )
            _say_totals(results, rows)
            for line in left_out(catalog, study_file):
                say(line)
            if all(result.state == "current" for result in results):
                say(f"nothing to do: {len(results)} steps are up to date")
    if exit_code and any(result.state not in ("current",) for result in results):
        context.exit(_WORK)


@click.command()
@click.argument("steps", nargs=-1, metavar="[STEP]...")
@_options
@click.option("--max-calls", type=click.IntRange(0), help="Stop paying after so many calls.")
@click.option("--max-cost", type=NUMBER, help="Stop paying before this is passed, in the study's prices.")
@click.option("--jobs", type=click.IntRange(1), help="Requests at a time, instead of each configuration's own.")
@click.option("--dry-run", is_flag=True, help="Only show the plan.")
@click.option(
    "--allow-endpoint",
    "endpoints",
    multiple=True,
    metavar="URL",
    help="Let catalogs send text and OPENAI_API_KEY to this host, from now on, on this machine.",
)
@click.option("--wait", default=0.0, type=NUMBER, show_default=True, help="Seconds to wait for another writer.")
@output_options
@click.pass_context
def refresh(
    context: click.Context,
    steps: tuple[str, ...],
    study_file: Path | None,
    where: str | None,
    keep_labels: bool,
    retry: bool,
    max_calls: int | None,
    max_cost: float | None,
    jobs: int | None,
    dry_run: bool,
    endpoints: tuple[str, ...],
    wait: float,
    output: Output,
) -> None:
    """Recompute what is stale: all steps, or the named ones with those that they read from.

    Text and key go to no endpoint that a catalog names before you allowed it: by a study file that you pass (--study,
    `saeql ingest FILE`) or by --allow-endpoint.

    With --json, --csv or --parquet the steps that had work are printed as rows.
    """
    allow(endpoints)
    if dry_run:
        names = {"study_file": study_file, "where": where, "keep_labels": keep_labels, "retry": retry}
        context.invoke(plan, steps=steps, **names, explain=None, exit_code=False)
        return

    def chosen(catalog: "Catalog") -> "Options":
        return _read(catalog, study_file, where, keep_labels, retry, max_calls, max_cost, jobs)

    results = run_refresh(catalog_path(context), steps, wait, chosen, study_file)
    if output.asked:
        from queries.planning import refresh_rows

        output.show(refresh_rows(results))
    if any(result.state in ("failed", "waiting") for result in results):
        context.exit(1)


def run_refresh(
    root: "Path | Location",
    steps: tuple[str, ...] = (),
    wait: float = 0.0,
    chosen: "Callable[[Catalog], Options] | None" = None,
    study_file: Path | None = None,
) -> "list[StepResult]":
    """Refresh with progress on stderr; without `chosen`, with the parameters of the catalog's study."""
    from catalog import Catalog
    from queries.cli.progress import Bars
    from queries.context import Options, settings_of
    from queries.engine import Listener, refresh
    from queries.planning import configure, left_out

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
            bars.say(f"left by a limit, --where or --keep-labels: {left} keys; `saeql plan` shows them")
    return results


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
    from queries.cli.progress import say
    from queries.terminal import visible

    if name is not None:
        plain = "; it is plain http, which others can read on the way" if name.startswith("http:") else ""
        said = f"{name} may get text and OPENAI_API_KEY from now on ({why}; saeql's allowed.json keeps the list){plain}"
        say(visible(said))


def _read(
    catalog: "Catalog",
    study_file: Path | None,
    where: str | None,
    keep_labels: bool,
    retry: bool,
    max_calls: int | None = None,
    max_cost: float | None = None,
    jobs: int | None = None,
) -> "Options":
    """The flags as options of a refresh. Raises InputError for a condition that cannot be."""
    from catalog.study.file import Study
    from queries.context import Options, settings_of
    from queries.context import where as condition

    return Options(
        settings=dict(Study.load(study_file).steps) if study_file else settings_of(catalog),
        retry=retry,
        keep=frozenset({"labels"} if keep_labels else ()),
        where=condition(where, catalog) if where else None,
        max_calls=max_calls,
        max_cost=max_cost,
        jobs=jobs,
    )


def _say_totals(results: "list[StepResult]", rows: list[dict[str, Any]]) -> None:
    from queries.cli.progress import say
    from queries.terminal import visible

    estimates = [result.estimate for result in results if result.estimate and result.state != "current"]
    if any(estimate.calls or estimate.stored for estimate in estimates):
        say(
            f"{sum(e.calls for e in estimates)} calls to pay for, about "
            f"{sum(e.prompt_tokens + e.completion_tokens for e in estimates)} tokens and "
            f"{sum(e.cost for e in estimates):.4f}; {sum(e.stored for e in estimates)} answers are there already"
        )
    for row in rows:
        if row["asks"]:
            say(f"{row['step']} asks {visible(row['asks'])}")
