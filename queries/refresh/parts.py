"""Finds the parts of tables that a step has to read again.

A part is what belongs to one value of a step's `partition` columns, such as one SAE on one shard of a corpus. Its
digest follows from the digests of the same part of every table that is parted by some of these columns: files of
the harvest by their content, tables of other steps by theirs. A table that is not parted counts as a whole.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from catalog import Catalog
from catalog.quote import named, quoted
from catalog.store.scratch import Relation
from catalog.store.transaction import Transaction

Part = tuple[Any, ...]
_FEW = 16

FILES = {
    "activations": ("sae", "corpus", "shard"),
    "tokens": ("corpus", "shard"),
    "documents": ("corpus", "shard"),
}
"""Tables whose parts are the files of an ingest."""


@dataclass(frozen=True)
class Parted:
    """A table in parts: the columns, and the digest of each part."""

    columns: tuple[str, ...]
    digests: Mapping[Part, str]
    rows: Mapping[Part, int] = field(default_factory=dict)
    """Of a table of files."""


def files(catalog: Catalog, at: int | None = None) -> dict[str, Parted]:
    """The parts of each of `FILES`, also as they were at a snapshot."""
    version = "" if at is None else f" AT (VERSION => {int(at)})"
    found: dict[str, dict[Part, tuple[str, int]]] = {table: {} for table in FILES}
    shards = catalog.rows(f"SELECT relation, sae, corpus, shard, blake2b, rows FROM lake.shards{version}")
    for relation, sae, corpus, shard, digest, rows in shards:
        values = {"sae": sae, "corpus": corpus, "shard": shard}
        found[relation][tuple(values[column] for column in FILES[relation])] = (digest, rows)
    return {
        table: Parted(
            columns,
            {part: digest for part, (digest, _) in found[table].items()},
            {part: rows for part, (_, rows) in found[table].items()},
        )
        for table, columns in FILES.items()
    }


@dataclass(frozen=True)
class Made:
    """What is recorded of a part that a step has made."""

    digest: str
    """Of what it was made from."""
    rows: int | None = None
    content: str | None = None
    """Digest of its rows."""


def recorded(catalog: Catalog) -> dict[str, dict[Part, Made]]:
    """The parts that each step has made."""
    found: dict[str, dict[Part, Made]] = {}
    for step, part, *row in catalog.rows("SELECT step, part, digest, rows, content FROM lake.partitions"):
        found.setdefault(step, {})[tuple(json.loads(part).values())] = Made(*row)
    return found


def written(columns: Iterable[str], part: Part) -> str:
    """A part as it is recorded: with the columns' names, so that its rows can be found without its step."""
    return json.dumps(dict(zip(columns, part, strict=True)))


def record(
    tx: Transaction,
    step: str,
    columns: Iterable[str],
    before: Mapping[Part, Made],
    after: Mapping[Part, Made],
) -> None:
    """Write down what a step has made, where that differs from what is recorded."""
    columns = list(columns)
    changed = {part: made for part, made in after.items() if before.get(part) != made}
    stale = [written(columns, part) for part in before if part not in after or part in changed]
    if stale:
        these = "list_contains([?], step) AND list_contains(?, part)"
        tx.execute(f"DELETE FROM lake.partitions WHERE {these}", [step, stale])
    if changed:
        rows = [(written(columns, part), made.digest, made.rows, made.content) for part, made in changed.items()]
        tx.execute(
            "INSERT INTO lake.partitions (step, part, digest, rows, content) SELECT ?::VARCHAR, "
            "unnest(?::VARCHAR[]), unnest(?::VARCHAR[]), unnest(?::BIGINT[]), unnest(?::VARCHAR[])",
            [step, *map(list, zip(*rows, strict=True))],
        )


def digest_of(*texts: str | None) -> str:
    """BLAKE2b-128 of these texts together."""
    return hashlib.blake2b("|".join(text or "" for text in texts).encode(), digest_size=16).hexdigest()


def joined(columns: tuple[str, ...], parents: Mapping[str, Parted], seed: str) -> dict[Part, str]:
    """The parts of a step by these columns: every combination that all its parted parents have."""
    found: list[tuple[dict[str, Any], list[str]]] = [({}, [seed])]
    for name in sorted(parents):
        parted = parents[name]
        index: dict[Part, list[tuple[dict[str, Any], str]]] = {}
        bound = tuple(c for c in parted.columns if found and c in found[0][0])
        for part, digest in parted.digests.items():
            values = dict(zip(parted.columns, part, strict=True))
            index.setdefault(tuple(values[c] for c in bound), []).append((values, digest))
        found = [
            ({**values, **more}, [*digests, digest])
            for values, digests in found
            for more, digest in index.get(tuple(values[c] for c in bound), [])
        ]
    return {
        tuple(values[c] for c in columns): digest_of(*digests)
        for values, digests in found
        if set(columns) <= values.keys()
    }


@dataclass(frozen=True)
class Difference:
    """Which parts, or keys, are new, changed, gone, or as they were."""

    new: list[Part] = field(default_factory=list)
    changed: list[Part] = field(default_factory=list)
    gone: list[Part] = field(default_factory=list)
    same: list[Part] = field(default_factory=list)

    @property
    def stale(self) -> list[Part]:
        """Those that have to be made."""
        return [*self.new, *self.changed]


def difference(now: Mapping[Part, str], then: Mapping[Part, str]) -> Difference:
    """Compare digests by part."""
    return Difference(
        [part for part in now if part not in then],
        [part for part in now if part in then and then[part] != now[part]],
        [part for part in then if part not in now],
        [part for part in now if then.get(part) == now[part]],
    )


@dataclass(frozen=True)
class Selection:
    """What a run of a parted step reads and writes."""

    everything: bool
    """All parts, as in a first run: nothing is narrowed."""
    read: list[Part]
    """Parts whose inputs are read."""
    groups: list[Part]
    """Values of those partition columns that the written table has: its rows with them are replaced."""
    grown: list[Part]
    """Groups whose rows so far are kept and added to."""


def select(columns: tuple[str, ...], written: Iterable[str], found: Difference, folds: bool) -> Selection:
    """What to read and replace. A group with a part that changed or went away is made anew from all its parts."""
    at = [columns.index(c) for c in columns if c in set(written)]

    def group(part: Part) -> Part:
        return tuple(part[i] for i in at)

    if not found.same:
        return Selection(True, found.stale, [], [])
    spoiled = {group(part) for part in (*found.changed, *found.gone)}
    whole_group = len(at) == len(columns)
    there = {group(part) for part in found.same}
    grown = {group(part) for part in found.new if group(part) in there} - spoiled
    if not folds:
        spoiled, grown = spoiled | grown, set()
    again = [] if whole_group else [part for part in found.same if group(part) in spoiled]
    groups = dict.fromkeys(group(part) for part in (*found.stale, *found.gone))
    return Selection(False, [*found.stale, *again], list(groups), sorted(grown))


def narrowed(relation: str, columns: Iterable[str], parts: Iterable[Part], these: Relation, *, bounded: bool) -> str:
    """The rows of a relation whose columns are among the parts, which `these` has as rows.

    Bounds (`bounded`) let whole files be skipped. To look for them takes milliseconds: not where files are few.
    """
    columns, parts = list(columns), list(parts)
    same = " AND ".join(f"p.{named(column)} = q.{named(column)}" for column in columns)
    bounds = ["true"]
    for i, column in enumerate(columns if bounded else ()):
        values = sorted({part[i] for part in parts})
        if values and all(isinstance(value, int) for value in values):
            bounds.append(f"p.{named(column)} BETWEEN {values[0]} AND {values[-1]}")
        elif 0 < len(values) <= _FEW:
            bounds.append(f"p.{named(column)} IN ({', '.join(map(quoted, values))})")
    return f"(SELECT p.* FROM {relation} AS p SEMI JOIN {these} AS q ON {same} WHERE {' AND '.join(bounds)})"
