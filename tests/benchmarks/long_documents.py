"""Seconds that the texts of tokens take in one long document, beside as many tokens in short ones.

    python tests/benchmarks/long_documents.py [--tokens 50000] [--whole] [--json]

A token is four characters, some of them not ASCII. `one_window_s` asks for 32 tokens by document and position;
--whole also slices each token out of the whole document, as saeql did once: two minutes for 50,000 tokens.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from catalog import Catalog

SHORT = 250
"""Tokens of a short document."""
DOCUMENTS = """
INSERT INTO lake.documents (corpus, document, hash, shard, split, start, tokens, source, text)
SELECT
    $corpus, i // $size, i // $size, 0, 'train', min(i), count(*), 's',
    string_agg(CASE WHEN i % 7 = 0 THEN 'né 😀' ELSE ' abc' END, '')
FROM range($tokens) AS t(i) GROUP BY i // $size
"""
TOKENS = """
INSERT INTO lake.tokens (corpus, shard, position, document, sequence, length, token, char_start, char_end)
SELECT $corpus, 0, i, i // $size, i - i % 250, 250, 0, i % $size * 4, i % $size * 4 + 4 FROM range($tokens) AS t(i)
"""
WHOLE = """
SELECT count(d.text[t.char_start + 1 : t.char_end])
FROM lake.tokens AS t
JOIN lake.documents AS d ON (d.corpus, d.document) = (t.corpus, t.document)
WHERE t.corpus = ?
"""


def seconds(catalog: Catalog, query: str, parameters: list[Any], repeats: int = 3) -> float:
    """The best of some runs."""
    found = []
    for _ in range(repeats):
        begun = time.perf_counter()
        catalog.rows(query, parameters)
        found.append(time.perf_counter() - begun)
    return round(min(found), 3)


def measured(tokens: int, *, whole: bool) -> dict[str, Any]:
    """Build the catalog in a temporary folder and ask it."""
    with tempfile.TemporaryDirectory() as folder, Catalog.create(Path(folder)) as catalog:
        for corpus, size in (("long", tokens), ("short", SHORT)):
            with catalog.write(corpus) as tx:
                for query in (DOCUMENTS, TOKENS):
                    tx.execute(query, {"corpus": corpus, "size": size, "tokens": tokens})
        every = "SELECT count(text) FROM token_text WHERE corpus = ?"
        window = "SELECT text FROM token_text WHERE corpus = ? AND document = ? AND position BETWEEN ? AND ?"
        found: dict[str, Any] = {"tokens": tokens}
        for corpus, document in (("long", 0), ("short", tokens // 2 // SHORT)):
            found[f"{corpus}_s"] = seconds(catalog, every, [corpus])
            place = [corpus, document, tokens // 2, tokens // 2 + 31]
            found[f"{corpus}_one_window_s"] = seconds(catalog, window, place)
        if whole:
            found |= {f"{corpus}_whole_s": seconds(catalog, WHOLE, [corpus], 1) for corpus in ("long", "short")}
        return found


@click.command()
@click.option("--tokens", default=50_000, show_default=True)
@click.option("--whole", is_flag=True, help="Also slice each token out of the whole document.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(tokens: int, whole: bool, as_json: bool) -> None:
    """Measure, and print lines or one JSON object."""
    found = measured(tokens, whole=whole)
    if as_json:
        click.echo(json.dumps(found))
        return
    for name, value in found.items():
        click.echo(f"{name:30} {value}")


if __name__ == "__main__":
    main()
