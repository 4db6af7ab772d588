"""Joined token texts are the document, whatever the tokenizer; where they cannot be, the document has a problem."""

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from catalog import Catalog
from catalog.errors import InputError
from ingest.model.language_model import LanguageModel
from ingest.text.corpus import ingest_corpus
from ingest.text.splits import document_hash
from ingest.text.tokenise import Tokenised, tokenise
from ingest.text.vocabulary import token_texts
from tests.ingest.tiny import corpus_of, write_lines
from tests.ingest.tokenizers_of_all_kinds import KINDS, kind

PIECES = st.sampled_from(
    [
        *"aabt.,\n\t日行\u0301\u0308½¨ﬁﬃİẞé🙂\u200d\ufe0f\u3000\x00\xa0각▁Ġ",
        *(" ", " ", "  ", "the", "the matrix", "<s>", "<m>", "<n>", "of", "e\u0301", "\u1100\u1161\u11a8"),
        *("\ufdfa", "👩\u200d👧", "##s", "cafés", "\ufeff", "\r\n"),
    ]
)
TEXTS = st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=12)


def fast(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def cut(tokenizer: Tokenizer, *texts: str) -> list[Tokenised]:
    return list(tokenise(fast(tokenizer), ((document_hash(text), "p", text) for text in texts)))


def shown(name: str, text: str) -> list[tuple[str, str]]:
    """(piece, its text) of each token."""
    (one,) = cut(kind(name), text)
    assert not one.problem
    return [(kind(name).id_to_token(int(i)), text[a:b]) for i, (a, b) in zip(one.ids, one.offsets, strict=True)]


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=60)
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_joined_token_texts_are_the_document(name: str, texts: list[str]) -> None:
    reference = Tokenizer.from_str(kind(name).to_str())
    reference.encode_special_tokens = True  # the name of a special token is text as any other
    for one, text in zip(cut(kind(name), *texts), texts, strict=True):
        plain = reference.encode(text, add_special_tokens=False)
        if one.problem:
            # It makes "¨" a blank with a mark, and drops both at the beginning.
            assert (name, one.problem) == ("Unigram, accents stripped", "the tokenizer drops characters of the text")
            assert any(unicodedata.normalize("NFKD", c).startswith(" ") for c in text)
            continue
        if not plain.ids:
            assert (len(one.ids), one.problem) == (0, "")
            continue
        assert one.ids.tolist() == plain.ids
        assert "".join(text[a:b] for a, b in one.offsets) == text
        assert (one.offsets[:, 0] <= one.offsets[:, 1]).all()
        assert (one.offsets[1:] >= one.offsets[:-1]).all()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("Metaspace always", "xa the b", [("▁", ""), ("x", "x"), ("a", "a"), ("▁the", " the"), ("▁b", " b")]),
        ("Metaspace always", "<s>日", [("<s>", "<s>"), ("▁", ""), ("日", "日")]),
        ("Metaspace always", " 日", [("▁", " "), ("日", "日")]),
        ("Metaspace always", "▁日", [("▁", "▁"), ("日", "日")]),
        ("Metaspace first", "日<s>日", [("▁", ""), ("日", "日"), ("<s>", "<s>"), ("日", "日")]),
        ("Metaspace never", "日 日", [("日", "日"), ("▁", " "), ("日", "日")]),
        ("Llama 2", "日a", [("▁", ""), ("日", "日"), ("a", "a")]),
        ("Llama 2", "ß ", [("▁", ""), ("<0xC3>", "ß"), ("<0x9F>", ""), ("▁", " ")]),
        ("Llama 2", "▁b", [("▁▁", "▁"), ("b", "b")]),
        ("Llama 2", "b<s>b", [("▁", ""), ("b", "b"), ("<s>", "<s>"), ("▁", ""), ("b", "b")]),
        ("byte-level, prefix", "\nb", [("Ġ", ""), ("Ċ", "\n"), ("b", "b")]),
        ("byte-level, prefix", "a b", [("Ġ", ""), ("a", "a"), ("Ġ", " "), ("b", "b")]),
        ("byte-level, added tokens", "b <m> b", [("Ġ", ""), ("b", "b"), ("<m>", " <m> "), ("Ġ", ""), ("b", "b")]),
        ("byte-level, tokens of parts of characters", "日b", [("æĹ", "日"), ("¥", ""), ("b", "b")]),
        ("Unigram NFKC", "¨b", [("▁", "¨"), ("\u0308", ""), ("b", "b")]),
        ("Unigram NFKC", "ﬁ", [("▁", ""), ("f", "ﬁ"), ("i", "")]),
        ("Unigram NFKC", "\u3000日", [("▁", "\u3000"), ("日", "日")]),
        ("Unigram, accents stripped", "  É. ", [("▁", "  "), ("e", "É"), (".", ". ")]),
        ("WordPiece", "The  cafe\u0301s,", [("the", "The"), ("cafe", "  cafe\u0301"), ("##s", "s"), (",", ",")]),
        ("WordPiece", "\x00the\ufe0f the\n", [("the", "\x00the\ufe0f"), ("the", " the\n")]),
    ],
)
def test_each_token_shows_what_it_stands_for(name: str, text: str, expected: list[tuple[str, str]]) -> None:
    assert shown(name, text) == expected


def dropping() -> Tokenizer:
    made = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


def test_a_document_with_characters_that_the_tokenizer_drops_is_refused_alone() -> None:
    fine, dropped, end = cut(dropping(), "ab a", "a日b", "b 日")
    assert [fine.text[a:b] for a, b in fine.offsets] == ["a", "b", " a"]
    for one in (dropped, end):
        assert one.problem == "the tokenizer drops characters of the text"
        assert one.ids.shape == (0,)
        assert one.offsets.shape == (0, 2)


def test_a_prefix_before_a_dropped_character_does_not_stand_for_it() -> None:
    made = Tokenizer(models.BPE({"▁": 0, "b": 1}, []))
    made.normalizer = normalizers.Prepend("▁")
    assert cut(made, "日")[0].problem == "the tokenizer drops characters of the text"


def test_a_text_that_the_tokenizer_fails_on_spoils_no_other() -> None:
    """WordPiece without its own unknown token raises."""
    made = Tokenizer(models.WordPiece({"the": 0}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    fine, failed, last = cut(made, "the the", "the zebra", "the")
    assert (len(fine.ids), len(failed.ids), len(last.ids)) == (2, 0, 1)
    assert failed.problem.startswith("the tokenizer cannot read the text (WordPiece error")


def with_tokenizer(model: LanguageModel, tokenizer: Tokenizer) -> LanguageModel:
    return LanguageModel(model.spec, model.network, fast(tokenizer), None, model.digest, model.layout)


def test_refused_documents_are_counted_and_the_others_ingested(
    catalog: Catalog, llama: LanguageModel, tmp_path: Path
) -> None:
    path = write_lines(tmp_path / "d.jsonl", ["a b", "a日b", "b a", "日"])
    report = ingest_corpus(catalog, corpus_of(path), with_tokenizer(llama, dropping()))
    assert (report.documents, report.empty) == (2, 1)
    assert catalog.rows("SELECT subject, reason, count FROM problems") == [
        ("d.jsonl:2", "the tokenizer drops characters of the text", 1)
    ]
    texts = catalog.rows("SELECT string_agg(text, '' ORDER BY position) FROM token_text GROUP BY document")
    assert sorted(texts) == [("a b",), ("b a",)]


def test_a_corpus_of_refused_documents_says_why(catalog: Catalog, llama: LanguageModel, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "d.jsonl", ["a日b", "b日a"])
    with pytest.raises(InputError, match=r"holds no text.*2 times: the tokenizer drops characters of the text"):
        ingest_corpus(catalog, corpus_of(path), with_tokenizer(llama, dropping()))


def test_the_view_shows_an_added_prefix_as_nothing(catalog: Catalog, llama: LanguageModel, tmp_path: Path) -> None:
    documents = ["日 a", "b<s>b", " b"]
    model = with_tokenizer(llama, kind("Llama 2"))
    ingest_corpus(catalog, corpus_of(write_lines(tmp_path / "d.jsonl", documents)), model)
    rows = catalog.rows("SELECT list(text ORDER BY position) FROM token_text GROUP BY document ORDER BY document")
    assert [texts for (texts,) in rows] == [["", "日", " a"], ["", "b", "<s>", "", "b"], [" ", "b"]]


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("Metaspace always", {"▁a": " a", "a": "a", "▁": " ", "▁▁": "  ", "<s>": "<s>", "▁the": " the"}),
        ("Metaspace never", {"▁a": " a", "a": "a"}),
        ("Llama 2", {"▁a": " a", "a": "a", "<0xE2>": "<0xE2>", "<0x9F>": "<0x9F>", "<0x41>": "<0x41>", "▁▁": "  "}),
        ("byte-level, prefix", {"Ġthe": " the", "he": "he", "æ": "<0xE6>", "æĹ": "<0xE6><0x97>", "Ċ": "\n", "Ġ": " "}),
        ("byte-level, tokens of parts of characters", {"Ġæ": " <0xE6>", "¥": "<0xA5>", "¥Ġ": "<0xA5> "}),
        ("byte-level, added tokens", {"<m>": "<m>", "  ": "  "}),
        ("WordPiece", {"s": "s", "##s": "##s", "the": "the"}),
        ("suffixed", {"a": "a", "a</w>": "a ", "ab</w>": "ab "}),
    ],
)
def test_the_vocabulary_tells_pieces_apart(name: str, pieces: dict[str, str]) -> None:
    texts = token_texts(fast(kind(name)))
    assert {piece: texts[kind(name).token_to_id(piece)] for piece in pieces} == pieces


@pytest.mark.parametrize("name", KINDS)
def test_no_two_tokens_of_a_vocabulary_have_one_text(name: str) -> None:
    tokenizer = kind(name)
    texts = token_texts(fast(tokenizer))
    assert len(texts) == tokenizer.get_vocab_size()
    same = [text for text in texts if texts.count(text) > 1]
    # An added token may be written as a piece is.
    assert {text for text in same if text not in ("of", "  ")} == set()


def test_the_recorded_vocabulary_is_mended(catalog: Catalog, llama: LanguageModel) -> None:
    from ingest.model.identity import record_model

    record_model(catalog, llama)
    texts = token_texts(llama.tokenizer)
    with catalog.write("as an older version wrote it") as tx:
        tx.execute("UPDATE lake.vocabulary SET text = chr(65533) WHERE text LIKE '<0x%'")
    record_model(catalog, llama)
    stored = [text for (text,) in catalog.rows("SELECT text FROM vocabulary ORDER BY token")]
    assert stored == texts
    assert json.dumps(stored).count("ufffd") == 0
    before = catalog.snapshot()
    record_model(catalog, llama)
    assert catalog.snapshot() == before
