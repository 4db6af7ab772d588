"""Judges labels by the protocol of each scorer: a row for each window, given its feature's label or the null's."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from catalog import Catalog
from catalog.errors import EndpointRefused, InputError, SaeqlError
from scoring.client.language_client import Client
from scoring.client.request import Asked
from scoring.kernels.counted_client import Counter, counted_client, read_settings
from scoring.kernels.kernel import Run
from scoring.scorers.scorer import scorer
from scoring.windows import Judgement

BATCH = 16
"""Labels whose judgements are committed together."""


@dataclass(frozen=True)
class _Given:
    """What the scorer of some rows gets besides them."""

    settings: dict[str, Any]
    model: str
    run: Run

    @property
    def catalog(self) -> Catalog:
        return self.run.catalog

    def client(self) -> AbstractContextManager[tuple[Client, Counter]]:
        return counted_client(self.model, self.settings, self.run)


def judgements(rows: list[dict[str, Any]], run: Run) -> Iterator[list[dict[str, Any]]]:
    """One row per window of each (feature, label) pair; where no answer came, with the problem.

    Raises EndpointRefused at the end, if there is a scorer whose endpoint nobody allowed.
    """
    refused: SaeqlError | None = None
    done = 0
    ready: list[dict[str, Any]] = []
    for _, group in groupby(sorted(rows, key=lambda row: row["scorer"]), key=lambda row: row["scorer"]):
        own = list(group)
        given = _Given(read_settings(own[0], "scorer"), own[0]["model"], run)
        try:
            for row, judged in scorer(own[0]["protocol"]).judge(own, given):
                ready += [_judgement_row(row, window, one) for window, one in zip(row["examples"], judged, strict=True)]
                done += 1
                run.progress(done, len(rows))
                if done % BATCH == 0:
                    yield ready
                    ready = []
        except (EndpointRefused, InputError) as error:
            # The other scorers go on.
            refused = refused or error
    if ready:
        yield ready
    if refused is not None:
        raise refused


def asks(row: dict[str, Any], _parameters: dict[str, Any]) -> Asked:
    """What a row shows its scorer, and what it asks an endpoint."""
    return scorer(row["protocol"]).asks(row, read_settings(row, "scorer"))


def _judgement_row(row: dict[str, Any], window: dict[str, Any], judged: Judgement) -> dict[str, Any]:
    return {
        **{name: row[name] for name in ("sae", "feature", "label_feature", "explainer", "scorer", "protocol")},
        "corpus": window["corpus"],
        "example": window["start"],
        "split": "test",
        "active": window["active"],
        "activation": window["activation"],
        "threshold": row["threshold"],
        "stratum": window["stratum"],
        "marked": judged.marked,
        "predicted": judged.predicted,
        "probability": judged.probability,
        "similarity": judged.similarity,
        "problem": judged.problem,
    }
