"""Commands that make and fill a catalog: demo, init, ingest, add."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from catalog.store.location import Location
from queries.cli.numbers import NUMBER
from queries.cli.place import DEFAULT, Place, catalog_path
from queries.output import Output, output_options

if TYPE_CHECKING:
    from catalog import Catalog
    from catalog.study.file import Study
    from ingest.run import IngestReport
    from queries.cli.progress import Bars

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
    from catalog.study.file import template

    path = folder.root / STUDY
    if path.exists():
        raise InputError(f"{path} is there already: edit it, then `saeql ingest {path}`")
    Catalog.create(folder).close()
    path.write_text(template(), encoding="utf-8")
    click.echo(f"edit {path}, then: saeql ingest {path} && saeql -C {folder.root} refresh", err=True)


@click.command()
@click.argument("study_file", metavar="STUDY", type=click.Path(path_type=Path))
@click.option("--wait", default=0.0, type=NUMBER, show_default=True, help="Seconds to wait for another writer.")
@click.pass_context
def ingest(context: click.Context, study_file: Path, wait: float) -> None:
    """Bring text, SAEs and sparse activations up to date with the study file STUDY.

    The catalog is that of -C, else the study file's folder. What is whole is not made again, also after an
    interruption.
    """
    from catalog.study.file import Study
    from queries.cli.refresh import allow_study

    root = context.find_root().obj or study_file.absolute().parent
    study = Study.load(study_file)
    allow_study(study_file)
    run_ingest(root, study, wait)


@click.command()
@click.argument("corpus")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--field", help="Field of JSON Lines and Parquet that holds the text.")
@click.option("--wait", default=0.0, type=NUMBER, show_default=True, help="Seconds to wait for another writer.")
@output_options
@click.pass_context
def add(
    context: click.Context, corpus: str, files: tuple[Path, ...], field: str | None, wait: float, output: Output
) -> None:
    """Add the documents of FILES (text, .jsonl, .parquet, also .gz) to CORPUS, and harvest them alone.

    Documents that are there already are skipped. SAEs stay as they are; `saeql plan` shows what follows.
    """
    from catalog import Catalog
    from ingest.add import add_text
    from queries.cli.progress import Bars

    root = catalog_path(context)
    with Catalog.writable(root) as catalog, Bars() as bars:
        report = add_text(catalog, corpus, list(files), field, bars.show, wait)
    text = report.text
    row = {"corpus": corpus, "added": text.added, "known": text.known, "duplicates": text.duplicates}
    row |= {"empty": text.empty, "documents": text.documents, "tokens": text.tokens}
    output.show([{**row, "shards": report.harvest.shards, "activations": report.harvest.activations}])


def run_ingest(root: Path | Location, study: "Study", wait: float = 0.0) -> None:
    """Ingest with progress on stderr, and say at the end what was left out."""
    from catalog import Catalog
    from ingest.receipt import unchanged
    from queries.cli.progress import Bars

    with Catalog.create(root) as catalog, Bars() as bars:
        report = unchanged(catalog, study, wait) or _ingested(catalog, study, bars, wait)
        for corpus in report.corpora:
            bars.say(
                f"{corpus.corpus}: {corpus.documents} documents, {corpus.tokens} tokens "
                f"({corpus.added} documents new, {corpus.duplicates} duplicates and {corpus.empty} empty left out)"
            )
        done = report.harvest
        bars.say(f"harvest: {done.shards} shards new, {done.skipped} whole; {done.activations} activations new")
        for stage, subject, reason, count in catalog.rows("SELECT * FROM problems ORDER BY ALL"):
            bars.say(f"left out ({stage}): {subject}: {reason} ({count})")


def _ingested(catalog: "Catalog", study: "Study", bars: "Bars", wait: float) -> "IngestReport":
    # Torch and transformers: seconds, which an ingest that has nothing to do does without.
    from ingest.run import ingest_study

    return ingest_study(catalog, study, bars.show, wait)
