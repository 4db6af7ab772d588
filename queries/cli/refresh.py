"""Commands that bring results up to date: plan and refresh."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from queries.cli.numbers import NUMBER
from queries.cli.place import catalog_path
from queries.terminal.lines import show_lines
from queries.terminal.output import Output, output_options
from queries.terminal.work import allow, run_refresh

if TYPE_CHECKING:
    from catalog import Catalog
    from queries.refresh.engine import StepResult
    from queries.refresh.options import Options

_WORK = 3


@dataclass(frozen=True)
class _Flags:
    """What a person asks of a plan or a refresh."""

    study_file: Path | None
    where: str | None
    keep_labels: bool
    retry: bool
    max_calls: int | None = None
    max_cost: float | None = None
    jobs: int | None = None

    def of_plan(self) -> dict[str, Any]:
        """The flags that plan has too."""
        names = ("study_file", "where", "keep_labels", "retry")
        return {name: getattr(self, name) for name in names}

    def options(self, catalog: "Catalog") -> "Options":
        """The flags as options of a refresh. Raises InputError for a condition that cannot be."""
        from catalog.study.file import Study
        from queries.refresh.options import Options, settings_of, where

        return Options(
            settings=dict(Study.load(self.study_file).steps) if self.study_file else settings_of(catalog),
            retry=self.retry,
            keep=frozenset({"labels"} if self.keep_labels else ()),
            where=where(self.where, catalog) if self.where else None,
            max_calls=self.max_calls,
            max_cost=self.max_cost,
            jobs=self.jobs,
        )


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What plan and refresh have in common."""
    for option in (
        click.option(
            "--study",
            "study_file",
            type=click.Path(path_type=Path),
            help="Take concepts, explainers, scorers and step parameters from this study file first.",
        ),
        click.option(
            "--where",
            help="Only keys for which this holds, such as 'feature < 100'; steps without these columns are done whole.",
        ),
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
    /,
    steps: tuple[str, ...],
    explain: str | None,
    exit_code: bool,
    output: Output,
    **flags: Any,
) -> None:
    """What `refresh` would do: new, changed and gone rows of each step, why, and the calls and money it takes.

    Nothing is written. Counts that depend on labels which nobody has seen yet are the most there can be.
    """
    from catalog import Catalog
    from queries.refresh.explain import explained, explanation_text, left_out, plan_rows, planned
    from queries.terminal.control_characters import visible
    from queries.terminal.progress import say

    with Catalog(catalog_path(context), read_only=True) as catalog:
        asked = _Flags(**flags)
        study_file, options = asked.study_file, asked.options(catalog)
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
                n = len(results)
                say(f"nothing to do: {n} step{'s are' if n != 1 else ' is'} up to date")
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
    /,
    steps: tuple[str, ...],
    dry_run: bool,
    endpoints: tuple[str, ...],
    wait: float,
    output: Output,
    **flags: Any,
) -> None:
    """Recompute what is stale: all steps, or the named ones with those that they read from.

    Text and key go to no endpoint that a catalog names before you allowed it: by a study file that you pass (--study,
    `saeql ingest FILE`) or by --allow-endpoint.

    With --json, --csv or --parquet the steps that had work are printed as rows.
    """
    allow(endpoints)
    asked = _Flags(**flags)
    if dry_run:
        context.invoke(plan, steps=steps, explain=None, exit_code=False, **asked.of_plan())
        return
    results = run_refresh(catalog_path(context), steps, wait, asked.options, asked.study_file)
    if output.asked:
        from queries.refresh.explain import refresh_rows

        output.show(refresh_rows(results))
    if any(result.state in ("failed", "waiting") for result in results):
        context.exit(1)


def _say_totals(results: "list[StepResult]", rows: list[dict[str, Any]]) -> None:
    from queries.terminal.control_characters import visible
    from queries.terminal.progress import say

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
