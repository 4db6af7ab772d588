"""Commands that look at what is there: doctor at a catalog, hookpoints at a model."""

import click

from catalog.errors import ForeignCatalog
from queries.cli.place import catalog_path
from queries.terminal.output import Output, output_options


@click.command()
@click.option("--fix", is_flag=True, help="Collect what an interrupted run left behind.")
@click.option("--all", "everything", is_flag=True, help="Check the digest of every file, not of a sample.")
@output_options
@click.pass_context
def doctor(context: click.Context, fix: bool, everything: bool, output: Output) -> None:
    """Check that the catalog is whole: files, digests, keys, vectors, views. Exit code 1 if it is not.

    On a terminal only what is wrong is listed; elsewhere each check is a row.
    """
    from catalog import Catalog
    from catalog.doctor.examine import examine
    from catalog.doctor.finding import Finding

    root = catalog_path(context)
    try:
        with Catalog.writable(root) if fix else Catalog(root, read_only=True) as catalog:
            findings = examine(catalog, fix=fix, sample=None if everything else 16)
    except ForeignCatalog as error:
        # Nothing of it may be read, so this is all that can be examined.
        findings = [Finding("origin", "error", str(root), said) for said in error.found]
    if output.drawn and not output.expanded:
        from queries.terminal.doctor_lines import doctor_lines

        output.draw(lambda width, ink: doctor_lines(findings, width, ink))
    else:
        output.show(
            [
                {"check": f.check, "severity": f.severity, "subject": f.subject, "detail": f.detail, "fixed": f.fixed}
                for f in findings
            ]
        )
    if any(f.severity == "error" and not f.fixed for f in findings):
        context.exit(1)


@click.command()
@click.argument("model")
@click.option("--layer", type=click.IntRange(min=0), help="Of this block alone; the first is 0.")
@output_options
def hookpoints(model: str, layer: int | None, output: Output) -> None:
    """List the hookpoints of MODEL with their widths, without loading its weights.

    MODEL is what `source` in [model] of a study may be: a folder, a hub id, a GGUF file, smollm2. Any other module may
    be named too, and what goes into one, by its name with .input after it. A study may use TransformerLens' names.
    """
    from ingest.model.hookpoint_list import list_hookpoints
    from queries.terminal.progress import say

    found = [listed for listed in list_hookpoints(model, say) if layer is None or listed.layer == layer]
    output.show([{"hookpoint": one.hookpoint, "width": one.width, "TransformerLens": one.other} for one in found])
