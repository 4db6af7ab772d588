"""Commands that make and fill a catalog: demo, init, ingest, refresh."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from catalog.location import Location
from queries.cli.place import DEFAULT, Place, catalog_path

if TYPE_CHECKING:
    from catalog.study import Study
    from queries.engine import StepResult

STUDY = "study.toml"


@click.command()
@click.argument("folder", default=str(DEFAULT), type=Place())
def demo(folder: Location) -> None:
    """Build a catalog from the embedded model and installed docstrings in FOLDER, and show what is in it.

    A second run finds everything up to date. Needs no network and no GPU.
    """
    from queries.demo import run_demo

    run_demo(folder)


@click.command()
@click.argument("folder", type=Place())
def init(folder: Location) -> None:
    """Make an empty catalog in FOLDER with a commented study.toml to edit.

    FOLDER may be postgres://USER@HOST/DATABASE?data=FOLDER: the metadata is then kept in that PostgreSQL database, for
    a team that shares the folder. The password is taken from PGPASSWORD. Later the folder alone names the catalog.
    """
    from catalog import Catalog
    from catalog.errors import InputError
    from catalog.study import template

    path = folder.root / STUDY
    if path.exists():
        raise InputError(f"{path} is there already: edit it, then `saeql ingest {path}`")
    Catalog.create(folder).close()
    path.write_text(template(), encoding="utf-8")
    click.echo(f"edit {path}, then: saeql ingest {path} && saeql -C {folder.root} refresh", err=True)


@click.command()
@click.argument("study_file", metavar="STUDY", type=click.Path(path_type=Path))
@click.option("--wait", default=0.0, show_default=True, help="Seconds to wait for another writer.")
@click.pass_context
def ingest(context: click.Context, study_file: Path, wait: float) -> None:
    """Bring text, SAEs and sparse activations up to date with the study file STUDY.

    The catalog is that of -C, else the study file's folder. What is whole is not made again, also after an
    interruption.
    """
    from catalog.study import Study

    root = context.find_root().obj or study_file.absolute().parent
    study = Study.load(study_file)
    run_ingest(root, study, wait)


@click.command()
@click.argument("steps", nargs=-1, metavar="[STEP]...")
@click.option("--wait", default=0.0, show_default=True, help="Seconds to wait for another writer.")
@click.option("--retry", is_flag=True, help="Ask again for labels and judgements that have a problem.")
@click.pass_context
def refresh(context: click.Context, steps: tuple[str, ...], wait: float, retry: bool) -> None:
    """Recompute what is stale: all steps, or the named ones with those that they read from."""
    results = run_refresh(catalog_path(context), steps, wait, retry)
    if any(result.state in ("failed", "waiting") for result in results):
        context.exit(1)


def run_ingest(root: Path | Location, study: "Study", wait: float = 0.0) -> None:
    """Ingest with progress on stderr, and say at the end what was left out."""
    from catalog import Catalog
    from ingest.run import ingest_study
    from queries.cli.progress import Bars

    with Catalog.create(root) as catalog, Bars() as bars:
        report = ingest_study(catalog, study, bars.show, wait)
        for corpus in report.corpora:
            bars.say(
                f"{corpus.corpus}: {corpus.documents} documents, {corpus.tokens} tokens "
                f"({corpus.added} documents new, {corpus.duplicates} duplicates and {corpus.empty} empty left out)"
            )
        done = report.harvest
        bars.say(f"harvest: {done.shards} shards new, {done.skipped} whole; {done.activations} activations new")
        for stage, subject, reason, count in catalog.rows("SELECT * FROM problems ORDER BY ALL"):
            bars.say(f"left out ({stage}): {subject}: {reason} ({count})")


def run_refresh(
    root: Path | Location, steps: tuple[str, ...] = (), wait: float = 0.0, retry: bool = False
) -> "list[StepResult]":
    """Refresh with progress on stderr, with the parameters of the catalog's study."""
    from catalog import Catalog
    from queries.cli.progress import Bars
    from queries.context import settings_of
    from queries.engine import Listener, Options, refresh

    Catalog(root, read_only=True).close()
    with Catalog.create(root) as catalog, Bars() as bars:
        listener = Listener(bars.step, bars.advance, bars.result)
        results = refresh(catalog, steps, Options(settings=settings_of(catalog), retry=retry), listener, wait)
        counts = {state: sum(r.state == state for r in results) for state in ("done", "current", "failed", "waiting")}
        said = {"done": "refreshed", "current": "up to date", "failed": "failed", "waiting": "not run"}
        bars.say("steps: " + ", ".join(f"{n} {said[state]}" for state, n in counts.items() if n))
    return results
