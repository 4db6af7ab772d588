"""The study `ssae`: specialized SAEs by ways of selecting text, as in "Decoding Dark Matter" (Muhamed et al. 2024).

By default the pool is docstrings of installed packages, the subdomain those of sympy.physics, and the text of another
form is the source code of sympy.physics without its docstrings and comments. Other text comes in as JSON Lines.
"""

import ast
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from string import Template

from catalog.errors import InputError
from catalog.study import Study
from queries.cli.build import STUDY, run_ingest
from queries.cli.refresh import run_refresh

STEPS = ("tail_coverage", "tail_curve", "firing_ranks", "firing_differences")
POOL_PACKAGES = ("numpy", "scipy", "sympy", "networkx", "torch", "sklearn", "stdlib")
DOMAIN_PACKAGE = "sympy.physics"
OOD_FILE = "ood.jsonl"
L0_VALUES = (20, 65, 100, 145, 230)
FAMILIES = {
    "full": ("everything", 0.0),
    "random": ("random", 0.0),
    "seed": ("seed", 0.0),
    "bm25": ("bm25", 0.0),
    "dense": ("dense", 0.0),
    "dense-tracin": ("dense-tracin", 0.0),
    "dense-term": ("dense", 0.1),
}
"""Family -> (selection, tilt)."""
_FAMILY = """
[[sae]]
name = "$name"
parent = "general"
hookpoint = "layers.2"
selection = "$selection"
tilt = $tilt
steps = $steps
lr = 1e-3
decay = $decay
evaluate = ["domain", "ood"]
template = true
"""


@dataclass(frozen=True)
class Size:
    """How large the study is; `scale` 1 ends within 40 minutes on two cores."""

    scale: float = 1.0
    width: int = 1024
    """Latents of every SAE."""

    def values(self) -> dict[str, int]:
        """The template's numbers."""
        return {
            "pool_tokens": round(2_000_000 * self.scale),
            "domain_tokens": round(160_000 * self.scale),
            "budget": round(200_000 * self.scale),
            "width": self.width,
            "general_steps": max(round(2500 * self.scale), 40),
            "resample_every": max(round(500 * self.scale), 10),
            "steps": max(round(300 * self.scale), 20),
            "evaluation_tokens": round(12_000 * max(self.scale, 0.1)),
            "seed_tokens": max(round(10_000 * min(self.scale, 1.0)), 500),
        }


def run_ssae(root: Path, pool: Path | None, seed: Path | None, ood: Path | None, size: Size) -> Path:
    """Write the study's file into `root`, build the catalog or bring it up to date; the study's file.

    `pool`, `seed` and `ood` are JSON Lines with the text under `text`: the pool, the subdomain (train documents are the
    seed set, val and test measure), and the subdomain in another form. Raises InputError if only some are given.
    """
    given = [path is not None for path in (pool, seed, ood)]
    if any(given) and not all(given):
        raise InputError("other text needs all three of --pool, --seed and --ood; leave out all for docstrings")
    root.mkdir(parents=True, exist_ok=True)
    path = root / STUDY
    if not path.exists():
        if ood is None:
            write_code(root / OOD_FILE)
        path.write_text(study_text(pool, seed, ood, size), encoding="utf-8")
    run_ingest(root, Study.load(path))
    failed = [result for result in run_refresh(root, STEPS) if result.state == "failed"]
    if failed:
        raise InputError(f"step {failed[0].step} failed: {failed[0].error}")
    return path


def table(name: str) -> str:
    """The query of one of the study's tables: points, area or tail."""
    return (resources.files("queries") / "studies" / f"{name}.sql").read_text()


def study_text(pool: Path | None, seed: Path | None, ood: Path | None, size: Size) -> str:
    """The study file."""
    numbers = size.values()
    template = Template((resources.files("queries") / "studies" / "ssae.toml").read_text())
    families = "".join(
        Template(_FAMILY).substitute(
            name=name, selection=selection, tilt=tilt, steps=numbers["steps"], decay=numbers["steps"] // 3
        )
        for name, (selection, tilt) in FAMILIES.items()
    )
    code = Path(OOD_FILE)
    seed_tokens = numbers.pop("seed_tokens")
    return template.substitute(
        numbers,
        pool=_docstrings(POOL_PACKAGES) if pool is None else _lines(pool),
        domain=_docstrings((DOMAIN_PACKAGE,)) if seed is None else _lines(seed),
        ood=_lines(code if ood is None else ood),
        seed=f'seed = "domain"\nseed_splits = ["train"]\nseed_tokens = {seed_tokens}\nevaluations = ["domain", "ood"]',
        families=families,
        names=", ".join(json.dumps(name) for name in FAMILIES),
        l0_values=", ".join(map(str, L0_VALUES)),
    )


def _docstrings(packages: tuple[str, ...]) -> str:
    return f'kind = "docstrings"\npackages = {json.dumps(list(packages))}'


def _lines(path: Path) -> str:
    return f'kind = "jsonl"\nfiles = [{json.dumps(str(path if path == Path(OOD_FILE) else path.absolute()))}]'


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
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in found), encoding="utf-8")


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
