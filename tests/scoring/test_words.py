"""Concept words are found by Unicode's word boundaries, in any normal form, in scripts without spaces anywhere."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoring.kernels.words import Words


def found(text: str, *phrases: str, ignore_case: bool = True) -> list[str]:
    return [text[a:b] for a, b, _ in Words(phrases, ignore_case).spans(text)]


@pytest.mark.parametrize(
    ("text", "word", "expected"),
    [
        # Scripts without spaces: anywhere.
        ("行列の積と行列、逆行列", "行列", ["行列"] * 3),
        ("この行列式", "行列", ["行列"]),
        ("データベースのデータ", "データ", ["データ"] * 2),
        ("ひらがなのかな", "かな", ["かな"]),
        ("ภาษาไทยเป็นภาษา", "ภาษา", ["ภาษา"] * 2),
        ("ភាសាខ្មែរ", "ខ្មែរ", ["ខ្មែរ"]),
        ("ພາສາລາວ", "ລາວ", ["ລາວ"]),
        ("မြန်မာဘာသာ", "ဘာသာ", ["ဘာသာ"]),
        ("行列matrix行列", "matrix", ["matrix"]),
        # A character with its vowel sign is another one.
        ("กินข้าว", "ก", []),
        ("ขา ข้าว", "ขา", ["ขา"]),
        # Normal forms: both ways, and no word in the middle of a letter.
        ("cafe\u0301", "cafe", []),
        ("cafe\u0301 bar", "café", ["cafe\u0301"]),
        ("un café", "cafe\u0301", ["café"]),
        ("cafe\u0301s", "café", []),
        ("\u1112\u1162\u11bc\u1105\u1167\u11af", "행렬", ["\u1112\u1162\u11bc\u1105\u1167\u11af"]),
        ("행렬은", "행렬", []),
        ("q\u0323\u0307 x", "q\u0307\u0323", ["q\u0323\u0307"]),
        # Case folding.
        ("die straße", "STRASSE", ["straße"]),
        ("DIE STRASSE", "straße", ["STRASSE"]),
        ("straße", "stras", []),
        ("ﬁle", "file", ["ﬁle"]),
        ("ﬁle", "f", []),
        ("ΟΔΟΣ οδός", "οδος", ["ΟΔΟΣ"]),
        ("\u0131s\u0131 ISI isi", "isi", ["ISI", "isi"]),
        ("İstanbul", "istanbul", []),
        ("İstanbul", "i\u0307stanbul", ["İstanbul"]),
        # Words, their apostrophes, hyphens, full stops, digits.
        ("matrices matrix_2 matrix", "matrix", ["matrix"]),
        ("the matrix's rows", "matrix", ["matrix"]),
        ("the matrix\u2019s rows", "matrix", ["matrix"]),
        ("l'algèbre", "algèbre", ["algèbre"]),
        ("you can't can", "can", ["can"]),
        ("don't", "t", []),
        ("don't do", "don't", ["don't"]),
        ("linear-algebra", "linear", ["linear"]),
        ("a state-of-the-art x", "state-of-the-art", ["state-of-the-art"]),
        ("np.matrix.T :math:`matrix`", "matrix", ["matrix"] * 2),
        ("pi is 3.14 or 14", "14", ["14"]),
        ("C++ and c++.", "C++", ["C++", "c++"]),
        ("m.trix matrix", "m.trix", ["m.trix"]),
        # Other scripts.
        ("\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd", "\u05e9\u05dc\u05d5\u05dd", ["\u05e9\u05dc\u05d5\u05dd"]),
        ("क्\u200dष क", "क", ["क"]),
        ("नमस्ते दुनिया", "नमस्ते", ["नमस्ते"]),
        ("नमस्ते", "नमस", []),
        ("🙂🙂", "🙂", ["🙂", "🙂"]),
        ("👩\u200d👧", "👩", []),
        # Phrases.
        ("linear\n  system, linearsystem", "linear system", ["linear\n  system"]),
        ("nai\u0308f linear\u3000system", "linear  system", ["linear\u3000system"]),
    ],
)
def test_a_word_is_found_where_it_stands(text: str, word: str, expected: list[str]) -> None:
    assert found(text, word) == expected


def test_case_counts_where_it_should() -> None:
    assert found("Matrix matrix ﬁle", "matrix", "file", ignore_case=False) == ["matrix"]
    assert found("CAFE\u0301 cafe\u0301", "café", ignore_case=False) == ["cafe\u0301"]


def test_phrases_that_overlap_are_all_found() -> None:
    phrases = ("linear system", "system theory", "linear")
    assert found("linear system theory", *phrases) == ["linear system", "system theory"]


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from(["é", "e\u0301", "ß", "ẞ", "ﬁ", "Å", "행", "x", "i\u0307", "q\u0307\u0323"]), min_size=1),
    st.sampled_from(["NFC", "NFD"]),
    st.sampled_from(["NFC", "NFD"]),
)
def test_a_word_is_found_alone_in_every_normal_form(parts: list[str], word_form: str, text_form: str) -> None:
    word = unicodedata.normalize(word_form, "".join(parts))
    text = unicodedata.normalize(text_form, "".join(parts))
    for before, after in (("", ""), ("a ", " b"), ("行", "列"), ("«", "»")):
        assert found(before + text + after, word) == [text]
    assert found(f"a{text}", word) == []
    assert found(f"{text}b", word) == []
