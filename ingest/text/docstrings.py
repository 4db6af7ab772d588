"""Reads docstrings of installed packages: real text that stands on every machine that runs saeql.

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

    Raises InputError if no such package is installed, or if it has no Python source.
    """
    if package == STDLIB:
        library = Path(sysconfig.get_path("stdlib"))
        yield from sorted(p for p in library.rglob("*.py") if "site-packages" not in p.parts)
        return
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        # The parent of a dotted name is missing, or the name cannot be one.
        spec = None
    if spec is None or not (spec.submodule_search_locations or spec.origin):
        raise InputError(
            f"package {package!r} is not installed, so it has no docstrings to read: "
            f"install it, or name another (for example {STDLIB!r}, 'torch', 'numpy')"
        )
    if spec.submodule_search_locations:
        for root in spec.submodule_search_locations:
            yield from sorted(Path(root).rglob("*.py"))
    elif str(spec.origin).endswith(".py"):
        yield Path(str(spec.origin))
    else:
        raise InputError(f"package {package!r} is compiled ({spec.origin}): it has no Python source to read")


def file_docstrings(source: str) -> Iterator[str]:
    """Every docstring of a module's source, outermost first, dedented.

    Raises SyntaxError or ValueError if the source does not parse.
    """
    with warnings.catch_warnings():
        # Odd escapes are a SyntaxWarning or, before Python 3.12, a DeprecationWarning.
        warnings.simplefilter("ignore")
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED):
            text = ast.get_docstring(node)
            if text and text.strip():
                yield text
