"""Tokenises documents: ids, character offsets, sequences of at most `ctx_len`, shingles; all as columns."""

import json
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerBase

from catalog.errors import InputError
from ingest.text.offsets import Tiler, Untiled
from ingest.text.splits import HELD_OUT, Shares, shingles, split_of

_BATCH = 512


@dataclass(frozen=True)
class Tokenised:
    """One document's tokens, BOS left out."""

    hash: str
    source: str
    text: str
    ids: npt.NDArray[np.int32]
    """`[tokens]`"""
    offsets: npt.NDArray[np.int32]
    """`[tokens, 2]`: first character and the one after the last. The tokens' texts, joined, are the text: a character
    that is split into several tokens belongs to the first, and the others are empty."""
    problem: str = ""
    """Why the document cannot be used: it has no tokens here."""


_PREPARED: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[Tokenizer, Tiler]] = WeakKeyDictionary()
"""Copies that were made of tokenizers: of one with 262,144 tokens it takes seconds, and every corpus needs it."""


def tokenise(tokenizer: PreTrainedTokenizerBase, documents: Iterator[tuple[str, str, str]]) -> Iterator[Tokenised]:
    """Tokenise (hash, source, text) in batches, no special tokens; a document without tokens comes out empty.

    A document that the tokenizer cannot read, or whose text its tokens do not make up, comes out with its `problem`.
    Raises InputError if the tokenizer gives no offsets (only `fast` ones do).
    """
    if not tokenizer.is_fast:
        raise InputError(
            f"the tokenizer {type(tokenizer).__name__} gives no character offsets: use a model with a tokenizer.json"
        )
    special = _structural(tokenizer)
    if tokenizer not in _PREPARED:
        copy = _whole_text(tokenizer.backend_tokenizer, set(special.values()))
        _PREPARED[tokenizer] = (copy, Tiler(copy))
    whole, tiler = _PREPARED[tokenizer]
    batch: list[tuple[str, str, str]] = []
    for document in documents:
        batch.append(document)
        if len(batch) == _BATCH:
            yield from _tokenise_batch(whole, tiler, batch, special)
            batch = []
    yield from _tokenise_batch(whole, tiler, batch, special)


def _structural(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """By id the tokens that structure a sequence (BOS, padding, roles): no text becomes one of them."""
    unknown = tokenizer.unk_token_id if tokenizer.unk_token_id != tokenizer.bos_token_id else None
    tokens = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    return {i: token for i, token in tokens.items() if i != unknown}


def _whole_text(backend: Tokenizer, special: Container[str]) -> Tokenizer:
    """A copy that cuts nothing, pads nothing, reads special tokens as text, and counts the blank before a word to it.

    Many saved tokenizers truncate to the model's length, and their post-processors trim offsets.
    """
    said = json.loads(backend.to_str())
    for token in said.get("added_tokens") or []:
        # A text that speaks of <s> has no sequence that begins there.
        token["special"] = token["special"] or token["content"] in special
    copy = Tokenizer.from_str(json.dumps(said))
    copy.encode_special_tokens = True
    copy.no_truncation()
    copy.no_padding()
    copy.post_processor = None
    return copy


def _tokenise_batch(
    tokenizer: Tokenizer, tiler: Tiler, batch: list[tuple[str, str, str]], special: Mapping[int, str]
) -> Iterator[Tokenised]:
    if not batch:
        return
    encodings = _encoded(tokenizer, [text for _, _, text in batch])
    for (key, source, text), encoding in zip(batch, encodings, strict=True):
        ids, spans, problem = np.empty(0, np.int32), np.empty((0, 2), np.int32), ""
        if isinstance(encoding, str):
            problem = encoding
        elif found := special.keys() & set(encoding.ids):
            problem = f"becomes the special token {special[min(found)]!r}, which is a word of the tokenizer too"
        else:
            try:
                spans = tiler.spans(text, encoding)
                ids = np.asarray(encoding.ids, np.int32)
            except Untiled as error:
                problem = str(error)
        yield Tokenised(key, source, text, ids, spans, problem)


def _encoded(tokenizer: Tokenizer, texts: list[str]) -> list[Encoding | str]:
    """The encoding of each text, or why the tokenizer cannot read it: one text spoils no other."""
    try:
        return list(tokenizer.encode_batch(texts, add_special_tokens=False))
    except BaseException as error:
        if not _tokenizers_own(error):
            raise
        if len(texts) == 1:
            return [f"the tokenizer cannot read the text ({error})"]
    return [encoding for text in texts for encoding in _encoded(tokenizer, [text])]


def _tokenizers_own(error: BaseException) -> bool:
    """Whether the tokenizer itself failed: it raises Exception, and where its Rust code panics a BaseException."""
    return type(error) is Exception or type(error).__name__ == "PanicException"


@dataclass
class ShardBuilder:
    """Collects documents until a shard is full, then gives its two tables."""

    corpus: str
    shard: int
    body: int
    """Tokens of a sequence, BOS left out."""
    document: int
    """Number of the next document."""
    position: int
    """Position of the next token."""
    shares: Shares = HELD_OUT

    def __post_init__(self) -> None:
        self._first = self.position
        self._documents: list[dict[str, object]] = []
        self._columns: dict[str, list[npt.NDArray[np.generic]]] = {}

    @property
    def tokens(self) -> int:
        """Tokens collected."""
        return self.position - self._first

    def add(self, one: Tokenised) -> None:
        """Append a document of at least one token."""
        n = len(one.ids)
        offset = np.arange(n)
        begin = offset // self.body * self.body
        hashes = shingles(one.ids)
        self._documents.append(
            {
                "corpus": self.corpus,
                "document": self.document,
                "hash": one.hash,
                "shard": self.shard,
                "split": split_of(one.hash, self.shares),
                "start": self.position,
                "tokens": n,
                "source": one.source,
                "text": one.text,
            }
        )
        columns: dict[str, npt.NDArray[Any]] = {
            "position": self.position + offset,
            "document": np.full(n, self.document, np.int32),
            "sequence": self.position + begin,
            "length": np.minimum(n - begin, self.body).astype(np.int16),
            "token": one.ids,
            "char_start": one.offsets[:, 0],
            "char_end": one.offsets[:, 1],
            "shingle": np.pad(hashes, (0, n - len(hashes))),
            "_no_shingle": offset >= len(hashes),
        }
        for name, values in columns.items():
            self._columns.setdefault(name, []).append(values)
        self.document += 1
        self.position += n

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """(documents, tokens) in the column order of the schema."""
        columns = {name: np.concatenate(parts) for name, parts in self._columns.items()}
        masked = columns.pop("_no_shingle")
        n = len(masked)
        tokens = {
            "corpus": pa.DictionaryArray.from_arrays(np.zeros(n, np.int8), pa.array([self.corpus])),
            "shard": pa.array(np.full(n, self.shard, np.int32)),
            **{name: pa.array(values) for name, values in columns.items() if name != "shingle"},
            "shingle": pa.array(columns["shingle"], mask=masked),
        }
        schema = {"document": pa.int32(), "shard": pa.int32(), "start": pa.int64(), "tokens": pa.int32()}
        documents = pa.Table.from_pylist(self._documents)
        for name, dtype in schema.items():
            at = documents.schema.get_field_index(name)
            documents = documents.set_column(at, name, documents.column(name).cast(dtype))
        return documents, pa.table(tokens)
