"""C+: which tokens belong to a concept, given as words, spans, or a predicate."""

import json
import re
from collections.abc import Iterator
from typing import Any

import duckdb
import numpy as np
import sqlglot

from catalog import Catalog
from catalog.errors import InputError, SaeqlError
from scoring.kernels.contract import Run

_OF_SHARD = "corpus = $corpus AND position >= $first AND position < $last"


def positions(rows: list[dict[str, Any]], run: Run) -> Iterator[list[dict[str, Any]]]:
    """One row per token of C+, for each (concept, corpus, shard).

    Raises InputError for a concept that matches nothing in any of its corpora, and for spans of documents that
    none of them has.
    """
    found: dict[str, int] = {}
    for number, row in enumerate(rows):
        definition = json.loads(row["definition"])
        corpus, shard = row["corpus"], row["shard"]
        if row["kind"] == "predicate":
            places = _matching(run, row["concept"], corpus, shard, definition["predicate"])
        else:
            spans = _word_spans if row["kind"] == "words" else _given_spans
            places = _tokens_in(run.catalog, corpus, shard, dict(spans(run.catalog, corpus, shard, definition)))
        if row["kind"] == "spans":
            _check_documents(run.catalog, row["concept"], row["corpora"], definition)
        found[row["concept"]] = found.get(row["concept"], 0) + len(places)
        run.progress(number + 1, len(rows))
        place = {"concept": row["concept"], "corpus": corpus, "shard": shard}
        yield [{**place, "position": int(position)} for position in places]
    for concept, n in found.items():
        if not n and not _elsewhere(run.catalog, concept, rows):
            raise InputError(f"concept {concept!r} matches no token of its corpora: edit its words, file or predicate")


def _elsewhere(catalog: Catalog, concept: str, rows: list[dict[str, Any]]) -> bool:
    """Whether the concept has tokens in shards that are not looked at now."""
    now = {(row["corpus"], row["shard"]) for row in rows if row["concept"] == concept}
    there = catalog.rows("SELECT DISTINCT corpus, shard FROM concept_positions WHERE concept = ?", [concept])
    return bool(set(there) - now)


def _check_documents(catalog: Catalog, concept: str, corpora: list[str] | None, definition: dict[str, Any]) -> None:
    """Every document that a span names must be in one of the concept's corpora."""
    known = {
        name
        for row in catalog.rows(
            "SELECT hash, document FROM documents WHERE $corpora IS NULL OR list_contains($corpora, corpus)",
            {"corpora": corpora},
        )
        for name in row
    }
    lost = {name for name, *_ in definition["spans"]} - known
    if lost:
        raise InputError(
            f"concept {concept!r} has spans of {len(lost)} documents that its corpora lack, such as "
            f"{min(lost, key=str)!r}: name documents by their hash or number in the table documents"
        )


def _matching(run: Run, concept: str, corpus: str, shard: int, predicate: str) -> np.ndarray:
    """Positions of one corpus where the predicate holds. Raises InputError if it is not one expression, or refused.

    sqlglot writes the query: pasted in as text, `true) OR (true` would reach the positions of other corpora.
    """
    try:
        query = sqlglot.select("position").from_("token_text").where(_OF_SHARD)
        text = query.where(predicate, dialect="duckdb").sql(dialect="duckdb", comments=False)
        first, last = _positions_of(run.catalog, corpus, shard)
        matched = run.select(text, {"corpus": corpus, "first": first, "last": last})
    except sqlglot.errors.SqlglotError as error:
        raise InputError(f"the predicate of concept {concept!r} is not one SQL expression: {predicate!r}") from error
    except (SaeqlError, duckdb.Error) as error:
        raise InputError(f"the predicate of concept {concept!r} cannot be used: {error}") from error
    return np.unique(np.array([place for (place,) in matched], np.int64))


def _positions_of(catalog: Catalog, corpus: str, shard: int) -> tuple[int, int]:
    """First position of a shard, and the one after its last."""
    bounds = "SELECT min(start), max(start + tokens) FROM documents WHERE corpus = ? AND shard = ?"
    return catalog.rows(bounds, [corpus, shard])[0]  # type: ignore[return-value]


def _word_spans(
    catalog: Catalog, corpus: str, shard: int, definition: dict[str, Any]
) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """(document, character spans) of whole words and phrases; white space in a phrase matches any run of it."""
    phrases = sorted(definition["words"], key=len, reverse=True)
    escaped = [r"\s+".join(map(re.escape, phrase.split())) for phrase in phrases]
    pattern = re.compile(
        rf"(?<!\w)(?:{'|'.join(escaped)})(?!\w)", re.IGNORECASE if definition["ignore_case"] else re.NOFLAG
    )
    cursor = catalog.connection.cursor()
    texts = "SELECT document, text FROM lake.documents WHERE corpus = ? AND shard = ? ORDER BY document"
    cursor.execute(texts, [corpus, shard])
    while batch := cursor.fetchmany(1000):
        for document, text in batch:
            spans = [match.span() for match in pattern.finditer(text)]
            if spans:
                yield document, spans


def _given_spans(
    catalog: Catalog, corpus: str, shard: int, definition: dict[str, Any]
) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    here = "SELECT hash, document FROM documents WHERE corpus = ? AND shard = ?"
    numbers = dict(catalog.rows(here, [corpus, shard]))
    known = set(numbers.values())
    spans: dict[int, list[tuple[int, int]]] = {}
    for name, start, end in definition["spans"]:
        document = numbers.get(name) if isinstance(name, str) else name
        if document is not None and document in known:
            spans.setdefault(document, []).append((start, end))
    yield from spans.items()


def _tokens_in(catalog: Catalog, corpus: str, shard: int, spans: dict[int, list[tuple[int, int]]]) -> np.ndarray:
    """Positions of the tokens that overlap a span of their document."""
    if not spans:
        return np.empty(0, np.int64)
    columns = catalog.connection.execute(
        "SELECT t.position, t.document, t.char_start, t.char_end FROM tokens AS t "
        "WHERE t.corpus = ? AND t.shard = ? AND list_contains(?, t.document) ORDER BY t.position",
        [corpus, shard, list(spans)],
    ).fetchnumpy()
    documents = np.asarray(columns["document"])
    starts = np.flatnonzero(np.diff(documents, prepend=-1))
    inside = np.zeros(len(documents), bool)
    for first, last in zip(starts, np.append(starts[1:], len(documents)), strict=True):
        begin = np.asarray(columns["char_start"][first:last])
        end = np.asarray(columns["char_end"][first:last])
        for a, b in spans[int(documents[first])]:
            inside[first:last] |= (begin < b) & (end > a)
            # A character cut into several tokens has its place in the first; the others are empty, behind it.
            inside[first:last] |= (begin == end) & (begin > a) & (begin <= b)
    return np.asarray(columns["position"])[inside]
