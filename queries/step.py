"""A refresh step is a SQL file: its header says what it writes, its query says what it reads."""

import ast
import hashlib
import importlib.util
import json
import re
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import sqlglot
from sqlglot import exp

from catalog.errors import StepError

_HEADER = re.compile(r"--\s*(step|writes|key|slice|input|param|kernel|prompts|doc):\s*(.*)")
_FLOORS = ("scoring", "ingest")
_VOLATILE = """
    RANDOM RAND SETSEED UUID UUIDV4 UUIDV7 GEN_RANDOM_UUID NEXTVAL CURRVAL TXID_CURRENT
    NOW TODAY CURRENT_DATE CURRENT_TIME CURRENT_TIMESTAMP CURRENT_LOCALTIME CURRENT_LOCALTIMESTAMP LOCALTIME
    LOCALTIMESTAMP GET_CURRENT_TIMESTAMP TRANSACTION_TIMESTAMP
"""
_NOT_REPEATABLE = frozenset(_VOLATILE.split())


@dataclass(frozen=True)
class Step:
    """One refresh step, as its file declares it."""

    name: str
    writes: str
    """Table that it fills."""
    key: tuple[str, ...]
    """Columns that identify a row of that table."""
    query: str
    doc: str
    parents: frozenset[str]
    """Tables and views that the query names."""
    slice: str = "true"
    """Predicate: the part of the table that is this step's."""
    parameters: dict[str, Any] = field(default_factory=dict)
    kernel: str | None = None
    """`module:function` that turns the query's rows into the table's."""
    input: tuple[str, ...] = ()
    """Columns of the query that identify an input row of the kernel."""
    prompts: tuple[str, ...] = ()
    """Prompt templates that the kernel renders."""

    def fingerprint(self, parameters: dict[str, Any]) -> str:
        """BLAKE2b-128 of all that decides the rows besides the inputs.

        The query counts as its syntax tree, the kernel as the syntax trees of its module and of those of
        our own that it imports: comments, layout and letter case change nothing.
        """
        canonical = sqlglot.parse_one(self.query, read="duckdb").sql(dialect="duckdb", comments=False, normalize=True)
        said = [canonical, parameters, self.slice, list(self.key), self.kernel and kernel_source(self.kernel)]
        said += [template_text(name) for name in self.prompts]
        return hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=16).hexdigest()


def parse_step(text: str, name: str) -> Step:
    """Read a step file. Raises StepError, naming the file, if the header or the query is not in order."""
    said: dict[str, list[str]] = {}
    for line in text.splitlines():
        found = _HEADER.fullmatch(line.strip())
        if found:
            said.setdefault(found[1], []).append(found[2].strip())
    missing = [key for key in ("step", "writes", "key", "doc") if key not in said]
    if missing:
        raise StepError(f"{name}: the header lacks {', '.join(missing)}")
    try:
        tree = sqlglot.parse_one(text, read="duckdb")
    except sqlglot.errors.SqlglotError as error:
        raise StepError(f"{name}: the query does not parse: {error}") from error
    _check_repeatable(tree, name)
    kernel = said.get("kernel", [None])[0]
    if kernel and "input" not in said:
        raise StepError(f"{name}: a step with a kernel declares its input key")
    return Step(
        name=said["step"][0],
        writes=said["writes"][0],
        key=_names(said["key"][0]),
        query=text,
        doc=said["doc"][0],
        parents=frozenset(tables_read(tree)),
        slice=said.get("slice", ["true"])[0],
        parameters=dict(_parameter(line, name) for line in said.get("param", [])),
        kernel=kernel,
        input=_names(said.get("input", [""])[0]),
        prompts=_names(said.get("prompts", [""])[0]),
    )


def tables_read(tree: exp.Expr) -> set[str]:
    """Names of the tables and views that a query reads, its own CTEs left out."""
    local = {cte.alias_or_name.lower() for cte in tree.find_all(exp.CTE)}
    return {table.name.lower() for table in tree.find_all(exp.Table) if table.name} - local


@cache
def packaged_steps() -> tuple[Step, ...]:
    """The steps that saeql ships, in alphabetical order."""
    folder = resources.files("queries") / "steps"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return tuple(parse_step((folder / name).read_text(), name) for name in names)


def ordered(steps: tuple[Step, ...], view_parents: dict[str, set[str]]) -> list[Step]:
    """Steps with each after all those that write what it reads; ties in alphabetical order.

    `view_parents` maps a view to the tables and views that it reads. Raises StepError on a cycle, naming it.
    """
    writers: dict[str, list[Step]] = {}
    for step in steps:
        writers.setdefault(step.writes, []).append(step)
    after = {
        step.name: {w.name for table in parent_tables(step, view_parents) for w in writers.get(table, [])}
        for step in steps
    }
    done: list[Step] = []
    while len(done) < len(steps):
        names = {step.name for step in done}
        ready = [step for step in steps if step.name not in names and after[step.name] <= names]
        if not ready:
            stuck = sorted(step.name for step in steps if step.name not in names)
            raise StepError(f"these steps wait for each other: {', '.join(stuck)}")
        done.append(ready[0])
    return done


def parent_tables(step: Step, view_parents: dict[str, set[str]]) -> set[str]:
    """The tables that a step reads, views seen through."""
    found: set[str] = set()
    waiting = set(step.parents)
    while waiting:
        name = waiting.pop()
        if name in view_parents:
            waiting |= view_parents[name]
        else:
            found.add(name)
    return found


def kernel_source(kernel: str) -> str:
    """The source that a kernel runs: its module and our own modules that it imports, as syntax trees."""
    seen: dict[str, str] = {}
    waiting = [kernel.partition(":")[0]]
    while waiting:
        module = waiting.pop()
        path = _module_file(module)
        if module in seen or path is None:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        seen[module] = ast.unparse(_without_docstrings(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in _FLOORS:
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names if alias.name.split(".")[0] in _FLOORS]
    return "\n".join(f"# {name}\n{seen[name]}" for name in sorted(seen))


def template_text(name: str) -> str:
    """A prompt template's text."""
    return (resources.files("scoring") / "prompts" / f"{name}.toml").read_text()


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


def _check_repeatable(tree: exp.Expr, name: str) -> None:
    called = {f.name.upper() for f in tree.find_all(exp.Anonymous)} | {f.sql_name() for f in tree.find_all(exp.Func)}
    bad = sorted(called & _NOT_REPEATABLE)
    if bad or tree.find(exp.TableSample):
        raise StepError(f"{name}: {', '.join(bad) or 'SAMPLE'} gives other rows each time; sample by hash instead")


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _parameter(line: str, name: str) -> tuple[str, Any]:
    key, equals, value = line.partition("=")
    try:
        if not equals:
            raise ValueError("no =")
        return key.strip(), json.loads(value)
    except ValueError as error:
        raise StepError(f"{name}: parameter {line!r} is not `name = JSON value`") from error
