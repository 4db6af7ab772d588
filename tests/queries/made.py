"""A catalog whose documents and activations are known: what a naive second implementation starts from.

An activation depends on the document's hash, the offset in it and the feature, never on the order of arrival.
"""

import functools
import hashlib
import itertools
import json
import random
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from catalog import Catalog
from ingest.text.splits import document_hash, shingles, split_of
from queries.refresh.engine import Options, StepResult, refresh
from tests.catalog.small_catalog import shard
from tests.empty import make_empty

_TEXT = """
    the of matrix value array linear system shape input axis returns sum row column index type norm list name key
    size data float order self point line set print file
"""
WORDS = _TEXT.split()
CTX = 64
WIDTH = 9
DEAD, DENSE, CROWDED, EDGES, WORD, EQUAL, MIXED, ONCE, NOISE = 8, 1, 2, 3, 4, 5, 6, 7, 0
EDGE_VALUES = (2.0**-24, 2.0**-16, 2.0**-15, 2.0**-14, 0.5, 1.0, 1.125, 2.0, 1.9990234375, 1024.0, 32768.0, 65504.0)

CONCEPT = {
    "concept": "algebra",
    "kind": "words",
    "corpora": None,
    "definition": json.dumps({"words": ["matrix", "linear system"], "ignore_case": True}),
    "shortlist": 20,
}
SETTINGS = {
    "max_terms": 8,
    "examples": 4,
    "sampling": "top",
    "min_words": 2,
    "max_words": 15,
    "instructions": "",
    "batch": 5,
    "jobs": 1,
    "temperature": 0.0,
    "max_tokens": 100,
    "base_url": None,
    "price_prompt": 1.0,
    "price_completion": 2.0,
}


@dataclass(frozen=True)
class Document:
    """One text with its tokens: a token is a word with the blank before it."""

    words: tuple[int, ...]

    @cached_property
    def text(self) -> str:
        return "".join(f" {WORDS[word]}" for word in self.words)

    @cached_property
    def hash(self) -> str:
        return document_hash(self.text)

    @cached_property
    def split(self) -> str:
        return split_of(self.hash)


def draw(*key: object) -> float:
    """A number in [0, 1) that follows from the key."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=6).digest()) / 2**48


def activation(document: Document, offset: int, feature: int) -> float:
    """What a feature does on one token: a half-precision number, 0 for nothing."""
    if feature in (DEAD, ONCE):
        return 0.0
    # With so few words these would fire in most windows: in half of the documents they do not.
    if feature in (NOISE, WORD, MIXED) and draw(document.hash, feature, "on") >= 0.5:
        return 0.0
    at, word = draw(document.hash, offset, feature), WORDS[document.words[offset]]
    value = 0.0
    if feature == DENSE:
        value = (at < 0.1) * (0.1 + at + (word == "matrix"))
    elif feature == CROWDED:
        owner = draw(document.hash, feature)
        value = (owner < 0.03) * (50 + 50 * at) or (at < 0.1) * (1 + at)
    elif feature == EDGES:
        value = (at < 0.1) * EDGE_VALUES[int(at * 1e6) % len(EDGE_VALUES)]
    elif feature == WORD:
        value = (word in ("matrix", "linear")) * (1 + 7 * at)
    elif feature == EQUAL:
        value = (at < 0.05) * 1.0
    elif feature == MIXED and at < (0.5 if word == "matrix" else 0.02):
        value = 0.01 + 3 * draw(at)
    elif feature == NOISE:
        value = (at < 0.04) * 20 * at
    return float(np.float16(value))


@functools.cache
def fired(document: Document) -> list[tuple[int, int, float]]:
    """Each (offset, feature, activation) of a document, but for ONCE: once, since many catalogs share texts."""
    offsets = range(len(document.words))
    found = ((offset, feature, activation(document, offset, feature)) for offset in offsets for feature in range(WIDTH))
    return [(offset, feature, value) for offset, feature, value in found if value > 0]


def documents(n: int = 260, seed: int = 0) -> list[Document]:
    """Texts of 3 to 180 words; some repeat passages of others, so that val and test text leaks from train text."""
    return list(_documents(n, seed))


@functools.cache
def _documents(n: int, seed: int) -> tuple[Document, ...]:
    chance = random.Random(seed)
    passages = [tuple(chance.randrange(len(WORDS)) for _ in range(chance.randrange(18, 40))) for _ in range(12)]
    found: dict[str, Document] = {}
    while len(found) < n:
        words: list[int] = []
        for _ in range(chance.randrange(1, 5)):
            if chance.random() < 0.3:
                words += chance.choice(passages)
            else:
                words += [chance.randrange(len(WORDS)) for _ in range(chance.randrange(3, 60))]
        made = Document(tuple(words))
        if made.split == "train" and chance.random() < 0.6:
            continue
        found[made.hash] = made
    return tuple(found.values())


@dataclass
class Made:
    """A catalog in the making: its documents in order, and where each begins."""

    root: Path
    starts: dict[str, int] = field(default_factory=dict)

    def open(self) -> Catalog:
        return Catalog(self.root)


def make(
    root: Path,
    texts: list[Document] | None = None,
    shards: int = 2,
    explainers: list[dict[str, Any]] | None = None,
    scorers: list[dict[str, Any]] | None = None,
    concepts: list[dict[str, Any]] | None = None,
) -> Made:
    """Write the catalog, the documents in the order given, cut into shards."""
    made, texts = Made(root), texts or documents()
    with make_empty(root) as catalog:
        with catalog.write("set up") as tx:
            for table, rows in configuration(explainers, scorers, concepts).items():
                tx.insert(table, rows)
        bounds = np.linspace(0, len(texts), shards + 1).astype(int)
        for number, (first, last) in enumerate(itertools.pairwise(bounds)):
            grow(catalog, texts[first:last], number, made.starts)
    return made


def grow(catalog: Catalog, texts: list[Document], number: int, starts: dict[str, int] | None = None) -> None:
    """Add documents as one more shard, as `ingest` would; `starts` is filled with where each begins."""
    next_free = "SELECT coalesce(max(document) + 1, 0), coalesce(max(start + tokens), 0) FROM documents"
    first, position = catalog.rows(next_free)[0]
    parts: dict[str, list[dict[str, Any]]] = {"documents": [], "tokens": [], "activations": []}
    for at, text in enumerate(texts):
        if starts is not None:
            starts[text.hash] = position
        add(parts, text, first + at, number, position)
        position += len(text.words)
    with catalog.write(f"shard {number}") as tx:
        for relation, rows in parts.items():
            rows.sort(key=lambda row: (row.get("feature", 0), row.get("position", row.get("start"))))
            schema = catalog.arrow(f"FROM lake.{relation} LIMIT 0").schema
            table = pa.Table.from_pylist(rows, schema)
            shard(catalog, tx, relation, table, number, "s" if relation == "activations" else None)


def configuration(
    explainers: list[dict[str, Any]] | None = None,
    scorers: list[dict[str, Any]] | None = None,
    concepts: list[dict[str, Any]] | None = None,
) -> dict[str, list[dict[str, Any]]]:
    sae = {"sae": "s", "model": "m", "hookpoint": "h", "architecture": "topk", "width": WIDTH, "d": 4, "k": 4}
    corpus = {"corpus": "c", "model": "m", "ctx_len": CTX, "documents": 0, "duplicates": 0, "empty": 0, "tokens": 0}
    return {
        "saes": [{**sae, "weights": "none", "digest": "none", "config": "{}"}],
        "corpora": [{**corpus, "source": "{}"}],
        "study": [{"name": "made", "explainer": "lexical", "scorer": "detection", "concept": "algebra"}],
        "concepts": [CONCEPT] if concepts is None else concepts,
        "explainers": explainers or [explainer()],
        "scorers": scorers or [scorer()],
    }


def explainer(name: str = "lexical", provider: str = "lexical", **settings: Any) -> dict[str, Any]:
    model = None if provider == "lexical" else "stub"
    said = json.dumps({**SETTINGS, **settings})
    return {"explainer": name, "provider": provider, "model": model, "settings": said, "threshold": 0.3}


def scorer(name: str = "detection", provider: str = "lexical", examples: int = 20, **settings: Any) -> dict[str, Any]:
    model = None if provider == "lexical" else "stub"
    said = json.dumps({**SETTINGS, "examples": examples, **settings})
    row = {"scorer": name, "protocol": "detection", "provider": provider, "model": model}
    return {**row, "examples": examples, "settings": said, "threshold": 0.3, "nulls": 1}


def add(parts: dict[str, list[dict[str, Any]]], text: Document, number: int, shard_: int, start: int) -> None:
    """Rows of one document whose first token has the position `start`."""
    n, place = len(text.words), {"corpus": "c", "shard": shard_}
    row = {**place, "document": number, "hash": text.hash, "split": text.split, "start": start, "tokens": n}
    parts["documents"].append({**row, "source": f"made {number}", "text": text.text})
    hashes, at = shingles(np.array(text.words)), 0
    for offset, word in enumerate(text.words):
        first = offset // CTX * CTX
        end = at + len(WORDS[word]) + 1
        parts["tokens"].append(
            {
                **place,
                "position": start + offset,
                "document": number,
                "sequence": start + first,
                "length": min(CTX, n - first),
                "token": word,
                "char_start": at,
                "char_end": end,
                "shingle": int(hashes[offset]) if offset < len(hashes) else None,
            }
        )
        at = end
    for offset, feature, value in [(0, ONCE, 3.5)] * (number == 0) + fired(text):
        row = {**place, "sae": "s", "feature": feature, "position": start + offset, "activation": value}
        parts["activations"].append(row)


STEPS = ("scores", "shortlist_auroc", "contexts_top")
"""With what these read: all steps but those that need an SAE's weights or the embedder."""


def refresh_made(catalog: Catalog, **settings: Any) -> dict[str, StepResult]:
    """Refresh; the result of each step by name. `settings` are named `step__parameter`."""
    named = {name.replace("__", "."): value for name, value in settings.items()}
    results = refresh(catalog, STEPS, Options(settings=named))
    assert [r.error for r in results if r.error] == []
    return {result.step: result for result in results}
