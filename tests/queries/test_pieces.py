"""Texts of tokens, in token_text and context_tokens, against slices by Python; what a query of few of them reads."""

import json
import random
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from catalog import Catalog
from tests.empty import make_empty

PIECE, NEXT, LONG = 200, 400, 512

Offsets = list[tuple[int, int]]


def laid_end_to_end(text: str, chance: random.Random, lengths: list[int]) -> Offsets:
    """Offsets of tokens that make up the text, of these lengths."""
    found, at = [], 0
    while at < len(text):
        end = min(at + chance.choice(lengths), len(text))
        found.append((at, end))
        at = end
    return found


def hostile() -> dict[str, tuple[str, Offsets]]:
    """Texts with their tokens' offsets, most of them of more tokens than a document has that is not cut."""
    chance = random.Random(0)
    wide = "".join(map(chr, (*range(0x1F600, 0x1F640), 0x10FFFF, 0xFFFE, 0xE000, 0)))
    mixed = "".join(chance.choice(wide + "a\n\r\u0301é行\u202e\u200d ") for _ in range(3_000))
    plain = "".join(chance.choice("ab c\n") for _ in range(2_601))
    edges = [0, 1, PIECE - 1, PIECE, PIECE + 1, NEXT - 1, NEXT, NEXT + 1, 2_599, 2_600, 2_601]
    spans = [(a, b) for a in edges for b in edges if a <= b]
    odd = [(-1, 3), (-5, -2), (3, 1), (5, -1), (0, -1), (2_700, 2_800), (2_590, 9_000), (0, 9_000), (400, 200)]
    return {
        "short": ("ab c", [(0, 2), (2, 2), (2, 4)]),
        "nothing in it": ("", [(0, 0), (0, 5)]),
        "one character": ("e\u0301" * 1_500, laid_end_to_end("e\u0301" * 1_500, chance, [1])),
        "mixed": (mixed, laid_end_to_end(mixed, chance, [0, 1, 2, 3, 7])),
        "longer than pieces": (mixed * 5, laid_end_to_end(mixed * 5, chance, [1, 1, 1, 150, 199, 200, 201, 401, 650])),
        "exactly whole pieces": (plain[:2_600], laid_end_to_end(plain[:2_600], chance, [1, 3, 4])),
        "just not cut": (plain[:LONG], [(at, at + 1) for at in range(LONG)]),
        "just cut": (plain[: LONG + 1], [(at, at + 1) for at in range(LONG + 1)]),
        "edges": (plain, spans + odd + [(at, at + 1) for at in range(600)]),
        "odd and short": (plain, odd),
    }


def sliced(text: str, start: int, end: int) -> str:
    """What the engine gives for text[start + 1 : end]: from 1, both ends inside; numbers below 0 from the end."""
    first = start + 1 if start + 1 >= 0 else len(text) + start + 2
    last = end if end >= 0 else len(text) + end + 1
    return text[max(first, 1) - 1 : max(last, 0)]


def insert(catalog: Catalog, table: str, rows: list[dict[str, Any]]) -> None:
    with catalog.write(table) as tx:
        schema = catalog.arrow(f"FROM lake.{table} LIMIT 0").schema
        catalog.connection.register("rows", pa.Table.from_pylist(rows, schema))
        tx.execute(f"INSERT INTO lake.{table} FROM rows")
        catalog.connection.unregister("rows")


def write(catalog: Catalog, texts: dict[str, tuple[str, Offsets]]) -> None:
    """Documents and their tokens: as they are in the corpus `c`, each text from its end in `reversed`."""
    documents: list[dict[str, Any]] = []
    tokens: list[dict[str, Any]] = []
    for corpus, step in (("c", 1), ("reversed", -1)):
        start = 0
        for number, (name, (text, offsets)) in enumerate(texts.items()):
            place = {"corpus": corpus, "shard": 0, "document": number}
            size = {"start": start, "tokens": len(offsets)}
            documents.append({**place, **size, "hash": name, "split": "train", "source": name, "text": text[::step]})
            at = {**place, "sequence": start, "length": 1, "token": 1}
            for position, (first, last) in enumerate(offsets, start=start):
                tokens.append({**at, "position": position, "char_start": first, "char_end": last})
            start += len(offsets)
    insert(catalog, "documents", documents)
    insert(catalog, "tokens", tokens)


TEXTS = hostile()
FLAT = [(name, sliced(text, *place)) for name, (text, offsets) in TEXTS.items() for place in offsets]
"""(document's name, text) of each position of the corpus `c`."""


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    with make_empty(tmp_path_factory.mktemp("pieces")) as made:
        write(made, TEXTS)
        yield made


@pytest.mark.parametrize("corpus", ["c", "reversed"])
def test_each_tokens_text_is_the_slice_of_its_document(catalog: Catalog, corpus: str) -> None:
    every = "SELECT source, list(text ORDER BY position) FROM token_text WHERE corpus = ? GROUP BY source"
    found = dict(catalog.rows(every, [corpus]))
    assert found.keys() == TEXTS.keys()
    alone = "SELECT text FROM token_text WHERE corpus = ? AND document = ? ORDER BY position"
    for number, (name, (text, offsets)) in enumerate(TEXTS.items()):
        expected = [sliced(text if corpus == "c" else text[::-1], *place) for place in offsets]
        assert found[name] == expected, name
        assert [got for (got,) in catalog.rows(alone, [corpus, number])] == expected, name


def test_tokens_laid_end_to_end_have_the_lengths_of_their_offsets(catalog: Catalog) -> None:
    rows = catalog.rows(
        "SELECT count(*) FILTER (length(x.text) <> t.char_end - t.char_start), sum(length(x.text)), "
        "any_value(length(d.text)) FROM token_text AS x JOIN tokens AS t USING (corpus, position) "
        "JOIN documents AS d ON (d.corpus, d.document) = (t.corpus, t.document) WHERE d.hash IN "
        "('one character', 'mixed', 'longer than pieces', 'exactly whole pieces', 'just cut') GROUP BY d.corpus, d.hash"
    )
    assert len(rows) == 10
    assert all(wrong == 0 and total == whole for wrong, total, whole in rows)


def test_a_windows_tokens_are_those_of_their_documents(catalog: Catalog) -> None:
    """Windows all over the documents, over their ends and behind the last one; one of them is there twice."""
    windows = [*enumerate(range(0, len(FLAT), 61)), (0, 0), (1, len(FLAT) - 3)]
    place = {"sae": "s", "corpus": "c", "kind": "top", "split": "train", "stratum": 0, "length": 32, "activation": 0.5}
    rows = [
        {**place, "feature": feature, "rank": rank % 5, "start": start, "peak": start + 2}
        for rank, (feature, start) in enumerate(windows)
    ]
    insert(catalog, "contexts", rows)
    fires = {(feature, start + 2): 0.5 for feature, start in windows if feature % 2}
    insert(
        catalog,
        "activations",
        [
            {"sae": "s", "corpus": "c", "shard": 0, "feature": feature, "position": position, "activation": value}
            for (feature, position), value in fires.items()
        ],
    )
    expected = [
        (feature, start, position, *FLAT[position], fires.get((feature, position), 0.0))
        for feature, start in windows
        for position in range(start, min(start + 32, len(FLAT)))
    ]
    found = catalog.rows("SELECT feature, start, position, source, text, activation FROM context_tokens")
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("condition", ["document = 3", "document >= 3 AND document <= 3"])
def test_what_is_asked_of_one_document_cuts_no_other(catalog: Catalog, condition: str) -> None:
    """The engine counts the rows that reach the cutting."""
    query = f"EXPLAIN (ANALYZE, FORMAT json) SELECT text FROM token_text WHERE corpus = 'c' AND {condition}"
    ((_, plan),) = catalog.rows(query)
    assert _cut(json.loads(plan)) == [1]


def _cut(node: dict[str, Any]) -> list[int]:
    """Rows that each operator gives which cuts texts into pieces."""
    found = [row for child in node.get("children", []) for row in _cut(child)]
    cuts = "pieces" in str(node.get("extra_info", {}).get("Projections", ""))
    return [*found, node["operator_cardinality"]] if cuts else found
