"""The rules of the house: no import circle, imports down the floors alone, one name a file, short files, READMEs."""

import ast
import subprocess
from collections import Counter
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ("catalog", "ingest", "scoring", "queries")
MOST_LINES, MOST_PARAMETERS = 300, 7


@cache
def sources() -> dict[str, Path]:
    """Each module of the product and its file."""
    files = [path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]
    named = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files}
    return {name.removesuffix(".__init__"): path for name, path in named.items()} | {"saeql": ROOT / "saeql.py"}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def run_imports(node: ast.AST) -> list[ast.AST]:
    """The import statements that are run, at once or in a function; not those that only a type checker reads."""
    found: list[ast.AST] = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            found.append(child)
        found += run_imports(child)
    return found


def imported(name: str) -> set[str]:
    """The modules of ours that a module imports."""
    found: set[str] = set()
    for node in run_imports(tree(sources()[name])):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names} & sources().keys()
            # `from package import module` needs the module; the package's own names are in its __init__.
            found |= below if len(below) == len(node.names) else below | {node.module}
    return found & sources().keys() - {name}


def circles(graph: dict[str, set[str]]) -> list[str]:
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_circle_of_imports() -> None:
    assert circles({name: imported(name) for name in sources()}) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "c", "b", "a"]


def test_imports_go_down_the_floors() -> None:
    order = {floor: number for number, floor in enumerate((*FLOORS, "saeql"))}
    up = [
        f"{name} imports {other}"
        for name in sources()
        for other in imported(name)
        if order[other.split(".")[0]] > order[name.split(".")[0]]
    ]
    assert up == []


def test_no_two_files_of_one_name() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.py"], cwd=ROOT, capture_output=True, text=True
    )
    if tracked.returncode:
        pytest.skip("not a git checkout")
    names = Counter(Path(line).name for line in tracked.stdout.splitlines() if (ROOT / line).exists())
    assert {name: n for name, n in names.items() if n > 1 and name not in ("__init__.py", "conftest.py")} == {}


@pytest.mark.parametrize("name", sorted(sources()))
def test_files_are_short_and_functions_take_few_parameters(name: str) -> None:
    path = sources()[name]
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES
    for node in ast.walk(tree(path)):
        # A Triton kernel has a parameter for each tensor and each size: it runs on a device that knows no structures.
        if isinstance(node, ast.FunctionDef) and "triton.jit" not in map(ast.unparse, node.decorator_list):
            every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            own = [parameter for parameter in every if parameter.arg not in ("self", "cls")]
            assert len(own) <= MOST_PARAMETERS, f"{node.name} takes {len(own)} parameters"


def test_each_room_says_what_lies_in_it() -> None:
    for folder in sorted({path.parent for path in sources().values()} - {ROOT}):
        inside = [p.name for p in folder.iterdir() if p.suffix in (".py", ".sql", ".toml") and p.name != "__init__.py"]
        readme = folder / "README.md"
        if len(inside) <= 3 and not readme.exists():
            continue
        assert readme.exists(), f"{folder.relative_to(ROOT)} has no README.md"
        text = readme.read_text(encoding="utf-8")
        missing = [name for name in inside if f"`{name}`" not in text and f"`{Path(name).stem}`" not in text]
        if folder.name != "schema":
            assert missing == [], f"{readme.relative_to(ROOT)} does not speak of {missing}"
