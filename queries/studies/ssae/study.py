"""Runs the study `ssae`: specialized SAEs by ways of selecting text, after "Decoding Dark Matter" (Muhamed 2024).

By default the pool is docstrings of installed packages, the subdomain those of sympy.physics, and the text of another
form is the source code of sympy.physics without its docstrings and comments. Other text comes in as JSON Lines.
"""

import ast
import json
import warnings
from collections.abc import Iterator
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

from catalog import Catalog
from catalog.errors import InputError
from catalog.store.location import ADDRESS, METADATA
from catalog.study.file import Study
from queries.studies.ssae.study_file import DOMAIN_PACKAGE, NAME, OOD_FILE, Options, check_same, check_width, study_text
from queries.terminal.work import STUDY, run_ingest, run_refresh

STEPS = ("tail_coverage", "tail_curve", "firing_ranks", "firing_differences")


def run_ssae(root: Path, options: Options) -> Path:
    """Write the study's file into `root`, build the catalog or bring it up to date; the study's file.

    A study that is there goes on as its file says; `options` that were given must agree with it. Raises InputError
    if they do not, if the folder holds another study, or for text or a width that cannot be used: nothing is written.
    """
    path = root / STUDY
    if options.width is not None:
        check_width(options.width)
    if path.exists():
        check_same(Study.load(path), options, path)
    else:
        _write_study(path, options)
    run_ingest(root, Study.load(path))
    failed = [result for result in run_refresh(root, STEPS) if result.state == "failed"]
    if failed:
        raise InputError(f"step {failed[0].step} failed: {failed[0].error}")
    return path


def table(name: str) -> str:
    """The query of one of the study's tables: points, area or tail."""
    return (resources.files("queries.studies.ssae") / f"{name}.sql").read_text()


def _write_study(path: Path, options: Options) -> None:
    from ingest.text.sources import matched_files

    root, text = path.parent, study_text(options)
    study = Study.parse(text, root, source="a study of these options")
    if any((root / name).exists() for name in (METADATA, ADDRESS)):
        with Catalog(root, read_only=True) as catalog:
            other = catalog.value("SELECT name FROM study WHERE name <> ?", [NAME])
        if other is not None:
            raise InputError(f"{root} is the catalog of another study, {other!r}: name another folder")
    if options.files():
        for corpus in study.corpora:
            matched_files(corpus)
    else:
        write_code(root / OOD_FILE)
    _write(path, text)


def _write(path: Path, text: str) -> None:
    # Imports torch: what is refused before has no need of it.
    from catalog.store.atomic_files import write_whole

    write_whole(path, text.encode())


def write_code(path: Path) -> None:
    """The functions and classes of the domain's package as source code without docstrings and comments, one a line.

    Raises InputError if the package is not installed.
    """
    spec = find_spec(DOMAIN_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{DOMAIN_PACKAGE} is not installed: install sympy, or give --pool, --seed and --ood")
    found: dict[str, None] = {}
    for root in spec.submodule_search_locations:
        for file in sorted(Path(root).rglob("*.py")):
            if "tests" not in file.parts:
                found.update(dict.fromkeys(_code(file.read_text(encoding="utf-8"))))
    _write(path, "".join(json.dumps({"text": text}) + "\n" for text in found))


def _code(source: str) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            text = ast.unparse(node)
            if len(text) > 200:
                yield text
