"""Finds the catalog that a command works on."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import click

from catalog.errors import InputError
from catalog.store.location import ADDRESS, METADATA, Location

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


def hide_password() -> None:
    """Start this process anew if its command has an address with a password, which every list of processes shows.

    The password goes on in PGPASSWORD, which the owner of the process alone can read.
    """
    shown = [_without_password(argument) for argument in sys.orig_argv]
    if shown != sys.orig_argv:
        os.execv(sys.executable, shown)


def _without_password(argument: str) -> str:
    option = re.match(r"(--catalog=|-C)?", argument)
    before = option[0] if option else ""
    try:
        location = Location.parse(argument[len(before) :]) if "://" in argument and "@" in argument else None
    except InputError:
        return argument  # it is reported as soon as the command is read, without its password
    if location is None or location.server is None or not location.server.password:
        return argument
    os.environ["PGPASSWORD"] = location.server.password
    return f"{before}{location}"


def catalog_path(context: click.Context) -> Location:
    """The catalog named by -C or SAEQL_CATALOG; else the current folder if it is one; else ./demo."""
    named: Location | None = context.find_root().obj
    if named is not None:
        return named
    here = any(Path(name).exists() for name in (METADATA, ADDRESS))
    return Location.parse(Path() if here else DEFAULT)
