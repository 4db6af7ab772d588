"""What the steps of one refresh or plan share: the schema, what changed when, parts, and what a plan expects."""

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlglot
from sqlglot import exp

from catalog import Catalog
from catalog.errors import InputError, StepError
from catalog.lake import TABLES
from queries import parts
from queries.lineage import tables_read
from queries.relations import Relations

if TYPE_CHECKING:
    from queries.step import Step
    from scoring.client import Budget


@dataclass(frozen=True)
class Where:
    """A condition over key columns that limits a refresh."""

    sql: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Options:
    """How a refresh or a plan is to be done."""

    settings: dict[str, Any] = field(default_factory=dict)
    """`step.parameter` -> value."""
    retry: bool = False
    """Rows that carry a problem are asked for again."""
    keep: frozenset[str] = frozenset()
    """Tables whose rows stay although what they were made from changed; only new keys are made."""
    where: Where | None = None
    max_calls: int | None = None
    max_cost: float | None = None
    jobs: int | None = None
    """Requests at a time, instead of each configuration's own."""


def where(text: str, catalog: Catalog) -> Where:
    """A user's condition, checked by the allow-list. Raises InputError if it is not one expression over columns."""
    from queries.guard import check

    try:
        tree = sqlglot.parse_one(f"SELECT 1 WHERE {text}", read="duckdb")
        condition = tree.find(exp.Where)
        plain = condition is not None and {k for k, v in tree.args.items() if v} <= {"expressions", "where", "kind"}
        if not plain or condition is None or condition.find(exp.Query):
            raise InputError(f"--where {text!r} is not one condition over key columns, such as 'feature < 100'")
    except sqlglot.errors.SqlglotError as error:
        raise InputError(f"--where {text!r} does not parse: write a condition such as 'feature < 100'") from error
    columns = tuple(sorted({column.name.lower() for column in condition.find_all(exp.Column)}))
    sql = condition.this.sql(dialect="duckdb", comments=False)
    known = ", ".join(f'NULL AS "{name}"' for name in columns) or "1 AS one"
    check(f"SELECT 1 FROM (SELECT {known}) WHERE {sql}", catalog)
    return Where(f"({sql})", columns)


class Context:
    """One refresh or plan."""

    def __init__(self, catalog: Catalog, steps: tuple["Step", ...], options: Options, *, dry: bool) -> None:
        self.catalog, self.steps, self.options, self.dry = catalog, steps, options, dry
        self.schema = _schema(catalog)
        views = dict(catalog.rows(f"SELECT view_name, sql FROM {TABLES}.ducklake_view WHERE end_snapshot IS NULL"))
        bodies = {name.lower(): body for name, body in views.items()}
        trees = {name: sqlglot.parse_one(body, read="duckdb") for name, body in bodies.items()}
        self.view_parents = {name: tables_read(tree, f"view {name}") - {name} for name, tree in trees.items()}
        self.relations = Relations(bodies)
        self.budget: Budget | None = None
        self.expected: set[str] = set()
        """Tables that a plan has other rows for than the catalog."""
        self.unknown: set[str] = set()
        """Tables whose rows a plan cannot know."""
        self._parted: dict[str, parts.Parted | None] = {}
        self._changes: tuple[int, dict[str, int]] | None = None
        self._messages: dict[int, str] | None = None
        self._grown: dict[tuple[int, str], str] = {}
        made = catalog.rows("SELECT step, fingerprint, inputs, made FROM runs")
        self.runs: dict[str, tuple[str, dict[str, int], dict[str, Any]]] = {
            step: (fingerprint, json.loads(inputs), json.loads(of or "{}")) for step, fingerprint, inputs, of in made
        }
        """(fingerprint, inputs, what it was made of) of the last run of each step."""

    def last_changes(self) -> dict[str, int]:
        """The snapshot that last changed each table, as of the current transaction."""
        now = int(self.catalog.value("SELECT id FROM lake.current_snapshot()"))
        if self._changes is None or self._changes[0] != now:
            self._changes = (now, self.catalog.last_changes())
            self._parted.clear() if not self.dry else None
        return self._changes[1]

    def changed_by(self, since: int, table: str) -> str:
        """What changed a table after a snapshot, as far as the snapshots say."""
        if self._messages is None:
            rows = self.catalog.rows("SELECT snapshot_id, commit_message FROM lake.snapshots()")
            self._messages = {int(number): message or "" for number, message in rows}
        last = self.last_changes()[table]
        if (since, table) not in self._grown:
            self._grown[since, table] = self._new_shards(since, table)
        if self._grown[since, table]:
            return self._grown[since, table]
        message = self._messages.get(last)
        return f"{message!r} (snapshot {last})" if message else f"snapshot {last}"

    def _new_shards(self, since: int, table: str) -> str:
        """`docs grew by shard 3`, if that is what happened to a table of files since a snapshot."""
        if table not in parts.FILES or since not in (self._messages or {}):
            return ""
        mine = "SELECT corpus, sae, shard, blake2b FROM lake.shards{} WHERE relation = ?"
        now = set(self.catalog.rows(mine.format(""), [table]))
        then = set(self.catalog.rows(mine.format(f" AT (VERSION => {int(since)})"), [table]))
        if then - now:
            return ""
        found: dict[str, set[int]] = {}
        for corpus, _, shard, _ in now - then:
            found.setdefault(corpus, set()).add(shard)
        return "; ".join(
            f"{corpus} grew by shard{'s' if len(shards) > 1 else ''} {', '.join(map(str, sorted(shards)))}"
            for corpus, shards in sorted(found.items())
        )

    def was_rolled_back(self, step: str) -> bool:
        """Whether the step has no run because its rows were set back."""
        message = "SELECT 1 FROM lake.snapshots() WHERE commit_message LIKE ? LIMIT 1"
        return self.catalog.value(message, [f"rollback {step} %"]) is not None

    def parted(self, table: str) -> parts.Parted | None:
        """A table's parts, None if it has none."""
        if table not in self._parted:
            self._parted[table] = self._read_parts(table)
        return self._parted[table]

    def _read_parts(self, table: str) -> parts.Parted | None:
        if table in parts.FILES:
            return parts.files(self.catalog, table)
        writers = [step for step in self.steps if step.writes == table]
        if len(writers) != 1:
            return None
        step, columns = writers[0], self.schema[table].keys()
        by = step.input if step.kernel else step.partition
        if not by or not set(by) <= columns or "input" in columns:
            return None
        made = parts.recorded(self.catalog, step.name)
        return parts.Parted(by, {part: of.content or of.digest for part, of in made.items()})

    def forget(self, table: str) -> None:
        """The parts of a table have changed."""
        self._parted.pop(table, None)

    def expect(self, table: str, scope: str, fresh: str, columns: list[str]) -> None:
        """A plan has other rows for a table."""
        self.relations.expect(table, scope, fresh, columns)
        self.expected.add(table)

    def expect_parts(self, table: str, columns: tuple[str, ...], now: dict[parts.Part, str]) -> None:
        """A plan has other parts for a table, if it is a table in parts."""
        if self.parted(table) is not None:
            self._parted[table] = parts.Parted(columns, now)

    def type_of(self, column: str) -> str:
        """The type of a partition column, which is the same in all tables that have it."""
        return next(columns[column] for columns in self.schema.values() if column in columns)


def _schema(catalog: Catalog) -> dict[str, dict[str, str]]:
    """Columns and types of every table and view, in their order; from the metadata, 50 times faster than DESCRIBE."""
    found: dict[str, dict[str, str]] = {}
    tables = catalog.rows(
        f"SELECT t.table_name, c.column_name, c.column_type FROM {TABLES}.ducklake_table AS t "
        f"JOIN {TABLES}.ducklake_column AS c ON c.table_id = t.table_id "
        "WHERE t.end_snapshot IS NULL AND c.end_snapshot IS NULL AND c.parent_column IS NULL "
        "ORDER BY t.table_name, c.column_order"
    )
    for table, column, _ in tables:
        found.setdefault(table, {})[column] = ""
    for table in found:
        if not all(found[table].values()):
            found[table] = {row[0]: row[1] for row in catalog.rows(f'DESCRIBE lake."{table}"')}
    views = catalog.rows(f"SELECT view_name FROM {TABLES}.ducklake_view WHERE end_snapshot IS NULL")
    for (view,) in views:
        found[view] = {row[0]: row[1] for row in catalog.rows(f'DESCRIBE lake."{view}"')}
    return found


def settings_of(catalog: Catalog) -> dict[str, Any]:
    """The parameters of steps that the catalog's study sets."""
    source = catalog.value("SELECT source FROM study")
    return dict(json.loads(source).get("steps", {})) if source else {}


def check_settings(steps: tuple["Step", ...], settings: dict[str, Any]) -> None:
    """Raise StepError for a parameter that no step has."""
    known = {f"{step.name}.{name}" for step in steps for name in step.parameters}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise StepError(f"no step has the parameter {unknown[0]!r}; known are {', '.join(sorted(known))}")
