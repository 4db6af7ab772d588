"""Compares two snapshots, table by table and key by key.

DuckLake's change feed names the keys that were touched in between; only those are read, as they are at either
end. What changed and changed back is no difference. The bulk tables are compared by their files.
"""

import math
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from catalog.errors import UnknownName
from catalog.quote import named
from catalog.schema.keys import KEYS
from catalog.store.catalog import Catalog

BULK = ("activations", "documents", "tokens")
"""Tables whose rows come in shard files: counted by file, as `shards` records them."""
FIGURES = {"scores": "f1", "separation": "separation", "evaluations": "fve"}
"""The column of a table that says how good a row is: its differences are sorted by it, biggest loss first."""
_SHOWN = {"labels": ("label", "problem"), "shards": ("relation", "rows")} | {t: (c,) for t, c in FIGURES.items()}
"""What is shown of a row that is only at one end; all of it for other tables."""


@dataclass(frozen=True)
class TableDifference:
    """Rows of one table that differ, by key."""

    table: str
    added: int
    removed: int
    changed: int
    note: str | None = None
    """What is not in the counts: the table is at one end only, has other columns, was changed outside of its files."""


@dataclass(frozen=True)
class RowDifference:
    """One key that differs."""

    change: str
    """`added`, `removed` or `changed`."""
    key: dict[str, Any]
    old: dict[str, Any] | None = None
    """Of a changed row, the columns that changed."""
    new: dict[str, Any] | None = None
    delta: float | None = None
    """Of a changed row in a table with a figure, how much it grew."""


@dataclass(frozen=True)
class TableRows:
    """Differing rows of one table: the first of them, and how many there are."""

    table: str
    total: int
    rows: list[RowDifference] = field(default_factory=list)


def diff(catalog: Catalog, a: int, b: int) -> list[TableDifference]:
    """The tables that differ from snapshot `a` to `b`, which may be the older one; by name."""
    early, late = sorted((a, b))
    before, after = _tables(catalog, early), _tables(catalog, late)
    touched = {table for (table,) in catalog.rows(_sql("touched"), {"a": early, "b": late})}
    found = []
    for table in sorted(before.keys() | after.keys()):
        same = before.get(table) == after.get(table)
        if same and after[table] not in touched:
            continue
        made = _counted(catalog, table, a, b)
        if made.added or made.removed or made.changed or made.note:
            found.append(made)
    return found


def diff_rows(catalog: Catalog, a: int, b: int, table: str, limit: int | None = None) -> TableRows:
    """The rows of `table` that differ from snapshot `a` to `b`, at most `limit` of them.

    Tables with a figure (see FIGURES) are sorted by its loss, others by key. Of activations and tokens the files
    are given instead of the rows. Raises UnknownName for a table that neither snapshot has.
    """
    known = _tables(catalog, a).keys() | _tables(catalog, b).keys()
    if table not in known:
        raise UnknownName(f"neither snapshot {a} nor {b} has a table {table!r}; they have {', '.join(sorted(known))}")
    if table in ("activations", "tokens"):
        files = _files(catalog, table, a, b)
        rows = [
            RowDifference(change, {"corpus": corpus, "sae": sae, "shard": shard, "path": path, "rows": count})
            for change, corpus, sae, shard, path, count in files[:limit]
        ]
        return TableRows(table, len(files), rows)
    ends = _Ends(catalog, table, a, b)
    return TableRows(table, sum(ends.counts()), ends.rows(limit))


def _counted(catalog: Catalog, table: str, a: int, b: int) -> TableDifference:
    if table in BULK:
        counts = {"added": 0, "removed": 0}
        for change, *_, rows in _files(catalog, table, a, b):
            counts[change] += rows
        # Its files are the same and it changed all the same: somebody's own statement.
        note = None if any(counts.values()) else f"changed other than by shards: see --table {table}"
        return TableDifference(table, counts["added"], counts["removed"], 0, note)
    ends = _Ends(catalog, table, a, b)
    added, removed, changed = ends.counts()
    return TableDifference(table, added, removed, changed, ends.note())


class _Ends:
    """The touched rows of one table at both ends, in two temporary tables `_a` and `_b`."""

    def __init__(self, catalog: Catalog, table: str, a: int, b: int):
        self.catalog, self.table, self.a, self.b = catalog, table, a, b
        ids = [_tables(catalog, at).get(table) for at in (a, b)]
        self.columns = {at: self._columns(at) if there else {} for at, there in zip((a, b), ids, strict=True)}
        self.all = {**self.columns[b], **{n: t for n, t in self.columns[a].items() if n not in self.columns[b]}}
        self.key = [name for name in KEYS.get(table, tuple(self.all)) if name in self.all]
        self.values = [name for name in self.all if name not in self.key]
        # A table that was made anew shares no history with its namesake: compare it whole.
        keys = self._touched() if ids[0] == ids[1] and a != b else None
        for name, at in (("_a", a), ("_b", b)):
            self._read(name, at, keys)

    def note(self) -> str | None:
        """How the table itself differs."""
        old, new = self.columns[self.a], self.columns[self.b]
        if not old or not new:
            return f"only at snapshot {self.b if new else self.a}"
        said = [f"column {name} only at {self.b}" for name in new if name not in old]
        said += [f"column {name} only at {self.a}" for name in old if name not in new]
        return "; ".join(said) or None

    def counts(self) -> tuple[int, int, int]:
        """(added, removed, changed)."""
        using = ", ".join(map(named, self.key))
        added = self.catalog.value(f"SELECT count(*) FROM _b ANTI JOIN _a USING ({using})")
        removed = self.catalog.value(f"SELECT count(*) FROM _a ANTI JOIN _b USING ({using})")
        changed = 0
        if self.values:
            both = f"FROM _a AS o JOIN _b AS n USING ({using})"
            changed = self.catalog.value(f"SELECT count(*) {both} WHERE {self._differs()}")
        return int(added), int(removed), int(changed)

    def rows(self, limit: int | None) -> list[RowDifference]:
        """The differing rows in their order."""
        keys = ", ".join(f"coalesce(o.{named(k)}, n.{named(k)}) AS {named(k)}" for k in self.key)
        same = " AND ".join(f"o.{named(k)} IS NOT DISTINCT FROM n.{named(k)}" for k in self.key)
        figure = FIGURES.get(self.table)
        delta = f"n.{named(figure)} - o.{named(figure)}" if figure in self.values else "NULL"
        old, new = (", ".join(f"{side}.{named(v)}" for v in self.values) for side in "on")
        differs = f"o._there IS NULL OR n._there IS NULL OR {self._differs()}"
        order = ", ".join(str(3 + i) for i in range(1, len(self.key) + 1))
        found = self.catalog.rows(
            f"SELECT o._there, n._there, {', '.join([f'{delta} AS delta', keys, old, new] if old else ['NULL', keys])} "
            f"FROM _a AS o FULL JOIN _b AS n ON {same} WHERE {differs} "
            f"ORDER BY 3 NULLS LAST, {order}" + ("" if limit is None else f" LIMIT {int(limit)}")
        )
        return [self._row(row) for row in found]

    def _row(self, row: tuple[Any, ...]) -> RowDifference:
        was, now, delta, *rest = row
        n, k = len(self.values), len(self.key)
        key = dict(zip(self.key, rest[:k], strict=True))
        old = dict(zip(self.values, rest[k : k + n], strict=True))
        new = dict(zip(self.values, rest[k + n :], strict=True))
        shown = [name for name in _SHOWN.get(self.table, self.values) if name in self.values]
        if not was:
            return RowDifference("added", key, None, {name: new[name] for name in shown})
        if not now:
            return RowDifference("removed", key, {name: old[name] for name in shown}, None)
        other = [name for name in self.values if not _equal(old[name], new[name])]
        return RowDifference(
            "changed", key, {name: old[name] for name in other}, {name: new[name] for name in other}, delta
        )

    def _columns(self, at: int) -> dict[str, str]:
        # The text of a document is as long as the documents: its hash says whether it changed.
        described = self.catalog.rows(f"DESCRIBE FROM lake.{named(self.table)} AT (VERSION => {at})")
        return {row[0]: row[1] for row in described if (self.table, row[0]) != ("documents", "text")}

    def _touched(self) -> str:
        """A temporary table with the keys that changed in between, and perhaps others."""
        early, late = sorted((self.a, self.b))
        # The feed's bounds must be snapshots that there are: the one after `early` may have been expired. Then the
        # keys that `early` changed come along; a filter on snapshot_id would lose deletions (DuckLake of 1.5.5).
        there = self.catalog.value("SELECT count(*) FROM lake.snapshots() WHERE snapshot_id = ?", [early + 1])
        keys = ", ".join(map(named, self.key))
        self.catalog.connection.execute(
            f"CREATE OR REPLACE TEMP TABLE _touched AS SELECT DISTINCT {keys} "
            "FROM ducklake_table_changes('lake', 'main', ?, ?, ?)",
            [self.table, early + 1 if there else early, late],
        )
        return "_touched"

    def _read(self, name: str, at: int, keys: str | None) -> None:
        there = self.columns[at]
        listed = ", ".join(
            named(column) if column in there else f"NULL::{kind} AS {named(column)}"
            for column, kind in self.all.items()
        )
        source = f"FROM lake.{named(self.table)} AT (VERSION => {at})" if there else "WHERE false"
        only = ""
        if keys:
            using = ", ".join(map(named, self.key))
            only = f" SEMI JOIN {keys} USING ({using})"
        self.catalog.connection.execute(
            f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT true AS _there, {listed} {source}{only}"
        )

    def _differs(self) -> str:
        return " OR ".join(f"o.{named(v)} IS DISTINCT FROM n.{named(v)}" for v in self.values) or "false"


def _equal(x: Any, y: Any) -> bool:
    if isinstance(x, float) and isinstance(y, float) and math.isnan(x) and math.isnan(y):
        return True
    return bool(x == y)


def _files(catalog: Catalog, relation: str, a: int, b: int) -> list[tuple[Any, ...]]:
    if any("shards" not in _tables(catalog, at) for at in (a, b)):
        return []
    return catalog.rows(_sql("shards_between").format(a=int(a), b=int(b)), {"relation": relation})


def _tables(catalog: Catalog, at: int) -> dict[str, int]:
    """Id of each table that there was at a snapshot."""
    return dict(catalog.rows(_sql("tables_at"), {"at": at}))


@cache
def _sql(name: str) -> str:
    return (resources.files("catalog.versions") / "sql" / f"{name}.sql").read_text()
