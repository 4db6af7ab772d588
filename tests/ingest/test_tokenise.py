"""Tokens with offsets that tile the text, cut into sequences that never span documents."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors
from transformers import BertTokenizerLegacy, PreTrainedTokenizerFast

from catalog.errors import InputError
from ingest.text.splits import SHINGLE, document_hash, shingles, split_of
from ingest.text.tokenise import ShardBuilder, Tokenised, tokenise
from tests.ingest.tiny import backend, texts

TEXTS = [
    "the matrix  of rows\n\n\tand columns ",
    "naïve → 日本 🙂🙂",
    "x",
    "\x00 nul",
    "e\u0301 combining",
    "ﬁ \u200b zero width",
]


def fast(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


def tokenised(documents: list[str], tokenizer: Tokenizer | None = None) -> list[Tokenised]:
    rows = ((document_hash(text), f"place {i}", text) for i, text in enumerate(documents))
    return list(tokenise(fast(tokenizer or backend()), rows))


def copy() -> Tokenizer:
    return Tokenizer.from_str(backend().to_str())


def pieces(one: Tokenised) -> list[str]:
    return [one.text[a:b] for a, b in one.offsets]


@pytest.mark.parametrize("text", TEXTS)
def test_the_pieces_of_a_document_make_up_its_text(text: str) -> None:
    assert "".join(pieces(tokenised([text])[0])) == text


@given(st.text(max_size=60))
def test_any_text_is_tiled_by_its_tokens(text: str) -> None:
    (one,) = tokenised([text])
    assert "".join(pieces(one)) == text
    assert (one.offsets[:, 0] <= one.offsets[:, 1]).all()


def test_a_character_of_several_tokens_belongs_to_the_first() -> None:
    (one,) = tokenised(["a🙂b"])
    assert len(one.ids) == 6
    assert pieces(one) == ["a", "🙂", "", "", "", "b"]


def test_no_special_token_is_added() -> None:
    (one,) = tokenised(["the matrix"])
    assert 0 not in one.ids
    assert backend().decode(one.ids.tolist()) == "the matrix"


def test_a_post_processor_that_trims_offsets_does_not_lose_blanks() -> None:
    """As the tokenizers of GPT-2 and Pythia do."""
    trimming = copy()
    trimming.post_processor = processors.ByteLevel(trim_offsets=True)
    text = "the  matrix of\n rows"
    assert "".join(pieces(tokenised([text], trimming)[0])) == text


def test_a_tokenizer_that_truncates_and_pads_does_neither_here() -> None:
    """As a tokenizer.json is saved after use in training."""
    cutting = copy()
    cutting.enable_truncation(4)
    cutting.enable_padding(length=8)
    text = " ".join(["matrix"] * 30)
    long, short = tokenised([text, "x"], cutting)
    assert "".join(pieces(long)) == text
    assert len(short.ids) == 1


def test_documents_keep_their_order_hash_and_place_across_batches() -> None:
    documents = [f"document {i}" for i in range(1100)]
    found = tokenised(documents)
    assert [(one.text, one.hash, one.source) for one in found] == [
        (text, document_hash(text), f"place {i}") for i, text in enumerate(documents)
    ]


def test_a_text_without_tokens_comes_out_empty() -> None:
    (one,) = tokenised([""])
    assert one.ids.shape == (0,)
    assert one.offsets.shape == (0, 2)


def test_a_tokenizer_without_offsets_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    slow = BertTokenizerLegacy(str(tmp_path / "vocab.txt"))
    with pytest.raises(InputError, match="gives no character offsets"):
        list(tokenise(slow, iter([("0" * 32, "p", "a")])))


def build(documents: list[str], body: int) -> tuple[list[dict], list[dict], list[Tokenised]]:
    """Two shards, the second after a number of documents and tokens that stand already."""
    found = tokenised(documents)
    builder = ShardBuilder("c", 3, body, document=7, position=1000)
    for one in found:
        builder.add(one)
    assert builder.tokens == sum(len(one.ids) for one in found)
    rows, tokens = builder.tables()
    return rows.to_pylist(), tokens.to_pylist(), found


def naive(found: list[Tokenised], body: int) -> Iterator[dict]:
    position = 1000
    for number, one in enumerate(found, start=7):
        n, hashes = len(one.ids), shingles(one.ids)
        for i in range(n):
            begin = i - i % body
            yield {
                "corpus": "c",
                "shard": 3,
                "position": position + i,
                "document": number,
                "sequence": position + begin,
                "length": min(body, n - begin),
                "token": int(one.ids[i]),
                "char_start": int(one.offsets[i, 0]),
                "char_end": int(one.offsets[i, 1]),
                "shingle": int(hashes[i]) if i + SHINGLE <= n else None,
            }
        position += n


@pytest.mark.parametrize("body", [1, 7, 15, 1000])
def test_positions_sequences_and_lengths_equal_a_naive_count(body: int) -> None:
    _, tokens, found = build(texts(25), body)
    assert tokens == list(naive(found, body))


def test_sequences_never_span_documents_and_fill_the_context() -> None:
    documents, tokens, _ = build(texts(25), 15)
    places = {}
    for row in tokens:
        places.setdefault(row["sequence"], []).append(row)
    for sequence, rows in places.items():
        assert len({row["document"] for row in rows}) == 1
        assert [row["position"] for row in rows] == list(range(sequence, sequence + len(rows)))
        assert {row["length"] for row in rows} == {len(rows)}
        document = documents[rows[0]["document"] - 7]
        ends = document["start"] + document["tokens"]
        assert len(rows) == 15 or rows[-1]["position"] + 1 == ends


def test_documents_carry_split_start_and_text() -> None:
    documents, tokens, found = build(["the matrix", "of rows → 日本"], 15)
    assert documents == [
        {
            "corpus": "c",
            "document": 7 + i,
            "hash": one.hash,
            "shard": 3,
            "split": split_of(one.hash),
            "start": 1000 + i * len(found[0].ids),
            "tokens": len(one.ids),
            "source": f"place {i}",
            "text": one.text,
        }
        for i, one in enumerate(found)
    ]
    assert len(tokens) == sum(np.shape(one.ids)[0] for one in found)
