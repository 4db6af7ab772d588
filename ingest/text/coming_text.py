"""Holds the text that an ingest would add, for a dry run: temporary tables that are read with the catalog's own.

What a dry run asks of documents, tokens, shards and corpora, it asks of views by those names. They show the catalog as
it will be once the text is there, so that all that follows from text is told from the same queries as in an ingest.
"""

import json
from typing import Any

import pyarrow as pa

from catalog import Catalog
from catalog.quote import named
from catalog.study.text import Corpus
from ingest.callbacks import Counted
from ingest.model.language_model import LanguageModel
from ingest.text.corpus import ingest_corpus
from ingest.text.tokenise import ShardBuilder
from ingest.to_do import CHANGED, NEW, Work

_READ = ("corpus", "shard", "position", "document", "sequence", "token", "shingle")
"""Columns of tokens that decide what follows; where its characters are does not."""


class ComingText:
    """Takes the shards of corpora that a dry run reads; the views are those of the catalog's connection."""

    def __init__(self, catalog: Catalog) -> None:
        self._connection = catalog.connection
        self._wrote: dict[str, dict[str, Any]] = {}
        for table in ("documents", "tokens", "shards", "corpora"):
            coming = f"temp.main.{named(f'_coming_{table}')}"
            self._connection.execute(f"CREATE TEMP TABLE {named(f'_coming_{table}')} AS FROM lake.{table} LIMIT 0")
            less = f"WHERE corpus NOT IN (SELECT corpus FROM {coming})" if table == "corpora" else ""
            self._connection.execute(
                f"CREATE TEMP VIEW {table} AS FROM lake.{table} {less} UNION ALL BY NAME FROM {coming}"
            )

    def shard(self, builder: ShardBuilder) -> None:
        """Keep a shard. Its digest is no file's, and so differs from that of every shard in the catalog."""
        documents, tokens = builder.tables()
        # A dry run knows a document by its hash.
        texts = documents.schema.get_field_index("text")
        documents = documents.set_column(texts, "text", pa.array([""] * len(documents)))
        self._insert("documents", documents)
        self._insert("tokens", tokens.select(_READ))
        row = {"relation": "tokens", "corpus": builder.corpus, "shard": builder.shard, "rows": builder.tokens}
        self._insert("shards", pa.Table.from_pylist([{**row, "path": "", "bytes": 0, "blake2b": "", "inputs": ""}]))

    def corpus(self, row: dict[str, Any]) -> None:
        """Keep the row of a corpus, of which all shards are there."""
        self._wrote[row["corpus"]] = row
        self._insert("corpora", pa.Table.from_pylist([row]))

    def foresee(self, catalog: Catalog, corpus: Corpus, model: LanguageModel, progress: Counted) -> Work:
        """Read a corpus as an ingest would. Raises as `ingest_corpus` does."""
        there = catalog.value("SELECT source FROM lake.corpora WHERE corpus = ?", [corpus.name])
        report = ingest_corpus(catalog, corpus, model, progress, self)
        if corpus.name not in self._wrote:
            return Work("text", corpus.name)
        counted = "SELECT coalesce(sum(rows), 0)::BIGINT, count(*) FROM temp.main._coming_shards WHERE corpus = ?"
        tokens, shards = catalog.rows(counted, [corpus.name])[0]
        why = ""
        if there is not None:
            why = _difference(json.loads(there), json.loads(self._wrote[corpus.name]["source"]))
        return Work(
            "text",
            corpus.name,
            NEW if there is None else CHANGED,
            why,
            documents=report.added,
            tokens=tokens,
            shards=shards,
        )

    def _insert(self, table: str, rows: pa.Table) -> None:
        self._connection.register("_rows", rows)
        self._connection.execute(f"INSERT INTO temp.main.{named(f'_coming_{table}')} BY NAME SELECT * FROM _rows")
        self._connection.unregister("_rows")


def _difference(was: dict[str, Any], now: dict[str, Any]) -> str:
    """What of a corpus's source is not as it was."""
    unlike = [key for key in now if key != "fingerprint" and was.get(key) != now[key]]
    if not was.get("fingerprint"):
        return "an ingest of it was cut off"
    if unlike:
        return "; ".join(f"{key} is {now[key]}, and was {was.get(key)}" for key in unlike[:3])
    return "its packages have other versions" if now["kind"] == "docstrings" else "its files are not as they were"
