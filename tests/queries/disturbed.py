"""A catalog with work for every kind of step, refreshes of it that are killed, and what must be as if none had been."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from catalog import Catalog
from catalog.answers import canonical_request
from catalog.schema.keys import KEYS
from catalog.store.shards import file_digest
from catalog.vectors.collections import Vectors
from ingest.sae.architecture import Weights
from ingest.sae.config import SAEConfig
from ingest.sae.model import SAE, WEIGHTS_FILE
from tests.queries.made import WIDTH, Document, documents, explainer, grow, make, scorer

REPOSITORY = Path(__file__).parents[2]
TEXTS = documents(150, seed=3)
FIRST, MORE = TEXTS[:80], (TEXTS[80:100], TEXTS[100:120])
"""The text of the first two shards, and what comes later, a shard each."""
VOLATILE = {
    "runs": ("inputs", "added", "changed", "removed", "calls", "tokens", "cost", "seconds"),
    "partitions": ("digest",),
    "lance": ("version",),
    "shards": ("path",),
}
"""Columns that tell when something was done, and in how many goes; a shard's name is never used again."""
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "SAEQL_THREADS": "1", "HF_HUB_OFFLINE": "1"}
"""With one thread, tables of a few rows take two thirds of the time."""
Rows = list[tuple[Any, ...]]


def build(root: Path, texts: list[Document] | None = None) -> None:
    """Two shards of text, an SAE with weights, a free explainer, and one and a scorer that ask OPENAI_BASE_URL."""
    paid: dict[str, Any] = {"jobs": 2}
    explainers = [explainer(), explainer("asked", "openai", **paid)]
    scorers = [scorer("asked", "openai", examples=4, **paid)]
    made = make(root, texts or FIRST, explainers=explainers, scorers=scorers)
    with made.open() as catalog, catalog.write("weights") as tx:
        tx.execute("UPDATE lake.saes SET weights = 's', digest = ?", [_weights(catalog, "s", WIDTH)])


def add_text(catalog: Catalog, texts: list[Document], number: int) -> None:
    """One more shard, and one more SAE, which no text was run through: new rows for decoder_vectors."""
    grow(catalog, texts, number)
    name = f"t{number}"
    copied = "INSERT INTO lake.saes SELECT * REPLACE (? AS sae, ? AS weights, ? AS digest, 3 AS width) FROM lake.saes"
    with catalog.write("another SAE") as tx:
        tx.execute(f"{copied} WHERE sae = 's'", [name, name, _weights(catalog, name, 3)])


def _weights(catalog: Catalog, name: str, width: int) -> str:
    """Write the weights of an SAE; their digest."""
    chance = torch.Generator().manual_seed(width)
    decoder = torch.nn.functional.normalize(torch.randn(width, 4, generator=chance))
    config = SAEConfig(d_in=4, width=width, k=2, model_name="m", hookpoint="h")
    SAE(config, Weights(decoder, torch.zeros(width), decoder, torch.zeros(4))).save(catalog.weights / name)
    return file_digest(catalog.weights / name / WEIGHTS_FILE)


@dataclass(frozen=True)
class Contents:
    """What a catalog holds."""

    tables: dict[str, Rows]
    """Rows of every table, without what is VOLATILE."""
    vectors: dict[str, dict[tuple[Any, ...], list[float]]]
    """Collection -> key -> vector, of the version that the catalog names."""


def contents(root: Path) -> Contents:
    """All that a catalog holds."""
    tables, vectors = {}, {}
    with Catalog(root, read_only=True) as catalog:
        for table in KEYS:
            left_out = VOLATILE.get(table)
            listed = f"* EXCLUDE ({', '.join(left_out)})" if left_out else "*"
            tables[table] = catalog.rows(f"SELECT {listed} FROM lake.{table} ORDER BY ALL")
        for collection, version in catalog.rows("SELECT collection, version FROM lance"):
            rows = Vectors(catalog.vectors).read(collection, version).to_pylist()
            vectors[collection] = {tuple(v for n, v in row.items() if n != "vector"): row["vector"] for row in rows}
    return Contents(tables, vectors)


def differences(one: Contents, other: Contents) -> list[str]:
    """The tables and collections that differ."""
    found = [table for table in KEYS if one.tables[table] != other.tables[table]]
    for name in sorted(one.vectors.keys() | other.vectors.keys()):
        x, y = one.vectors.get(name, {}), other.vectors.get(name, {})
        # The last bits of an embedding depend on what was embedded with it.
        if x.keys() != y.keys() or not all(np.allclose(x[key], y[key], atol=1e-5) for key in x):
            found.append(f"vectors of {name}")
    return found


def stored(root: Path) -> set[str]:
    """The requests whose answers are stored."""
    path = root / "answers.sqlite"
    if not path.exists():
        return set()
    with sqlite3.connect(path) as answers:
        there = answers.execute("SELECT 1 FROM sqlite_master WHERE name = 'answers'").fetchall()
        return {request for (request,) in answers.execute("SELECT request FROM answers")} if there else set()


def sent(requests: list[dict[str, Any]]) -> list[str]:
    """Requests as they arrived at the endpoint, as the answers are stored by."""
    return [
        canonical_request(
            body["model"], {k: v for k, v in body.items() if k not in ("model", "messages")}, body["messages"]
        )
        for body in requests
    ]


class Killer:
    """A process that refreshes catalogs in children of its own, which ask `url`, and what becomes of them."""

    def __init__(self, url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("killed_refresh.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, **ENVIRONMENT, "OPENAI_BASE_URL": url, "PYTHONPATH": str(REPOSITORY)},
        )
        if self._answer() != "ready\n":
            raise RuntimeError("the process that refreshes did not begin")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def refresh(self, root: Path, **job: Any) -> tuple[int, float]:
        """Refresh in a child: its exit code, negative for the signal that ended it, and its seconds.

        It kills itself `when` ("before" or "after") the `n`-th call of the function `target` with `said` among its
        arguments, or is killed `after` seconds, or ends.
        """
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"root": str(root), **job}) + "\n")
        self._process.stdin.flush()
        code, seconds = json.loads(self._answer())
        return int(code), float(seconds)

    def _answer(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline()


def copy(root: Path, place: Path) -> Path:
    """A catalog that may be changed."""
    return Path(shutil.copytree(root, place))
