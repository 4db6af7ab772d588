"""Finds the words and phrases of a concept in a text.

Texts and words are compared in Unicode's normal form NFC, without regard to case where that is asked for (full case
folding: "STRASSE" finds "straße", "ﬁle" finds "file"). A word is found where both of its ends are word boundaries:

- Those of Unicode's rules (UAX 29), so that "cafe" is not found in "café", however its accent is written.
- In scripts that are written without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese and their like) every
  character's end, for nobody can find their words without a dictionary: a word is found wherever it stands.
- UAX 29 keeps "np.matrix", "matrix's" and "l'algèbre" whole. Here a full stop or colon between letters, and an
  apostrophe, end a word too, except in the English contractions n't, 're, 've, 'll, 'd and 'm.
"""

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable

import regex

Spans = list[tuple[int, int, int]]

_CLUSTER = regex.compile(r"\X")
_UNSPACED = r"[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Bopomofo}\p{Line_Break=SA}ー]"
_LETTER = r"[\p{L}\p{M}]"
_CONTRACTION = r"(?i:t|re|ve|ll|d|m)(?!\w)"
_BEGIN = rf"(?:\b|(?={_UNSPACED})|(?<={_UNSPACED})|(?<={_LETTER}[.:])(?=\p{{L}})|(?<=['\u2019])(?!{_CONTRACTION}))"
_END = rf"(?:\b|(?={_UNSPACED})|(?<={_UNSPACED})|(?<={_LETTER})(?=[.:]\p{{L}})|(?=['\u2019](?!{_CONTRACTION})))"


class Words:
    """Words and phrases to be found, white space in a phrase standing for any run of it."""

    def __init__(self, phrases: Iterable[str], ignore_case: bool):
        self._ignore_case = ignore_case
        phrases = list(phrases)
        forms = dict.fromkeys(_form(phrase, ignore_case) for phrase in phrases)
        # Phrases that differ in case alone are one word, whether or not case counts where they are found.
        numbers: dict[str, int] = {}
        self._numbers = {
            _joined(_form(phrase, ignore_case)): numbers.setdefault(_joined(_form(phrase, True)), len(numbers))
            for phrase in phrases
        }
        # Of two that begin at one place the longer one holds the other.
        longest_first = [form.split() for form in sorted(forms, key=len, reverse=True)]
        anywhere = "|".join(r"\s+".join(map(re.escape, words)) for words in longest_first)
        self._anywhere = re.compile(anywhere)
        self._whole = regex.compile(f"{_BEGIN}(?:{anywhere}){_END}", regex.V1 | regex.WORD)

    def spans(self, text: str) -> Spans:
        """(first character, the one after the last, number of the word) of each place in `text`, in order.

        Places may overlap. Of two words that begin at one place the longer counts. Numbers are those of the phrases in
        their order, from 0; phrases that differ in case alone share one.
        """
        # Most documents hold none of the words: plain search says so in a fraction of the time.
        if not self._anywhere.search(_form(text, self._ignore_case)):
            return []
        if text.isascii():
            form = _form(text, self._ignore_case)
            return [(*match.span(), self._number(match)) for match in self._whole.finditer(form, overlapped=True)]
        form, begins, places = _mapped(text, self._ignore_case)
        found: Spans = []
        for match in self._whole.finditer(form, overlapped=True):
            ends = [bisect_left(begins, at) for at in match.span()]
            # A word ends where a character does, with its marks: not inside of what one character became.
            if all(begins[i] == at for i, at in zip(ends, match.span(), strict=True)):
                found.append((places[ends[0]], places[ends[1]], self._number(match)))
        return found

    def _number(self, match: regex.Match[str]) -> int:
        return self._numbers[_joined(match.group())]


def _joined(form: str) -> str:
    """A form with single blanks."""
    return " ".join(form.split())


def _form(text: str, ignore_case: bool) -> str:
    """The text as it is compared: NFC, folded if its case does not count."""
    if text.isascii():
        return text.lower() if ignore_case else text
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold() if ignore_case else text)


def _mapped(text: str, ignore_case: bool) -> tuple[str, list[int], list[int]]:
    """The form of a text, where in it each character with its marks begins, and where that one begins in the text.

    Both lists end with the length.
    """
    made: list[str] = []
    begins, places, length = [0], [0], 0
    for match in _CLUSTER.finditer(text):
        form = _form(match.group(), ignore_case)
        made.append(form)
        length += len(form)
        begins.append(length)
        places.append(match.end())
    return "".join(made), begins, places
