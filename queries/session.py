"""What a person holds in Python: `queries.connect(path)` with `.sql()`, `.search()`, `.feature()`, `.refresh()`.

The examples below run on a small catalog: `cat` is a session on it, and `root` its folder.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from catalog import Catalog, Location
from catalog.errors import InputError
from catalog.store.snapshots import resolve
from queries.ask.feature import Context, FeatureCard, chosen_sae, feature_card
from queries.ask.held import HeldCatalog
from queries.terminal.answer import Result

if TYPE_CHECKING:
    from queries.refresh.engine import StepResult


class Session:
    """An open catalog. Queries read; only `refresh` writes.

    It has one connection, which is opened when it is first needed, may be used by several threads, and sees what
    others commit. Every method raises CatalogError if the session is closed or its catalog is gone.
    """

    def __init__(self, root: str | Path | Location, snapshot: int | None = None):
        self.location = Location.parse(root)
        self.snapshot = snapshot
        """The snapshot that is read, None for the newest there is."""
        self._held = HeldCatalog(self.location, snapshot)

    def __enter__(self) -> Self:
        self._held.check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<saeql catalog {self.location}{'' if self.snapshot is None else f' at snapshot {self.snapshot}'}>"

    def reading(self) -> AbstractContextManager[Catalog]:
        """The open catalog for reads of saeql's own, on a cursor of the caller's; a user's query goes to `sql`."""
        return self._held.reading()

    def close(self) -> None:
        """Close the connection. Whatever is asked afterwards raises CatalogError."""
        self._held.close()

    def sql(
        self,
        query: str,
        /,
        parameters: Sequence[Any] | Mapping[str, Any] | None = None,
        at: int | str | None = None,
        timeout: float | None = None,
        **named: Any,
    ) -> Result:
        """The rows of one SELECT; `at` is a snapshot or tag, to read the catalog as it was.

        Keyword arguments fill `$name`, or `parameters` does: a list for `?`, a dict for names that are taken here.
        `timeout` is in seconds, 0 for none; left out, it is SAEQL_TIMEOUT or 60. The query runs in another process.
        Raises QueryRefused for anything but reading the catalog, UnknownName for a snapshot that there is not,
        QueryStopped for a query over a limit, also if its result is larger than SAEQL_MEMORY.

        >>> cat.sql("SELECT feature FROM features WHERE feature < $most ORDER BY feature", most=2).rows()
        [{'feature': 0}, {'feature': 1}]
        >>> cat.sql("SELECT ? + ? AS sum", [1, 2]).rows()
        [{'sum': 3}]
        """
        from queries.ask.door import ask

        self._held.check()
        if parameters is not None and named:
            raise InputError(f"give parameters= or keyword arguments ({', '.join(named)}), not both")
        values = _plain_numbers(named or parameters)
        at = self.snapshot if at is None else at
        return Result(ask(self.location, query, values, at=at, timeout=timeout, whole=True).read_all())

    def search(
        self, text: str, k: int = 10, explainer: str | None = None, at: int | str | None = None
    ) -> list[dict[str, Any]]:
        """The k labels whose meaning is nearest to `text`, best first, with their features' scores.

        With `at`, the labels, vectors and scores of that snapshot or tag.
        Raises InputError for an empty text, UnknownName if nothing is labelled yet.

        >>> [row["rank"] for row in cat.search("matrix", k=2)]
        [1, 2]
        """
        from queries.ask.search import search

        if not text.strip():
            raise InputError("there is nothing to search for: give some text")
        if at is not None:
            with self.at(at) as then:
                return then.search(text, k, explainer)
        with self.reading() as catalog, catalog.naming(), catalog.reading():
            return search(catalog, text, k, explainer)

    def feature(
        self, feature: int, sae: str | None = None, contexts: int = 5, at: int | str | None = None
    ) -> FeatureCard:
        """All that is known, or was known at a snapshot, of one feature; `sae` may be left out if there is one.

        Raises UnknownName, naming the SAEs or the width, if there is no such feature; InputError for fewer than 0
        contexts.

        >>> card = cat.feature(64, contexts=3)
        >>> card.sae, card.feature, len(card.contexts) <= 3
        ('sae', 64, True)
        """
        if contexts < 0:
            raise InputError(f"contexts is {contexts}; 0 or more can be shown")
        if at is not None:
            with self.at(at) as then:
                return then.feature(feature, sae, contexts)
        with self.reading() as catalog, catalog.naming(), catalog.reading():
            return feature_card(catalog, chosen_sae(catalog, sae), feature, contexts)

    def at(self, snapshot: int | str) -> "Session":
        """A session of its own on the catalog as it was at a snapshot or tag. Raises UnknownName for an unknown one.

        >>> with cat.at(0) as empty:
        ...     empty.sql("SELECT 1 AS one").rows()
        [{'one': 1}]
        """
        self._held.check()
        if str(snapshot).isascii() and str(snapshot).isdigit():
            number = int(snapshot)  # opening at an unknown one raises the same error
        else:
            with self.reading() as catalog:
                number = resolve(catalog, snapshot)
        then = Session(self.location, number)
        with then.reading():
            return then

    def diff(
        self, a: int | str, b: int | str | None = None, table: str | None = None, limit: int | None = 1000
    ) -> list[dict[str, Any]]:
        """What differs from snapshot or tag `a` to `b`, which is left out for the one that the session reads.

        A row for each table that differs, with counts; with `table`, that table's rows that differ, at most `limit`.
        Raises UnknownName for an unknown snapshot or table.

        >>> [row["table"] for row in cat.diff(0, table=None) if row["table"] in ("labels", "scores")]
        ['labels', 'scores']
        """
        from queries.terminal.result_rows import difference_rows, table_rows

        if self.snapshot is not None:
            with Session(self.location) as now:
                return now.diff(a, self.snapshot if b is None else b, table, limit)
        with self.reading() as catalog:
            first, second = resolve(catalog, a), catalog.newest() if b is None else resolve(catalog, b)
            if table is None:
                return table_rows(catalog, first, second)
            return difference_rows(catalog, first, second, table, limit)[1]

    def plan(self, *steps: str) -> "list[StepResult]":
        """What `refresh` would do, step by step; nothing is written.

        >>> {result.state for result in cat.plan("feature_sums")}
        {'current'}
        """
        from queries.refresh.engine import Options, plan
        from queries.refresh.options import settings_of

        self._check_newest("plan")
        with self.reading() as catalog:
            return plan(catalog, steps, Options(settings=settings_of(catalog)))

    def refresh(self, *steps: str) -> "list[StepResult]":
        """Run what is stale, with the parameters of the catalog's study; the result of each step.

        Raises CatalogLocked if another process refreshes.
        """
        from queries.refresh.engine import Options, refresh
        from queries.refresh.options import settings_of

        self._check_newest("refresh")
        with Catalog.writable(self.location) as catalog:
            results = refresh(catalog, steps, Options(settings=settings_of(catalog)))
        # The schema may be another one now.
        self._held.forget()
        return results

    def _check_newest(self, what: str) -> None:
        self._held.check()
        if self.snapshot is not None:
            raise InputError(f"this session reads snapshot {self.snapshot} as it was: {what} is of the newest alone")


def connect(root: str | Path | Location) -> Session:
    """A session on the catalog in the folder or at the address `root`. Raises CatalogError if there is none.

    >>> with connect(root) as cat:
    ...     cat.sql("SELECT count(*) AS features FROM features").rows()
    [{'features': 256}]
    """
    session = Session(root)
    with session.reading():
        return session


def _plain_numbers(parameters: Any) -> Any:
    """Parameters with NumPy's numbers as Python's, which the engine takes."""
    if isinstance(parameters, Mapping):
        return {name: _plain_number(value) for name, value in parameters.items()}
    if isinstance(parameters, list | tuple):
        return [_plain_number(value) for value in parameters]
    return parameters


def _plain_number(value: Any) -> Any:
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0 else value


__all__ = ["Context", "FeatureCard", "Session", "chosen_sae", "connect"]
