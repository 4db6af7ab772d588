"""Finds the text that SAEs are measured on: held-out documents, less the tokens that repeat train text.

A docstring is copied from method to method, a licence from file to file. What an SAE has been trained on it
reconstructs better than new text, the more so the more often it saw it: counted as held out, such text makes an SAE
that was fine-tuned on a few documents in many passes look like one that generalises.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from catalog import Catalog
from ingest.model.batches import Sequences
from ingest.text.splits import SHINGLE


@dataclass(frozen=True)
class MeasuredText:
    """The documents of one corpus and split that are read, and which of their tokens are measured."""

    corpus: str
    split: str
    starts: npt.NDArray[np.int64]
    """`[documents]`: position of each one's first token, ascending."""
    ends: npt.NDArray[np.int64]
    """`[documents]`: position after its last."""
    repeated: npt.NDArray[np.int64]
    """Positions of those tokens that are not measured, ascending."""
    ctx_len: int
    shards: list[int]
    digest: str
    """Of the documents' hashes, of how they are cut into sequences, and of what is not measured."""
    order: npt.NDArray[np.int64]
    """`[documents]`: which of them is first, second, ... by hash."""
    document_shards: npt.NDArray[np.int64]
    """`[documents]`: the shard of each."""

    @property
    def tokens(self) -> int:
        """Tokens read, measured or not."""
        return int((self.ends - self.starts).sum())

    @property
    def repeats(self) -> int:
        """How many of the tokens in these documents are not measured."""
        return int(_within(self.repeated, self.starts, self.ends).sum())

    def parts(self, first: int) -> Iterator["MeasuredText"]:
        """The documents by hash in parts: of `first` tokens or more, then each time as many as all before together."""
        lengths = (self.ends - self.starts)[self.order]
        read, at = 0, 0
        while at < len(self.order):
            upto = at + int(np.searchsorted(np.cumsum(lengths[at:]), max(read, first))) + 1
            ours = np.sort(self.order[at:upto])
            read, at = read + int(lengths[at:upto].sum()), upto
            shards = sorted({int(shard) for shard in self.document_shards[ours]})
            yield replace(self, starts=self.starts[ours], ends=self.ends[ours], shards=shards)

    def measured(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Whether the tokens at these positions, which are of this text, are measured."""
        return ~np.isin(positions, self.repeated)

    def unusable(self, bos: bool) -> str | None:
        """Why nothing can be measured on it, by a model with or without BOS; None if it can."""
        if self.tokens - len(self.repeated) < 2:
            repeats = f", {len(self.repeated)} of them in 16 that stand in train text" if len(self.repeated) else ""
            return f"it has {len(self.starts)} documents with {self.tokens} tokens{repeats}: two are needed"
        if not self._predicted(bos):
            return "no token that is measured follows another, and the model has no BOS: nothing is predicted"
        return None

    def within(self, sequences: Sequences) -> Sequences:
        """The sequences of one shard that lie in these documents."""
        ours = _within(sequences.first + sequences.starts, self.starts, self.ends)
        parts = {name: getattr(sequences, name)[ours] for name in ("starts", "lengths", "splits")}
        return replace(sequences, **parts)

    def _predicted(self, bos: bool) -> int:
        """How many measured tokens follow another one or, with `bos`, BOS."""
        lengths = self.ends - self.starts
        offsets = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        follows = np.full(len(offsets), True) if bos else offsets % self.ctx_len > 0
        return int((follows & self.measured(np.repeat(self.starts, lengths) + offsets)).sum())


def measured_text(catalog: Catalog, corpus: str, split: str, max_tokens: int | None) -> MeasuredText:
    """The split's documents in the order of their hash, until `max_tokens` are reached."""
    # The first half of a hash decides the split; ordering by it would take documents of neighbouring hashes.
    documents = catalog.rows(
        "SELECT hash, start, tokens, shard FROM documents WHERE corpus = ? AND split = ? ORDER BY hash[17:], hash",
        [corpus, split],
    )
    taken, tokens = [], 0
    for document in documents:
        if max_tokens is not None and tokens >= max_tokens:
            break
        taken.append(document)
        tokens += document[2]
    ctx_len = catalog.value("SELECT ctx_len FROM corpora WHERE corpus = ?", [corpus])
    starts = np.array([start for _, start, _, _ in taken], np.int64)
    ends = starts + np.array([n for _, _, n, _ in taken], np.int64)
    order = np.argsort(starts)
    starts, ends = starts[order], ends[order]
    repeated = repeated_positions(catalog, corpus, split)
    repeated = repeated[_within(repeated, starts, ends)]
    said = json.dumps([ctx_len, [document[0] for document in taken], repeated.tolist()])
    return MeasuredText(
        corpus,
        split,
        starts,
        ends,
        repeated,
        ctx_len,
        sorted({shard for *_, shard in taken}),
        hashlib.blake2b(said.encode(), digest_size=16).hexdigest(),
        np.argsort(order),
        np.array([shard for *_, shard in taken], np.int64)[order],
    )


def repeated_positions(catalog: Catalog, corpus: str, split: str) -> npt.NDArray[np.int64]:
    """Positions of the split's tokens within a run of SHINGLE tokens that stands in train text of any corpus.

    Ascending, each once. Empty for split train, which is train text itself.
    """
    if split == "train":
        return np.empty(0, np.int64)
    # Few documents are held out: the query looks shingles up among theirs, and takes every other document as train.
    begins = catalog.rows(
        """
        WITH held_out AS MATERIALIZED (SELECT corpus, document, split FROM documents WHERE split <> 'train'),
        ours AS MATERIALIZED (
            SELECT t.position, t.shingle
            FROM tokens AS t
            SEMI JOIN (FROM held_out WHERE split = ?) AS d ON (d.corpus, d.document) = (t.corpus, t.document)
            WHERE t.corpus = ? AND t.shingle IS NOT NULL
        ),
        seen AS (
            SELECT DISTINCT t.shingle
            FROM tokens AS t
            SEMI JOIN ours AS o ON o.shingle = t.shingle
            ANTI JOIN held_out AS d ON (d.corpus, d.document) = (t.corpus, t.document)
        )
        SELECT o.position FROM ours AS o SEMI JOIN seen ON seen.shingle = o.shingle
        """,
        [split, corpus],
    )
    at = np.array(begins, np.int64).reshape(-1, 1)
    return np.unique(at + np.arange(SHINGLE))


def _within(
    positions: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Whether each position lies in one of the documents from `starts` to before `ends`, both ascending."""
    if not len(starts):
        return np.zeros(len(positions), bool)
    at = np.searchsorted(starts, positions, side="right") - 1
    return (at >= 0) & (positions < ends[at])
