"""Finds the scorer of a protocol: what it would ask about a row of its step, and how it judges the row's windows.

Each protocol has a module with two functions, `asks` and `judge`. It is imported when a row of its protocol comes, so
that a study without embeddings loads no encoder.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any, Protocol, cast

from catalog import Catalog
from catalog.errors import CatalogError
from scoring.client.language_client import Client
from scoring.client.request import Asked
from scoring.windows import Judgement

Row = dict[str, Any]
"""A row of the step's query: settings and threshold of a scorer, a label, and `examples`, a list of windows."""

MODULES: Mapping[str, str] = {
    "detection": "detection_rows",
    "embedding": "embedding",
    "example_embedding": "example_embedding",
    "fuzzing": "fuzzing",
    "intruder": "intruder",
}
"""Protocol -> its module."""


class Counted(Protocol):
    """Counts what a client has paid."""

    def update(self) -> None:
        """Bring the run up to what was paid so far."""
        ...


class Given(Protocol):
    """What a scorer gets besides its rows, which all are of one scorer."""

    @property
    def settings(self) -> dict[str, Any]:
        """Of the scorer, checked."""
        ...

    @property
    def catalog(self) -> Catalog: ...

    def client(self) -> AbstractContextManager[tuple[Client, Counted]]:
        """The endpoint that the settings name."""
        ...


class Scorer(Protocol):
    """A module that judges by one protocol."""

    def asks(self, row: Row, settings: dict[str, Any]) -> Asked:
        """What the row shows and asks: its judgements are made anew if and only if that changes."""
        ...

    def judge(self, rows: list[Row], given: Given) -> Iterator[tuple[Row, list[Judgement]]]:
        """Each row with a judgement for each of its windows, in the order of arrival."""
        ...


def scorer(protocol: str) -> Scorer:
    """The scorer of a protocol. Raises CatalogError for a protocol that this version of saeql does not know."""
    if protocol not in MODULES:
        raise CatalogError(f"there is no protocol {protocol!r} of scorers; known: {', '.join(MODULES)}")
    return cast(Scorer, import_module(f"scoring.scorers.{MODULES[protocol]}"))


def places(row: Row) -> list[Any]:
    """Where the row's windows lie and which class each is of: no judgement depends on it, but its row says so."""
    return [*([w["corpus"], w["start"], w["activation"], w["active"], w["stratum"]] for w in row["examples"])]
