"""Reads the input rows of a step with a kernel, and finds those that are new or changed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from catalog.quote import named
from queries.refresh import parts
from queries.refresh.context import Context
from queries.refresh.parts import Made
from queries.refresh.result import Key
from queries.refresh.step import called
from queries.refresh.target import Target

if TYPE_CHECKING:
    from scoring.client.request import Asked


@dataclass(frozen=True)
class KernelInput:
    """The input of a kernel, by key, in the order of the keys."""

    rows: dict[Key, dict[str, Any]]
    digests: dict[Key, str]
    """Of each row, with the kernel that reads it."""
    asked: "dict[Key, Asked]"
    """What the kernel would ask an endpoint for each row."""
    found: parts.Difference
    """Which keys the kernel has to look at."""
    left: int
    """Changed keys that stay as they are, as `keep` says."""

    @property
    def stale_rows(self) -> list[dict[str, Any]]:
        """The rows that are new or changed."""
        return [self.rows[key] for key in self.found.stale]


def kernel_input(target: Target, recorded: Mapping[Key, Made], lost: bool, context: Context) -> KernelInput:
    """The input of a step's kernel; if what it made is `lost` on disk, all of it is stale."""
    rows, digests, asked = _rows(target, context)
    if target.keyed:
        stored = _stored(target, context)
    else:
        # What is lost on disk is made anew, whatever it was made from.
        stored = {part: "" if lost else made.digest for part, made in recorded.items()}
    found = parts.difference(digests, stored)
    left = 0
    if target.filter and not target.keyed:
        found = parts.Difference(found.new, found.changed, [], found.same)
    if target.step.writes in context.options.keep and target.keyed:
        left = len(found.changed)
        found = parts.Difference(found.new, [], found.gone, [*found.same, *found.changed])
    return KernelInput(rows, digests, asked, found, left)


def key_of(target: Target, row: Mapping[str, Any]) -> Key:
    """The input key of an input row, or of a row that a kernel made."""
    return tuple(row[name] for name in target.step.input)


def replaced_by(target: Target, keys: object) -> str:
    """The predicate over the rows that a kernel made from the keys in the relation `keys`."""
    columns = ", ".join(map(named, target.step.input))
    return f"({target.step.slice}) AND ({columns}) IN (SELECT ({columns}) FROM {keys})"


def shape_of_keys(target: Target) -> dict[str, str]:
    """Types of the columns of an input key, of a step whose table has them."""
    return {name: target.columns[name] for name in target.step.input}


def _rows(target: Target, context: Context) -> "tuple[dict[Key, dict[str, Any]], dict[Key, str], dict[Key, Asked]]":
    """(row, digest, what it would ask) of each input key of the kernel, in the order of the keys."""
    step = target.step
    query = context.relations.query(step.query, step.parents)
    where = f" WHERE {target.filter}" if target.filter else ""
    asks = called(step.asks) if step.asks else None
    digest = "NULL" if asks else "md5(to_json(q)::VARCHAR)"
    text = f"SELECT q.*, {digest} AS _digest FROM ({query}\n) AS q{where}"
    rows: dict[Key, dict[str, Any]] = {}
    digests: dict[Key, str] = {}
    asked: dict[Key, Asked] = {}
    kernel = json.dumps([target.made["kernel"], None if asks else target.parameters])
    read = context.catalog.arrow(text, target.named_in(text)).to_pylist()
    for row in sorted(read, key=lambda row: key_of(target, row)):
        key, shown = key_of(target, row), row.pop("_digest")
        if asks:
            asked[key] = asks(row, target.parameters)
            shown = asked[key].shown
        rows[key] = row
        digests[key] = hashlib.blake2b((kernel + shown).encode(), digest_size=16).hexdigest()
    return rows, digests, asked


def _stored(target: Target, context: Context) -> dict[Key, str]:
    """Digest of the input that each key's rows were made from, of rows that keep it."""
    columns = ", ".join(map(named, target.step.input))
    # A row whose problem is to be tried again counts as made from something else.
    digest = "CASE WHEN count(problem) > 0 THEN '' ELSE any_value(input) END" if target.retry else "any_value(input)"
    where = f"({target.step.slice})" + (f" AND ({target.filter})" if target.filter else "")
    rows = context.catalog.rows(
        f"SELECT {columns}, {digest} FROM lake.main.{named(target.step.writes)} WHERE {where} GROUP BY {columns}"
    )
    return {tuple(row[:-1]): row[-1] for row in rows}
