"""Scores a feature by embeddings, without a label: are its windows like each other, and unlike all others?

After delphi's example embedding, which asks in batches whether a held-out firing window lies nearer to firing windows
than to others. Here each test window is compared with all of some train windows: its similarity is its mean cosine with
those that fire, less that with those that do not, and the score is the area under ROC, firing test windows against
others. A feature with a bad label and a good score here has something in common that the label does not say; one that
scores no better than by another feature's train windows (the null) has nothing that the encoder sees.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from catalog.digest import digest
from scoring.client.request import Asked
from scoring.scorers.embedding import DIGITS, MISSING
from scoring.scorers.scorer import Given, Row, places
from scoring.scorers.text_vectors import text_vectors
from scoring.windows import Judgement

Vector = npt.NDArray[np.float64]


def asks(row: Row, _settings: dict[str, Any]) -> Asked:
    """Test and train windows."""
    test = [window["text"] for window in row["examples"]]
    train = [[window["text"], window["active"]] for window in row["train"]]
    return Asked(digest([test, train, places(row), row["threshold"]]))


def judge(rows: list[Row], given: Given) -> Iterator[tuple[Row, list[Judgement]]]:
    """Mean cosine with firing train windows less that with others; a problem where an embedding is missing."""
    wanted = {window["text"] for row in rows for window in (*row["examples"], *row["train"])}
    vectors = text_vectors(given.catalog, wanted)
    for row in rows:
        firing, others = (_mean(row, active, vectors) for active in (True, False))
        judged = []
        for window in row["examples"]:
            vector = vectors.get(window["text"])
            if vector is None or firing is None or others is None:
                judged.append(Judgement(None, problem=MISSING))
            else:
                nearer = float(np.dot(vector.astype(np.float64), firing - others))
                judged.append(Judgement(None, similarity=round(nearer, DIGITS)))
        yield row, judged


def _mean(row: Row, active: bool, vectors: dict[str, npt.NDArray[np.float32]]) -> Vector | None:
    """The mean of a class's vectors: a window's cosine with it is its mean cosine with them. None if one is missing."""
    found = [vectors.get(window["text"]) for window in row["train"] if window["active"] == active]
    there = [vector.astype(np.float64) for vector in found if vector is not None]
    return np.mean(there, 0) if there and len(there) == len(found) else None
