"""Scores a label by embeddings, without a language model: how near is it to windows in which the feature fires?

The embedding scorer of Paulo et al. 2024 (arXiv:2410.13928, section 4; delphi): the label is a query, windows are the
documents, and the score is the area under ROC of their similarity, firing windows against others. The paper's encoder
is told its task by a prefix, "Instruct: Retrieve sentences that could be related to the explanation."; the packaged
MiniLM knows no instructions, so that label and window are embedded as they are. It reads the first 256 pieces of a
label.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from catalog.digest import digest
from scoring.client.request import Asked
from scoring.scorers.scorer import Given, Row, places
from scoring.scorers.text_vectors import text_hash, text_vectors
from scoring.windows import Judgement

DIGITS = 5
"""Decimals of a similarity: further ones differ with the batch in which a text was embedded."""
MISSING = "its text has no embedding: `saeql refresh text_vectors` makes it"


def asks(row: Row, _settings: dict[str, Any]) -> Asked:
    """Label and windows."""
    return Asked(digest([row["label"], [window["text"] for window in row["examples"]], places(row), row["threshold"]]))


def judge(rows: list[Row], given: Given) -> Iterator[tuple[Row, list[Judgement]]]:
    """The cosine of label and window, -1 to 1; a problem where either has no embedding."""
    texts = {window["text"] for row in rows for window in row["examples"]}
    vectors = text_vectors(given.catalog, texts | {text_hash(row["label"]) for row in rows})
    for row in rows:
        label = vectors.get(text_hash(row["label"]))
        yield row, [_judged(label, vectors.get(window["text"])) for window in row["examples"]]


def _judged(label: Any, window: Any) -> Judgement:
    if label is None or window is None:
        return Judgement(None, problem=MISSING)
    cosine = float(np.dot(label.astype(np.float64), window.astype(np.float64)))
    return Judgement(None, similarity=round(cosine, DIGITS))
