"""Parses a refresh step from its SQL file: the header says what it writes, the query says what it reads."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import sqlglot
from sqlglot import exp

from catalog.digest import digest
from catalog.errors import StepError
from queries.refresh.fingerprint import kernel_source, source_digests, template_text
from queries.refresh.reads import KEPT, Schema, canonical, line_of, table_nodes, tables_read

_KEYS = "step|writes|key|slice|after|partition|whole|touches|input|param|kernel|code|asks|plan|prompts|doc"
_HEADER = re.compile(rf"--\s*({_KEYS}):\s*(.*)")
_SLICE = re.compile(r"(\w+)\s*(?:=\s*'[^']*'|IN\s*\(\s*'[^']*'(?:\s*,\s*'[^']*')*\s*\))")
_VOLATILE = """
    RANDOM RAND SETSEED UUID UUIDV4 UUIDV7 GEN_RANDOM_UUID NEXTVAL CURRVAL TXID_CURRENT
    NOW TODAY CURRENT_DATE CURRENT_TIME CURRENT_TIMESTAMP CURRENT_LOCALTIME CURRENT_LOCALTIMESTAMP LOCALTIME
    LOCALTIMESTAMP GET_CURRENT_TIMESTAMP TRANSACTION_TIMESTAMP
"""
_NOT_REPEATABLE = frozenset(_VOLATILE.split())
_canonical: dict[tuple[str, str], str] = {}
"""(Digest of a query and of the schema, table) -> the query's one layout: 70 ms each, the same for every catalog."""


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
    file: str
    slice: str = "true"
    """Predicate: the part of the table that is this step's."""
    partition: tuple[str, ...] = ()
    """Columns that its inputs are parted by: parts that did not change are not read again."""
    whole: tuple[str, ...] = ()
    """Tables that have these columns and are read whole all the same."""
    touches: tuple[str, ...] = ()
    """Columns by which the step groups its own rows, `kept`: the query gives each group that a new part adds to."""
    folds: bool = False
    """Whether the query reads `kept`, the rows that the step made before, and adds new parts to them."""
    parameters: dict[str, Any] = field(default_factory=dict)
    kernel: str | None = None
    """`module:function` that turns the query's rows into the table's."""
    code: tuple[str, ...] = ()
    """Modules and packages whose code decides the kernel's rows, besides its own; none: all that it imports."""
    asks: str | None = None
    """`module:function` that says what the kernel would ask an endpoint for one row, and what the row shows it."""
    runs_in_plan: bool = False
    """Whether `plan` runs the kernel, which then is free and has no effect; else it counts the stale rows."""
    input: tuple[str, ...] = ()
    """Columns of the query that identify an input row of the kernel."""
    prompts: tuple[str, ...] = ()
    """Prompt templates that the kernel renders."""
    after: tuple[str, ...] = ()
    """Steps that have to run before, although the query reads nothing of theirs: its kernel reads their vectors."""

    @property
    def sliced(self) -> tuple[str, frozenset[str]] | None:
        """(column, values) of the slice; None if the whole table is this step's."""
        found = _SLICE.fullmatch(self.slice)
        return (found[1], frozenset(re.findall(r"'([^']*)'", self.slice))) if found else None

    def line_of(self, name: str) -> int:
        """The first line of the file that says `name` as a word, 1 if none does."""
        lines = self.query.splitlines()
        code = [at for at, line in enumerate(lines, start=1) if not line.lstrip().startswith("--")]
        header = [at for at in range(1, len(lines) + 1) if at not in code]
        for at in (*code, *header):
            if re.search(rf"\b{re.escape(name)}\b", lines[at - 1], re.IGNORECASE):
                return at
        return 1

    def made_of(
        self, parameters: Mapping[str, Any], schema: Schema, last: Mapping[str, Any] | None = None, dialect: str = ""
    ) -> dict[str, Any]:
        """All that decides the rows besides the inputs: digests of the texts, and the parameters.

        `last` is what this gave before, `dialect` a digest of the schema and of what reads the query: a text that
        is still the same is not taken apart again. The query counts as its qualified syntax tree, the kernel as the
        syntax trees that `kernel_source` names: comments, layout and letter case change nothing.
        """
        last = last or {}
        text = digest([self.query, dialect])
        last = last if last.get("text") == text else {}
        query = last.get("query")
        if query is None:
            said = _canonical.get((text, self.writes)) if dialect else None
            if said is None:
                known = {**schema, KEPT: schema[self.writes]}
                said = canonical(sqlglot.parse_one(self.query, read="duckdb"), known)
                if dialect:
                    _canonical[text, self.writes] = said
            query = digest([said, self.slice, list(self.key), list(self.partition), list(self.touches)])
        kernel: str | None = None
        files: dict[str, str] = {}
        if self.kernel:
            files = last.get("files") or {}
            kernel = last.get("kernel")
            if not kernel or not files or files != source_digests(files):
                source = kernel_source(self.kernel, self.code)
                kernel, files = digest([self.kernel, self.asks, source]), source_digests(source)
        return {
            "query": query,
            "kernel": kernel,
            "prompts": {name: digest(template_text(name)) for name in self.prompts},
            "parameters": dict(parameters),
            "text": text,
            "files": files,
        }


def fingerprint(made: Mapping[str, Any]) -> str:
    """BLAKE2b-128 of what `Step.made_of` gives, the raw texts left out."""
    return digest({name: made[name] for name in ("query", "kernel", "prompts", "parameters")})


def _check_names(tree: exp.Expr, where: str) -> None:
    """Raise StepError for a table that could not be hidden behind the part of it that the step has to read."""
    for table in table_nodes(tree, where):
        if table.db:
            raise StepError(f"{where}, line {line_of(table)}: a step names its tables alone, without {table.db}.")


def parse_step(text: str, name: str) -> Step:
    """Read a step file. Raises StepError, with file and line, if the header or the query is not in order."""
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
    _check_repeatable(tree, text, name)
    _check_names(tree, name)
    folds = any(table.name.lower() == KEPT for table in table_nodes(tree, name))
    if folds and not ("touches" in said and "partition" in said):
        raise StepError(f"{name}: a step that reads {KEPT} declares its partition, and the groups that it touches")
    kernel = said.get("kernel", [None])[0]
    if kernel and "input" not in said:
        raise StepError(f"{name}: a step with a kernel declares its input key")
    slice_ = said.get("slice", ["true"])[0]
    if slice_ != "true" and not _SLICE.fullmatch(slice_):
        raise StepError(f"{name}: the slice {slice_!r} is not of the form column = 'value', or column IN ('a', 'b')")
    return Step(
        name=said["step"][0],
        writes=said["writes"][0],
        key=_names(said["key"][0]),
        query=text,
        doc=said["doc"][0],
        parents=frozenset(tables_read(tree, name)),
        file=name,
        slice=slice_,
        after=_names(said.get("after", [""])[0]),
        partition=_names(said.get("partition", [""])[0]),
        whole=_names(said.get("whole", [""])[0]),
        touches=_names(said.get("touches", [""])[0]),
        folds=folds,
        parameters=dict(_parameter(line, name) for line in said.get("param", [])),
        kernel=kernel,
        code=_names(", ".join(said.get("code", []))),
        asks=said.get("asks", [None])[0],
        runs_in_plan=said.get("plan", ["counts"])[0] == "runs",
        input=_names(said.get("input", [""])[0]),
        prompts=_names(said.get("prompts", [""])[0]),
    )


@cache
def packaged_steps() -> tuple[Step, ...]:
    """The steps that saeql ships, in alphabetical order."""
    rooms = [room for room in (resources.files("queries") / "steps").iterdir() if room.is_dir()]
    files = sorted((file for room in rooms for file in room.iterdir()), key=lambda file: file.name)
    return tuple(parse_step(file.read_text(), file.name) for file in files if file.name.endswith(".sql"))


def called(path: str) -> Callable[..., Any]:
    """The function that `module:function` names."""
    import importlib

    module, _, function = path.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def _check_repeatable(tree: exp.Expr, text: str, name: str) -> None:
    functions = [*tree.find_all(exp.Anonymous), *tree.find_all(exp.Func), *tree.find_all(exp.TableSample)]
    for node in functions:
        said = node.name if isinstance(node, exp.Anonymous) else node.key if isinstance(node, exp.TableSample) else ""
        said = said or (node.sql_name() if isinstance(node, exp.Func) else "SAMPLE")
        sampled = isinstance(node, exp.TableSample)
        if sampled or said.upper() in _NOT_REPEATABLE:
            word = "sample" if sampled else said
            code = [
                (at, line) for at, line in enumerate(text.splitlines(), start=1) if not line.lstrip().startswith("--")
            ]
            at = next((at for at, line in code if re.search(rf"\b{re.escape(word)}", line, re.IGNORECASE)), 1)
            raise StepError(
                f"{name}, line {at}: {'SAMPLE' if sampled else said.upper()} gives other rows each time; "
                "sample by hash instead"
            )


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
