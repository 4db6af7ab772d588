"""Which catalog a command works on."""

from pathlib import Path
from typing import Any

import click

from catalog.errors import InputError
from catalog.location import ADDRESS, METADATA, Location

DEFAULT = Path("demo")
"""Where `saeql demo` puts its catalog, and where the other commands look if nothing is named."""


class Place(click.ParamType):  # type: ignore[type-arg]
    """A catalog's folder, or the address of its PostgreSQL database."""

    name = "catalog"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Location:
        """Raises click's usage error for an address with mistakes."""
        try:
            return Location.parse(value)
        except InputError as error:
            self.fail(str(error), param, ctx)


def catalog_path(context: click.Context) -> Location:
    """The catalog named by -C or SAEQL_CATALOG; else the current folder if it is one; else ./demo."""
    named: Location | None = context.find_root().obj
    if named is not None:
        return named
    here = any(Path(name).exists() for name in (METADATA, ADDRESS))
    return Location.parse(Path() if here else DEFAULT)
