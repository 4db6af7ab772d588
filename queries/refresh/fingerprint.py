"""Finds the source text behind a step: its kernel with the modules of our own that count, and its prompt templates."""

import ast
import hashlib
import importlib.util
import re
from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path

from catalog.errors import StepError

_FLOORS = ("scoring", "ingest")
_OURS = re.compile(r"(catalog|ingest|scoring)(\.[A-Za-z_]\w*)*")


def kernel_source(kernel: str, code: Iterable[str] = ()) -> dict[str, str]:
    """The source that decides a kernel's rows, by module, as code without comments.

    It is that of the kernel's module, and of `code`: modules, or packages with all that is in them. Where a step names
    none, it is all of scoring and ingest that the kernel imports, and what that imports. Raises StepError for a name
    in `code` that is no module of ours.
    """
    seen: dict[str, str] = {}
    waiting = [kernel.partition(":")[0]]
    if code := tuple(code):
        for module in (*waiting, *(inner for name in code for inner in _within(name))):
            path = _module_file(module)
            if path is None:
                raise StepError(f"kernel {kernel}: {module!r} is no module of saeql")
            seen[module] = _read(path, path.stat().st_mtime_ns)[0]
        return seen
    while waiting:
        module = waiting.pop()
        path = _module_file(module)
        if module not in seen and path is not None:
            seen[module], imported = _read(path, path.stat().st_mtime_ns)
            waiting += imported
    return seen


def source_digests(modules: Iterable[str]) -> dict[str, str]:
    """BLAKE2b-128 of the file of each of these modules, comments and all; modules without a file are left out."""
    # The names come from the catalog's record of the last run, which may be somebody else's: ours alone are looked up.
    paths = {module: _module_file(module) for module in modules if _OURS.fullmatch(module)}
    return {
        module: hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        for module, path in sorted(paths.items())
        if path is not None
    }


def _within(name: str) -> list[str]:
    """The module of that name, or the modules of the package."""
    path = _module_file(name)
    if path is None or path.name != "__init__.py":
        return [name]
    return [f"{name}.{file.stem}" for file in sorted(path.parent.glob("*.py")) if file != path]


@cache
def _read(path: Path, _changed: int) -> tuple[str, list[str]]:
    """A module's code, docstrings and comments left out, and the modules of our own that it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in _FLOORS:
            imported += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names if alias.name.split(".")[0] in _FLOORS]
    return ast.unparse(_without_docstrings(tree)), imported


def template_text(name: str) -> str:
    """A prompt template's text."""
    return (resources.files("scoring") / "prompts" / f"{name}.toml").read_text()


@cache
def _module_file(module: str) -> Path | None:
    """The file of one of our own modules, found without importing it (torch would come along)."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        return None
    base = Path(spec.submodule_search_locations[0], *rest)
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body
            if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
                node.body = body[1:] or [ast.Pass()]
    return tree
