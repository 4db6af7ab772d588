"""Writes documents and tokens of a corpus into the catalog, shard by shard, each shard one commit.

A run that was interrupted goes on: documents are known by their hash, shard borders follow from the
order of the documents, so that the tables end as those of an undisturbed run.
"""

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple, Protocol

from catalog import Catalog
from catalog.errors import InputError
from catalog.store.shards import register_shard, write_parquet
from catalog.study.text import Corpus
from ingest.callbacks import Counted
from ingest.model.language_model import LanguageModel
from ingest.text.corpus_cut import check_cut, check_embedded
from ingest.text.corpus_rows import CorpusReport, corpus_row, record_corpus
from ingest.text.sources import read_corpus, source_fingerprint
from ingest.text.splits import Shares, document_hash
from ingest.text.tokenise import ShardBuilder, Tokenised, tokenise
from ingest.text.unusable import LeftOut, Skips


class Elsewhere(Protocol):
    """Takes what an ingest would commit: that of a dry run is `coming_text.ComingText`."""

    def shard(self, builder: ShardBuilder) -> None:
        """A shard that is full, or the last one."""
        ...

    def corpus(self, row: dict[str, Any]) -> None:
        """The row of `corpora`, when all shards are there."""
        ...


def ingest_corpus(
    catalog: Catalog,
    corpus: Corpus,
    model: LanguageModel,
    progress: Counted | None = None,
    into: Elsewhere | None = None,
) -> CorpusReport:
    """Bring the tables `documents`, `tokens` and `corpora` up to date with the corpus's source.

    Documents are read once; those that the catalog has (by hash) are not tokenised again. With `max_tokens`
    the documents with the smallest hashes are taken: a sample that does not depend on their order. With `into`, all
    that would be committed goes there.
    Raises InputError as the sources do, if the corpus was tokenised for another model or ctx_len, and if ctx_len is
    above what the model reads.
    """
    check_cut(catalog, corpus, model)
    fingerprint = source_fingerprint(corpus)
    known = catalog.rows(
        "SELECT source, documents, duplicates, empty, tokens FROM corpora WHERE corpus = ?", [corpus.name]
    )
    if known and json.loads(known[0][0])["fingerprint"] == fingerprint:
        _, documents, duplicates, empty, tokens = known[0]
        return CorpusReport(corpus.name, documents, 0, duplicates, empty, tokens)

    model.check_length(corpus.ctx_len)
    left_out: LeftOut = Counter()
    counts: Counter[str] = Counter()
    fresh = _distinct(read_corpus(corpus, left_out), counts)
    if corpus.max_tokens is not None:
        fresh = iter(sorted(fresh, key=lambda document: document[0][16:]))
    budget = _Budget(corpus.max_tokens, int(_total(catalog, corpus.name, "sum(tokens)")))
    _append(catalog, corpus, model, fresh, _Tally(counts, left_out, budget), progress, into)
    documents = int(_total(catalog, corpus.name, "count(*)"))
    if not documents:
        raise InputError(_nothing_in(corpus, counts["empty"], left_out))
    report = CorpusReport(
        corpus.name,
        documents,
        counts["added"],
        counts["duplicates"],
        counts["empty"],
        int(_total(catalog, corpus.name, "sum(tokens)")),
        counts["known"],
    )
    if into is not None:
        into.corpus(corpus_row(corpus, model, report, fingerprint, []))
        return report
    with catalog.write(f"ingest {corpus.name}", documents=documents, tokens=report.tokens) as tx:
        record_corpus(tx, corpus, model, report, fingerprint, left_out)
    return report


def _nothing_in(corpus: Corpus, empty: int, left_out: LeftOut) -> str:
    """Why a corpus has no document."""
    reasons: Counter[str] = Counter()
    for (_, reason), times in left_out.items():
        reasons[reason] += times
    said = "".join(f"; {times} times: {reason}" for reason, times in reasons.most_common())
    tokens = f"none of its {empty} documents has a token" if empty or not left_out else "all of it was left out"
    return f"corpus {corpus.name!r} holds no text: {tokens}{said}"


def append_documents(
    catalog: Catalog, name: str, files: list[Corpus], model: LanguageModel, progress: Counted | None = None
) -> CorpusReport:
    """Add the documents of `files`, sections of one file each, to the corpus `name`, in new shards.

    Documents that the corpus has are skipped and counted as known. Nothing is removed, and no limit of tokens holds.
    """
    left_out: LeftOut = Counter()
    counts: Counter[str] = Counter()
    fresh = _distinct((pair for section in files for pair in read_corpus(section, left_out)), counts)
    check_cut(catalog, files[0], model)
    _append(catalog, files[0], model, fresh, _Tally(counts, left_out, _Budget(None, 0)), progress)
    counted = "SELECT documents, tokens, duplicates, empty, source FROM corpora WHERE corpus = ?"
    *before, duplicates, empty, said = catalog.rows(counted, [name])[0]
    report = CorpusReport(
        name,
        int(_total(catalog, name, "count(*)")),
        counts["added"],
        counts["duplicates"],
        counts["empty"],
        int(_total(catalog, name, "sum(tokens)")),
        counts["known"],
    )
    source = json.loads(said)
    added = dict.fromkeys([*source.get("added", []), *(path for section in files for path in section.files)])
    after = [report.documents, report.tokens, duplicates + report.duplicates, empty + report.empty]
    said = json.dumps({**source, "added": list(added)}, sort_keys=True)
    with catalog.write(f"add to {name}", documents=report.added, tokens=report.tokens) as tx:
        # Not `report.added`: a run that was cut off may have added shards without counting them.
        if before != after[:2]:
            tx.execute(
                "UPDATE lake.corpora SET documents = ?, tokens = ?, duplicates = ?, empty = ?, source = ? "
                "WHERE corpus = ?",
                [*after, said, name],
            )
        for (subject, reason), n in sorted(left_out.items()):
            place = [f"text:{name}", subject, reason]
            tx.execute("DELETE FROM lake.problems WHERE stage = ? AND subject = ? AND reason = ?", place)
            tx.insert("problems", [dict(zip(("stage", "subject", "reason"), place, strict=True), count=n)])
    return report


def _append(
    catalog: Catalog,
    corpus: Corpus,
    model: LanguageModel,
    fresh: Iterator[tuple[str, str, str]],
    tally: "_Tally",
    progress: Counted | None,
    into: Elsewhere | None = None,
) -> None:
    """Tokenise the documents that the corpus lacks, and commit them shard by shard."""
    counts, left_out, budget = tally
    there = {row[0] for row in catalog.rows("SELECT hash FROM documents WHERE corpus = ?", [corpus.name])}
    builder = _next_shard(catalog, corpus, model)
    commit = into.shard if into else partial(_commit_shard, catalog, corpus, model)
    skips = Skips(left_out)
    for one in tokenise(model.tokenizer, _unknown(fresh, there, counts)):
        if one.problem:
            skips.add(one.source, one.problem)
            continue
        if not len(one.ids):
            counts["empty"] += 1
            continue
        if budget.spent:
            break
        check_embedded(one, model)
        budget.take(len(one.ids))
        builder.add(one)
        counts["added"] += 1
        if progress:
            progress(builder.position, corpus.max_tokens)
        if builder.tokens >= corpus.shard_tokens:
            commit(builder)
            builder = _next_shard(catalog, corpus, model)
    if builder.tokens:
        commit(builder)


def _unknown(
    documents: Iterator[tuple[str, str, str]], there: set[str], counts: Counter[str]
) -> Iterator[tuple[str, str, str]]:
    """The documents whose hash the corpus does not have; the others are counted."""
    for document in documents:
        if document[0] in there:
            counts["known"] += 1
        else:
            yield document


class _Tally(NamedTuple):
    """What is counted as documents go by."""

    counts: Counter[str]
    left_out: LeftOut
    budget: "_Budget"


class _Budget:
    """Counts tokens against `max_tokens`."""

    def __init__(self, limit: int | None, used: int):
        self._limit, self._used = limit, used

    @property
    def spent(self) -> bool:
        return self._limit is not None and self._used >= self._limit

    def take(self, tokens: int) -> None:
        self._used += tokens


def _distinct(texts: Iterator[tuple[str, str]], counts: Counter[str]) -> Iterator[tuple[str, str, str]]:
    """(hash, place, text) of the first copy of each document; other copies are counted."""
    seen: set[str] = set()
    for place, text in texts:
        key = document_hash(text)
        if key in seen:
            counts["duplicates"] += 1
        elif not text.strip():
            counts["empty"] += 1
        else:
            seen.add(key)
            yield key, place, text


def _total(catalog: Catalog, corpus: str, what: str) -> int:
    return int(catalog.value(f"SELECT coalesce({what}, 0) FROM documents WHERE corpus = ?", [corpus]))


def _next_shard(catalog: Catalog, corpus: Corpus, model: LanguageModel) -> ShardBuilder:
    shard, document, position = catalog.rows(
        "SELECT coalesce(max(shard) + 1, 0), coalesce(max(document) + 1, 0), coalesce(max(start + tokens), 0) "
        "FROM documents WHERE corpus = ?",
        [corpus.name],
    )[0]
    body = corpus.ctx_len - (model.bos is not None)
    return ShardBuilder(corpus.name, int(shard), body, int(document), int(position), Shares(corpus.val, corpus.test))


def _commit_shard(catalog: Catalog, corpus: Corpus, model: LanguageModel, builder: ShardBuilder) -> None:
    """Write the shard's two files, then make both visible in one snapshot.

    The first shard brings the corpus's row, without counts: a run that goes on after a crash must not cut the rest
    for another model.
    """
    documents, tokens = builder.tables()
    stem = f"{corpus.name}-{builder.shard}"
    files = {
        "documents": write_parquet(documents, catalog.data / "main" / "documents", stem),
        "tokens": write_parquet(
            tokens,
            catalog.data / "main" / "tokens",
            stem,
            column_encoding=dict.fromkeys(
                ("position", "document", "sequence", "char_start", "char_end"), "DELTA_BINARY_PACKED"
            ),
        ),
    }
    with catalog.write(f"ingest {corpus.name}: shard {builder.shard}", tokens=builder.tokens) as tx:
        for relation, file in files.items():
            register_shard(tx, relation, file, corpus.name, None, builder.shard, files["documents"].blake2b)
        if not tx.rows("SELECT 1 FROM lake.corpora WHERE corpus = ?", [corpus.name]):
            tx.insert("corpora", [corpus_row(corpus, model, CorpusReport(corpus.name, 0, 0, 0, 0, 0), "", [])])


__all__ = ["CorpusReport", "Tokenised", "ingest_corpus", "register_shard"]
