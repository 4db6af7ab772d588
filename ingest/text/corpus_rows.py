"""Writes the rows of a corpus: how many documents it has, where they come from, what was left out."""

import json
from dataclasses import dataclass
from typing import Any

from catalog.store.transaction import Transaction
from catalog.study.text import Corpus
from ingest.model.language_model import LanguageModel
from ingest.text.unusable import LeftOut


@dataclass(frozen=True)
class CorpusReport:
    """What an ingest of one corpus did."""

    corpus: str
    documents: int
    """Documents in the corpus now."""
    added: int
    duplicates: int
    empty: int
    tokens: int
    known: int = 0
    """Documents that were there already."""


def record_corpus(
    tx: Transaction,
    corpus: Corpus,
    model: LanguageModel,
    report: CorpusReport,
    fingerprint: str,
    left_out: LeftOut,
) -> None:
    there = tx.rows("SELECT source FROM lake.corpora WHERE corpus = ?", [corpus.name])
    added = json.loads(there[0][0]).get("added", []) if there else []
    tx.execute("DELETE FROM lake.corpora WHERE corpus = ?", [corpus.name])
    tx.insert("corpora", [corpus_row(corpus, model, report, fingerprint, added)])
    stage = f"text:{corpus.name}"
    tx.execute("DELETE FROM lake.problems WHERE stage = ?", [stage])
    tx.insert(
        "problems",
        [{"stage": stage, "subject": s, "reason": r, "count": n} for (s, r), n in sorted(left_out.items())],
    )


def corpus_row(
    corpus: Corpus, model: LanguageModel, report: CorpusReport, fingerprint: str, added: list[str]
) -> dict[str, Any]:
    source = {"fingerprint": fingerprint, **corpus.model_dump(mode="json", exclude={"name"})}
    if added:
        source["added"] = added
    return {
        "corpus": corpus.name,
        "model": model.spec.name,
        "ctx_len": corpus.ctx_len,
        "documents": report.documents,
        "duplicates": report.duplicates,
        "empty": report.empty,
        "tokens": report.tokens,
        "source": json.dumps(source, sort_keys=True),
    }
