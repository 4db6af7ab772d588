"""Docstrings of installed packages: real text that stands on every machine that runs saeql.

Files are parsed, never imported. A file that does not parse is reported, not hidden.
"""

import ast
import sysconfig
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from catalog.errors import InputError

STDLIB = "stdlib"
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def package_files(package: str) -> Iterator[Path]:
    """The package's `.py` files in sorted order; `stdlib` means the standard library.

    Raises InputError if no such package is installed.
    """
    if package == STDLIB:
        root = Path(sysconfig.get_path("stdlib"))
        yield from sorted(p for p in root.rglob("*.py") if "site-packages" not in p.parts)
        return
    spec = find_spec(package)
    if spec is None or not (spec.submodule_search_locations or spec.origin):
        raise InputError(
            f"package {package!r} is not installed, so it has no docstrings to read: "
            f"install it, or name another (for example {STDLIB!r}, 'torch', 'numpy')"
        )
    if not spec.submodule_search_locations:
        yield Path(str(spec.origin))
        return
    for root in spec.submodule_search_locations:
        yield from sorted(Path(root).rglob("*.py"))


def file_docstrings(source: str) -> Iterator[str]:
    """Every docstring of a module's source, outermost first, dedented.

    Raises SyntaxError or ValueError if the source does not parse.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED):
            text = ast.get_docstring(node)
            if text and text.strip():
                yield text
