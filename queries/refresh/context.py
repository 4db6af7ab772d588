"""Holds what the steps of one refresh or plan share: the schema, what changed when, parts, expected rows."""

import hashlib
import json
from collections.abc import Iterable
from copy import copy
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import sqlglot

from catalog import Catalog
from catalog.errors import CatalogError, StepError
from catalog.quote import TABLES
from catalog.schema.keys import KEYS
from catalog.store.comparison import compare
from catalog.store.scratch import Relation, Scratch
from queries.refresh import parts
from queries.refresh.options import Options
from queries.refresh.reads import tables_read
from queries.refresh.relations import Relations

if TYPE_CHECKING:
    from queries.refresh.step import Step
    from scoring.client.budget import Budget

LastRun = tuple[str, dict[str, int], dict[str, Any]]
"""(fingerprint, inputs, what it was made of) of the last run of a step."""


class Context:
    """One refresh or plan."""

    def __init__(self, catalog: Catalog, steps: tuple["Step", ...], options: Options) -> None:
        self.catalog, self.steps, self.options = catalog, steps, options
        self.schema = _schema(catalog)
        bodies = _views(catalog)
        self.view_parents = _parents(bodies)
        self.relations = Relations(bodies)
        self.budget: Budget | None = None
        self.expected: set[str] = set()
        """Tables that a plan has other rows for than the catalog."""
        self.unknown: set[str] = set()
        """Tables whose rows a plan cannot know."""
        self._expected_parts: dict[str, parts.Parted] = {}
        self._changes: tuple[int, dict[str, int]] | None = None
        self._files: tuple[int, dict[str, parts.Parted]] | None = None
        self._files_at: dict[int, dict[str, parts.Parted]] = {}
        self._messages: dict[int, str | None] = {}
        self._rolled_back: set[str] | None = None
        self._made: dict[str, dict[str, Any]] = {}
        made = catalog.rows("SELECT step, fingerprint, inputs, made FROM runs")
        self.runs: dict[str, LastRun] = {
            step: (fingerprint, json.loads(inputs), json.loads(of or "{}")) for step, fingerprint, inputs, of in made
        }
        """The last run of each step, kept up to date by the steps that run: nobody else writes them, as a refresh holds
        its lock."""
        self.made_parts = parts.recorded(catalog)
        """The parts that each step has made, likewise."""
        said = json.dumps([version("sqlglot"), self.schema], sort_keys=True)
        self._dialect = hashlib.blake2b(said.encode(), digest_size=16).hexdigest()

    def last_changes(self) -> dict[str, int]:
        """The snapshot that last changed each table, as of the current transaction."""
        now = self.catalog.seen()
        if self._changes is None or now < self._changes[0]:
            self._changes = (now, self.catalog.last_changes())
        elif self._changes[0] < now:
            since, before = self._changes
            self._changes = (now, {**before, **self.catalog.changes_between(since, now)})
        return self._changes[1]

    def beside(self, catalog: Catalog) -> "Context":
        """The same refresh on another connection, for another thread.

        Both share what was read from snapshots, which do not change. Each has its own memory of the newest snapshot.
        """
        other = copy(self)
        other.catalog = catalog
        return other

    def files(self, at: int | None = None) -> dict[str, parts.Parted]:
        """The parts of the tables of files, now or at a snapshot."""
        if at is not None:
            if at not in self._files_at:
                self._files_at[at] = parts.files(self.catalog, at)
            return self._files_at[at]
        changed = (self._changes[1] if self._changes else self.last_changes())["shards"]
        if self._files is None or self._files[0] != changed:
            self._files = (changed, parts.files(self.catalog))
        return self._files[1]

    def recorded(self, step: str) -> dict[parts.Part, parts.Made]:
        """The parts that a step has made."""
        return self.made_parts.get(step, {})

    def changed_by(self, since: int, last: int, table: str) -> str:
        """What changed a table after the snapshot `since`, at last in `last`, as far as the snapshots say."""
        grown = self._new_shards(since, table)
        if grown:
            return grown
        message = self._message(last)
        return f"{message!r} (snapshot {last})" if message else f"snapshot {last}"

    def knows(self, snapshot: int) -> bool:
        """Whether a snapshot is there, and was not expired."""
        return self._message(snapshot) is not None

    def _message(self, snapshot: int) -> str | None:
        """The message of a snapshot, None if it was expired."""
        if snapshot not in self._messages:
            said = f"SELECT coalesce(commit_message, '') FROM {TABLES}.ducklake_snapshot_changes WHERE snapshot_id = ?"
            message = self.catalog.value(said, [snapshot])
            self._messages[snapshot] = None if message is None else str(message)
        return self._messages[snapshot]

    def _new_shards(self, since: int, table: str) -> str:
        """`docs grew by shard 3`, if that is what happened to a table of files since a snapshot."""
        if table not in parts.FILES or not self.knows(since):
            return ""
        now, then = self.files()[table].digests.items(), self.files(since)[table].digests.items()
        if then - now:
            return ""
        found: dict[str, set[int]] = {}
        for part, _ in now - then:
            of = dict(zip(parts.FILES[table], part, strict=True))
            found.setdefault(of["corpus"], set()).add(of["shard"])
        return "; ".join(
            f"{corpus} grew by shard{'s' if len(shards) > 1 else ''} {', '.join(map(str, sorted(shards)))}"
            for corpus, shards in sorted(found.items())
        )

    def was_rolled_back(self, step: str) -> bool:
        """Whether the step has no run because its rows were set back."""
        if self._rolled_back is None:
            of = f"{TABLES}.ducklake_snapshot_changes WHERE commit_message LIKE 'rollback %'"
            rows = self.catalog.rows(f"SELECT commit_extra_info FROM {of}")
            self._rolled_back = {name for (extra,) in rows for name in json.loads(extra or "{}").get("steps", [])}
        return step in self._rolled_back

    def parted(self, table: str) -> parts.Parted | None:
        """A table's parts, None if it has none."""
        if table in self._expected_parts:
            return self._expected_parts[table]
        if table in parts.FILES:
            return self.files()[table]
        writers = [step for step in self.steps if step.writes == table]
        if len(writers) != 1:
            return None
        step, columns = writers[0], self.schema[table].keys()
        by = step.input if step.kernel else step.partition
        if not by or not set(by) <= columns or "input" in columns:
            return None
        return parts.Parted(by, {part: of.content or of.digest for part, of in self.recorded(step.name).items()})

    def parameters_of(self, step: "Step") -> dict[str, Any]:
        """The step's parameters, as its file or the options say."""
        settings = self.options.settings
        return {name: settings.get(f"{step.name}.{name}", value) for name, value in step.parameters.items()}

    def made_of(self, step: "Step", parameters: dict[str, Any]) -> dict[str, Any]:
        """`Step.made_of`; what has the same text as in its last run is not taken apart again."""
        if step.name not in self._made:
            last = self.runs.get(step.name)
            self._made[step.name] = step.made_of(parameters, self.schema, last[2] if last else {}, self._dialect)
        return self._made[step.name]

    def expect(self, table: str, scope: str, fresh: Relation, columns: Iterable[str]) -> None:
        """A plan has other rows for a table."""
        self.relations.expect(table, scope, fresh, columns)
        self.expected.add(table)

    def expect_rows(self, table: str, rows: list[dict[str, Any]], scratch: Scratch) -> None:
        """A plan has these rows for a table, if they differ from those that are there."""
        fresh = scratch.rows(rows, like=table)
        if compare(scratch, table, fresh, list(KEYS[table])).changes:
            self.expect(table, "true", fresh, self.schema[table])

    def expect_parts(self, table: str, columns: tuple[str, ...], now: dict[parts.Part, str]) -> None:
        """A plan has other parts for a table, if it is a table in parts."""
        if self.parted(table) is not None:
            self._expected_parts[table] = parts.Parted(columns, now)

    def type_of(self, column: str) -> str:
        """The type of a partition column, which is the same in all tables that have it."""
        types = [columns[column] for columns in self.schema.values() if column in columns]
        if not types:
            raise StepError(f"no table has the column {column!r}, by which a step is partitioned")
        return types[0]


def view_parents(catalog: Catalog) -> dict[str, set[str]]:
    """The tables and views that each view of the catalog reads."""
    return _parents(_views(catalog))


def _views(catalog: Catalog) -> dict[str, str]:
    rows = catalog.rows(f"SELECT view_name, sql FROM {TABLES}.ducklake_view WHERE end_snapshot IS NULL")
    return {name.lower(): body for name, body in rows}


def _parents(bodies: dict[str, str]) -> dict[str, set[str]]:
    return {name: set(_read_by(name, body)) for name, body in bodies.items()}


@lru_cache(256)
def _read_by(name: str, body: str) -> frozenset[str]:
    """What a view reads, taken apart once for all refreshes and plans of a process."""
    try:
        tree = sqlglot.parse_one(body, read="duckdb")
    except sqlglot.errors.SqlglotError as error:
        raise CatalogError(f"the view {name!r} of this catalog is no query: see `saeql doctor`") from error
    return frozenset(tables_read(tree, f"view {name}") - {name})


def _schema(catalog: Catalog) -> dict[str, dict[str, str]]:
    """Columns and types of every table and view, in their order; 30 times faster than to DESCRIBE each."""
    found: dict[str, dict[str, str]] = {}
    for table, column, kind in catalog.rows(
        "SELECT table_name, column_name, data_type FROM duckdb_columns() "
        "WHERE database_name = 'lake' ORDER BY table_name, column_index"
    ):
        found.setdefault(table, {})[column] = kind
    return found
