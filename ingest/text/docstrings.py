"""Reads docstrings of installed packages: real text that stands on every machine that runs saeql.

The topics of Python's `help()` are strings in the module `pydoc_data.topics`, and are read like docstrings, a section
each. Files are parsed, never imported. A file that does not parse is reported, not hidden.
"""

import ast
import gc
import re
import sysconfig
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from catalog.errors import InputError

STDLIB = "stdlib"
_HOLDING = (ast.stmt, ast.excepthandler, ast.match_case)
_TOPICS = "pydoc_data"
_HEADING = re.compile(r"\n(?=[^\n]+\n(?:\*{3,}|={3,}|-{3,})\n)")
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
    for node in _statements(tree):
        if isinstance(node, _DOCUMENTED):
            text = ast.get_docstring(node)
            if text and text.strip():
                yield text


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """The nodes of `ast.walk` that are statements or hold some, in its order: nine of ten nodes are expressions."""
    waiting: deque[ast.AST] = deque([tree])
    while waiting:
        node = waiting.popleft()
        yield node
        for name in node._fields:
            inside = getattr(node, name, None)
            if isinstance(inside, list):
                waiting.extend(one for one in inside if isinstance(one, _HOLDING))


def file_topics(source: str) -> Iterator[str]:
    """The sections of the topics of `help()` in the source of `pydoc_data.topics`, each with its heading.

    Topics contain each other: sections come as often as they stand there. Raises as `file_docstrings` does.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Dict):
            for value in node.values:
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    # Each ends with the topics that are related to it.
                    text = "\n" + value.value.partition("\nRelated help topics:")[0]
                    yield from (section.strip() for section in _HEADING.split(text) if section.strip())


def package_docstrings(package: str, path: Path) -> list[str]:
    """Every docstring of a package's source file. Raises OSError, and what `file_docstrings` raises."""
    read = file_topics if package == _TOPICS else file_docstrings
    with _uncollected():
        return list(read(path.read_text(encoding="utf-8")))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the collector of cycles: a tree has none, and each of its 10,000 nodes would bring it on.

    Beside a loaded model it goes through a million objects every time, and took half of the seconds.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()
