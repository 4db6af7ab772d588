"""Assesses one step: `assess` says what it has to do and why, as of one snapshot, and changes nothing.

A refresh executes the `Work` that comes out (`execute.py`), a plan counts it (`count.py`).
"""

import time
from dataclasses import dataclass, field

from catalog.quote import named
from catalog.store.scratch import Relation, Scratch
from queries.refresh.context import Context
from queries.refresh.kernel_input import KernelInput, kernel_input
from queries.refresh.parts import Made, Part
from queries.refresh.query_rows import query_rows
from queries.refresh.reasons import reasons
from queries.refresh.target import Target


@dataclass(frozen=True)
class Stale:
    """Why a step is not up to date."""

    target: Target
    inputs: dict[str, int]
    """The snapshot that last changed each table that the step reads."""
    recorded: dict[Part, Made]
    """The parts that the step has made."""
    lost: str
    """What is missing on disk of what the step made."""
    why: tuple[str, ...]
    begun: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Work:
    """What a step has to do: rows that are made already, or a kernel's input that it makes them from."""

    stale: Stale
    now: dict[Part, str]
    """Digest of what each part is made from now; empty if the step has no parts."""
    scope: str
    """Trusted predicate: the rows of the table that the new ones replace."""
    touched: list[Part]
    """Parts whose rows are replaced."""
    rows: Relation | None = None
    """The rows of a query; None for a kernel, and where only the record is to be brought up to date."""
    contents: dict[Part, tuple[int, str]] = field(default_factory=dict)
    """(rows, digest of the rows) of each part that was made."""
    kernel: KernelInput | None = None

    @property
    def target(self) -> Target:
        """The step."""
        return self.stale.target


def stale(target: Target, context: Context) -> Stale | None:
    """Whether anything is not as in the step's last run, and why; None if the step is up to date."""
    changes = context.last_changes()
    inputs = {table: changes[table] for table in sorted(target.reads)}
    last = context.runs.get(target.step.name)
    again = target.retry and problems(target, context) > 0
    lost = _lost_vectors(target, context)
    moved = sorted(target.reads & (context.expected | context.unknown))
    if last and (last[0], last[1]) == (target.fingerprint, inputs) and not (again or moved or lost):
        return None
    recorded = context.recorded(target.step.name) if target.parts else {}
    why = [*reasons(target, inputs, context)]
    why += [lost] if lost else []
    why += ["rows with a problem are tried again"] if again else []
    return Stale(target, inputs, recorded, lost, tuple(why))


def assess(found: Stale, context: Context, scratch: Scratch) -> Work:
    """What has to be done, read from one snapshot: call it inside `catalog.reading()`.

    The rows of a query are made now; of a kernel the input is read, and the keys are found that it has to look at.
    """
    target = found.target
    if target.step.kernel is None:
        made = query_rows(target, found.inputs, found.recorded, context, scratch)
        return Work(found, made.now, made.scope, made.touched, made.rows, made.contents)
    given = kernel_input(target, found.recorded, bool(found.lost), context)
    return Work(
        found,
        {} if target.keyed else given.digests,
        target.step.slice,
        [] if target.keyed else given.found.stale,
        kernel=given,
    )


def problems(target: Target, context: Context) -> int:
    """Rows of the step that carry a problem."""
    if "problem" not in target.columns:
        return 0
    mine = f"lake.main.{named(target.step.writes)} WHERE ({target.step.slice}) AND problem IS NOT NULL"
    return int(context.catalog.value(f"SELECT count(*) FROM {mine}"))


def _lost_vectors(target: Target, context: Context) -> str:
    """Why the vectors that the step wrote are not all there, empty if they are."""
    if target.step.writes != "lance":
        return ""
    from catalog.vectors.collections import Vectors

    vectors = Vectors(context.catalog.vectors)
    versions = context.catalog.rows(f"SELECT collection, version FROM lance WHERE {target.step.slice}")
    return "; ".join(filter(None, (vectors.lost(collection, version) for collection, version in versions)))
