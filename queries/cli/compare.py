"""Commands that compare SAEs: sweep and study."""

import math
from pathlib import Path
from typing import Any

import click

from catalog.store.location import Location
from queries.cli.numbers import NUMBER
from queries.cli.place import catalog_path

_LARGEST_SCALE = 1_000_000
"""Two trillion tokens; a slip of the keyboard may ask for more than a table's numbers hold."""


def _numbers(_context: click.Context, parameter: click.Parameter, value: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in value.split(",") if part.strip())
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 1,2,4", param=parameter) from error
    if not all(map(math.isfinite, numbers)):
        raise click.BadParameter(f"{value!r} has a value that is no finite number", param=parameter)
    return numbers


def _whole_numbers(_context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in value.split(",") if part.strip())
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a list of whole numbers such as 0,1,2", param=parameter) from error


def _scale(_context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    # Not click.FloatRange: that lets nan and inf through.
    if value is not None and not 0 < value <= _LARGEST_SCALE:
        said = f"{value} is not a number above 0 and at most {_LARGEST_SCALE:,}"
        raise click.BadParameter(said, param=parameter)
    return value


@click.command()
@click.argument("sae")
@click.option("--setting", default="sparsity", show_default=True, help="sparsity, k, tilt, lr, width or l0.")
@click.option("--values", required=True, callback=_numbers, help="Its values, such as 1,2,4.")
@click.option("--seeds", default="0", show_default=True, callback=_whole_numbers, help="Seeds at every value.")
@click.option("--name", help="Name of the sweep; else the SAE and the setting.")
@click.option("--l0-low", default=60.0, type=NUMBER, show_default=True, help="Start of the L0 range of the area.")
@click.option("--l0-high", default=140.0, type=NUMBER, show_default=True, help="End of that range.")
@click.option("--study", "study_file", type=click.Path(path_type=Path), help="Study file; else that of the catalog.")
@click.option("--wait", default=0.0, type=NUMBER, show_default=True, help="Seconds to wait for another writer.")
@click.pass_context
def sweep(
    context: click.Context,
    /,
    sae: str,
    name: str | None,
    study_file: Path | None,
    wait: float,
    **varied: Any,
) -> None:
    """Train SAE of the study at several values of one setting, and compare the runs at equal L0.

    All runs share one pass over the activations. Results are the views pareto, pareto_curve and pareto_area.
    """
    from catalog.study.file import Study
    from queries.terminal.work import STUDY, allow_study, run_ingest

    root = catalog_path(context)
    study = Study.load(study_file or root.root / STUDY)
    if study_file is not None:
        allow_study(study_file)
    # `varied` has the section's own keys: setting, values, seeds and the range of L0.
    asked = {"name": name or f"{sae}-{varied['setting']}", "saes": [sae], **varied}
    asked |= {key: list(varied[key]) for key in ("values", "seeds")}
    study = study.with_sweep(asked)
    run_ingest(root, study, wait)
    _print(root, _POINTS, asked["name"])
    _print(root, _AREAS, asked["name"])


_POINTS = (
    "SELECT corpus, split, coefficient, seeds, l0, perplexity, perplexity_std FROM pareto "
    "WHERE sweep = $sweep ORDER BY ALL"
)
_AREAS = (
    "SELECT corpus, split, l0_low, l0_high, mean_perplexity, reason FROM pareto_area WHERE sweep = $sweep ORDER BY ALL"
)


def _print(root: Path | Location, query: str, sweep: Any) -> None:
    from catalog import Catalog
    from queries.ask.guard import run
    from queries.terminal.output import Output

    with Catalog(root, read_only=True) as catalog:
        Output().show(run(query, catalog, {"sweep": sweep} if "$sweep" in query else None))


@click.group()
def study() -> None:
    """Build an example study and print what it found."""


@study.command()
@click.argument("folder", default="ssae", type=click.Path(file_okay=False, path_type=Path))
@click.option("--pool", type=click.Path(path_type=Path), help="JSON Lines to select from; else docstrings.")
@click.option("--seed", type=click.Path(path_type=Path), help="JSON Lines of the subdomain; else sympy.physics.")
@click.option("--ood", type=click.Path(path_type=Path), help="JSON Lines of the subdomain in another form.")
@click.option(
    "--scale",
    type=float,
    callback=_scale,
    show_default="1",
    help="Size: 1 takes 23 minutes on two cores.",
)
@click.option("--width", type=click.IntRange(min=1), show_default="1024", help="Latents of every SAE.")
def ssae(
    folder: Path, pool: Path | None, seed: Path | None, ood: Path | None, scale: float | None, width: int | None
) -> None:
    """Specialized SAEs: ways of selecting text and a tilted loss, compared at equal L0, in FOLDER.

    A general SAE is fine-tuned on the pool, a random part of it, the seed set again and again, and what BM25, dense
    retrieval and TracIn select; chosen on val, reported on test and on text of another form.

    The options go into FOLDER/study.toml. A study that is there goes on where it was: an option that is left out is as
    in that file, one that is given must agree with it.
    """
    from catalog.errors import InputError
    from queries.studies.ssae.figures import draw_figures
    from queries.studies.ssae.study import run_ssae, table
    from queries.studies.ssae.study_file import Options

    run_ssae(folder, Options(pool, seed, ood, scale, width))
    for name in ("points", "area", "tail"):
        click.echo(f"\n{name}", err=True)
        _print(folder, table(name), None)
    try:
        for path in draw_figures(folder, "ssae", "domain", "ood", "full"):
            click.echo(f"drawn: {path}", err=True)
    except InputError as error:
        click.echo(f"no plots: {error}", err=True)
