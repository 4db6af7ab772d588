"""Which catalog a command works on."""

from pathlib import Path

import click

DEFAULT = Path("demo")
"""Where `saeql demo` puts its catalog, and where the other commands look if nothing is named."""


def catalog_path(context: click.Context) -> Path:
    """The catalog named by -C or SAEQL_CATALOG; else the current folder if it is one; else ./demo."""
    named: Path | None = context.find_root().obj
    if named is not None:
        return named
    return Path() if Path("catalog.sqlite").exists() else DEFAULT
