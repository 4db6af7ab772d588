"""Finds the tokens that belong to a concept (C+), given as words, spans, or a predicate.

A window of tokens around each match may belong to it too; it ends with the sequence that the model read. Of a
concept's words, the number of each word in whose window a token is stays with the token.
"""

import json
from collections.abc import Iterator
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import sqlglot

from catalog import Catalog
from catalog.errors import InputError, SaeqlError
from scoring.kernels.kernel import Run
from scoring.kernels.words import Spans, Words

Places = npt.NDArray[np.int64]

_NO_WORD = -1
"""Number of the word of a token that spans or a predicate chose."""
# By document too: the view cuts long documents into pieces before it looks at positions.
_OF_SHARD = (
    "corpus = $corpus AND document >= $lowest AND document <= $highest AND position >= $first AND position < $last"
)


def positions(rows: list[dict[str, Any]], run: Run) -> Iterator[list[dict[str, Any]]]:
    """One row per token of C+, for each (concept, corpus, shard).

    A concept that matches no token of its corpora, or every one, and spans of documents that none of them has, are
    problems of the concept: the others go on. Raises InputError for a predicate that cannot be used.
    """
    found: dict[str, int] = {}
    for number, row in enumerate(rows):
        definition = json.loads(row["definition"])
        corpus, shard = row["corpus"], row["shard"]
        if row["kind"] == "predicate":
            places = _matching(run, row["concept"], corpus, shard, definition["predicate"])
            words = np.full(len(places), _NO_WORD)
        else:
            spans = _word_spans if row["kind"] == "words" else _given_spans
            places, words = _tokens_in(run.catalog, corpus, shard, dict(spans(run.catalog, corpus, shard, definition)))
        window = definition.get("before", 0), definition.get("after", 0)
        if any(window):
            places, words = _widened(run.catalog, corpus, shard, (places, words), window)
        belonging = _by_position(places, words)
        found[row["concept"]] = found.get(row["concept"], 0) + len(belonging)
        run.progress(number + 1, len(rows))
        place = {"concept": row["concept"], "corpus": corpus, "shard": shard}
        yield [{**place, "position": position, "words": numbers} for position, numbers in belonging.items()]
    for concept, n in found.items():
        run.problems[concept] = _problem(run.catalog, [row for row in rows if row["concept"] == concept], n)


def _problem(catalog: Catalog, rows: list[dict[str, Any]], found: int) -> str | None:
    """What is wrong with a concept that has `found` tokens in the shards of these rows; None for nothing."""
    concept, corpora = rows[0]["concept"], rows[0]["corpora"]
    now = {(row["corpus"], row["shard"]) for row in rows}
    there = "SELECT corpus, shard, count(*) FROM concept_positions WHERE concept = ? GROUP BY corpus, shard"
    found += sum(n for corpus, shard, n in catalog.rows(there, [concept]) if (corpus, shard) not in now)
    lost = _lost_documents(catalog, corpora, json.loads(rows[0]["definition"])) if rows[0]["kind"] == "spans" else None
    if lost or not found:
        return lost or "it matches no token of its corpora: edit its words, file or predicate"
    size = "SELECT sum(tokens) FROM documents WHERE $corpora IS NULL OR list_contains($corpora, corpus)"
    if found == catalog.value(size, {"corpora": corpora}):
        return "it matches every token of its corpora, so nothing is left to compare them with: edit its definition"
    return None


def _lost_documents(catalog: Catalog, corpora: list[str] | None, definition: dict[str, Any]) -> str | None:
    """What is wrong with spans of documents that are in none of the concept's corpora."""
    known = {
        name
        for row in catalog.rows(
            "SELECT hash, document FROM documents WHERE $corpora IS NULL OR list_contains($corpora, corpus)",
            {"corpora": corpora},
        )
        for name in row
    }
    lost = {name for name, *_ in definition["spans"]} - known
    if not lost:
        return None
    return (
        f"it has spans of {len(lost)} documents that its corpora lack, such as {min(lost, key=str)!r}: name documents "
        "by their hash or number in the table documents"
    )


def _matching(run: Run, concept: str, corpus: str, shard: int, predicate: str) -> Places:
    """Positions of one corpus where the predicate holds. Raises InputError if it is not one expression, or refused.

    sqlglot writes the query: pasted in as text, `true) OR (true` would reach the positions of other corpora.
    """
    try:
        query = sqlglot.select("position").from_("token_text").where(_OF_SHARD)
        text = query.where(predicate, dialect="duckdb").sql(dialect="duckdb", comments=False)
        matched = run.select(text, _bounds(run.catalog, corpus, shard))
    except sqlglot.errors.SqlglotError as error:
        raise InputError(f"the predicate of concept {concept!r} is not one SQL expression: {predicate!r}") from error
    except (SaeqlError, duckdb.Error) as error:
        raise InputError(f"the predicate of concept {concept!r} cannot be used: {error}") from error
    return np.unique(np.array([place for (place,) in matched], np.int64))


def _bounds(catalog: Catalog, corpus: str, shard: int) -> dict[str, Any]:
    """The parameters of `_OF_SHARD`: first and last document of a shard, first position, and the one after its last."""
    bounds = "SELECT min(document), max(document), min(start), max(start + tokens) FROM documents"
    found = catalog.rows(f"{bounds} WHERE corpus = ? AND shard = ?", [corpus, shard])[0]
    return dict(zip(("corpus", "lowest", "highest", "first", "last"), (corpus, *found), strict=True))


def _word_spans(catalog: Catalog, corpus: str, shard: int, definition: dict[str, Any]) -> Iterator[tuple[int, Spans]]:
    """(document, character spans with the number of the word) of whole words and phrases, as `Words` finds them."""
    words = Words(definition["words"], definition["ignore_case"])
    cursor = catalog.connection.cursor()
    texts = "SELECT document, text FROM lake.documents WHERE corpus = ? AND shard = ? ORDER BY document"
    cursor.execute(texts, [corpus, shard])
    while batch := cursor.fetchmany(1000):
        for document, text in batch:
            spans = words.spans(text)
            if spans:
                yield document, spans


def _given_spans(catalog: Catalog, corpus: str, shard: int, definition: dict[str, Any]) -> Iterator[tuple[int, Spans]]:
    here = "SELECT hash, document FROM documents WHERE corpus = ? AND shard = ?"
    numbers = dict(catalog.rows(here, [corpus, shard]))
    known = set(numbers.values())
    spans: dict[int, Spans] = {}
    for name, start, end in definition["spans"]:
        document = numbers.get(name) if isinstance(name, str) else name
        if document is not None and document in known:
            spans.setdefault(document, []).append((start, end, _NO_WORD))
    yield from spans.items()


def _tokens_in(catalog: Catalog, corpus: str, shard: int, spans: dict[int, Spans]) -> tuple[Places, Places]:
    """(positions of the tokens that overlap a span of their document, number of the span's word), a row for each."""
    if not spans:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    columns = catalog.connection.execute(
        "SELECT t.position, t.document, t.char_start, t.char_end FROM tokens AS t "
        "WHERE t.corpus = ? AND t.shard = ? AND list_contains(?, t.document) ORDER BY t.position",
        [corpus, shard, list(spans)],
    ).fetchnumpy()
    documents, positions = np.asarray(columns["document"]), np.asarray(columns["position"])
    starts = np.flatnonzero(np.diff(documents, prepend=-1))
    places, words = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for first, last in zip(starts, np.append(starts[1:], len(documents)), strict=True):
        begin = np.asarray(columns["char_start"][first:last])
        end = np.asarray(columns["char_end"][first:last])
        for a, b, word in spans[int(documents[first])]:
            # A character cut into several tokens has its place in the first; the others are empty, behind it.
            inside = ((begin < b) & (end > a)) | ((begin == end) & (begin > a) & (begin <= b))
            places.append(positions[first:last][inside])
            words.append(np.full(int(inside.sum()), word))
    return np.concatenate(places), np.concatenate(words)


def _widened(
    catalog: Catalog, corpus: str, shard: int, found: tuple[Places, Places], window: tuple[int, int]
) -> tuple[Places, Places]:
    """Places and words with those of the tokens before and after each, as far as its sequence goes."""
    places, words = found
    columns = catalog.connection.execute(
        "SELECT DISTINCT sequence, sequence + length AS last FROM tokens WHERE corpus = ? AND shard = ? ORDER BY 1",
        [corpus, shard],
    ).fetchnumpy()
    firsts, ends = np.asarray(columns["sequence"]), np.asarray(columns["last"])
    of = np.searchsorted(firsts, places, side="right") - 1
    before, after = window
    near = places[:, None] + np.arange(-before, after + 1)
    inside = (near >= firsts[of][:, None]) & (near < ends[of][:, None])
    return near[inside], np.broadcast_to(words[:, None], near.shape)[inside]


def _by_position(places: Places, words: Places) -> dict[int, list[int]]:
    """The words of each position, in order, each once; none where there is no word."""
    found: dict[int, list[int]] = {}
    for position, word in np.unique(np.stack([places, words], axis=1), axis=0).tolist():
        numbers = found.setdefault(position, [])
        if word != _NO_WORD:
            numbers.append(word)
    return found
