"""Gives every token of a document its own characters, so that the tokens' texts, joined, are the document.

A tokenizer's own offsets overlap and leave gaps. Where they do, the owner follows from these rules alone:

- A character that is cut into several tokens (its bytes, the letters of a ligature) belongs to the first of them.
- A token made of nothing but a prefix that the tokenizer put in front of the text (a lone "▁" or "Ġ") is empty.
- Blanks and control characters that the tokenizer drops belong to the token behind them, at the end of the document
  to the last one; marks that combine (a dropped accent) belong to the token before them.

A document whose tokenizer drops a character that a person would see, or gives offsets that go backwards, has no such
spans: `Tiler` raises Untiled, and ingest leaves the document out.
"""

import json
import unicodedata
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import regex
from tokenizers import Encoding, Tokenizer

from ingest.text.bytelevel import byte_level

_BLANK = 32
_CLUSTER = regex.compile(r"\X")


class Untiled(Exception):
    """No spans of the tokens make up the text; the message is the reason."""


class Tiler:
    """Spans of the tokens of one tokenizer."""

    def __init__(self, backend: Tokenizer):
        said = json.loads(backend.to_str())
        normalizers = list(parts(said["normalizer"]))
        splitters = list(parts(said["pre_tokenizer"]))
        self._coded = any(part["type"] == "ByteLevel" for part in (*normalizers, *splitters))
        self._normalizer = _without_prefix(said, normalizers)
        self._markers = self._prefixes(normalizers, splitters)
        vocabulary = backend.get_vocab(with_added_tokens=False)
        blank = [token for piece, token in vocabulary.items() if piece and set(piece) <= self._markers]
        self._blank = np.asarray(sorted(blank), np.int32)
        self._blanks: dict[str, int] = {}

    def spans(self, text: str, encoding: Encoding) -> npt.NDArray[np.int32]:
        """`[tokens, 2]`: first character of each token and the one after its last, in `text`. Raises Untiled."""
        ids = np.asarray(encoding.ids, np.int32)
        if not len(ids):
            return np.empty((0, 2), np.int32)
        claims = np.asarray(encoding.offsets, np.int64).reshape(-1, 2)
        begins, ends = claims[:, 0].copy(), claims[:, 1].copy()
        if begins[0] < 0 or ends[-1] > len(text) or (begins > ends).any() or (np.diff(claims, axis=0) < 0).any():
            raise Untiled("the tokenizer's offsets go backwards or leave the text")
        characters = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        self._empty_prefixes(text, characters, encoding, ids, begins, ends)
        ends = np.maximum.accumulate(ends)
        begins = np.maximum(begins, np.concatenate([[0], ends[:-1]]))
        _close_gaps(text, characters, begins, ends)
        if begins[0] or ends[-1] != len(text) or (begins[1:] != ends[:-1]).any():
            raise Untiled("the tokenizer's offsets do not make up the text")
        return np.stack([begins, ends], 1).astype(np.int32)

    def _prefixes(self, normalizers: list[dict[str, Any]], splitters: list[dict[str, Any]]) -> set[str]:
        """The characters of what the tokenizer puts in front of a text, as they look in the pieces of tokens."""
        found = {" "}
        for part in normalizers:
            if part["type"] == "Prepend":
                found |= set(part["prepend"]) | set(self._normalized(part["prepend"]))
        found |= {part["replacement"] for part in splitters if part["type"] == "Metaspace"}
        return found | ({c for each in found for c in byte_level(each)} if self._coded else set())

    def _normalized(self, text: str) -> str:
        """What the tokenizer makes of a few characters, without a prefix, as it looks in pieces."""
        made = text if self._normalizer is None else self._normalizer.normalize_str(text)
        return byte_level(made) if self._coded else str(made)

    def _own_blanks(self, text: str) -> int:
        """How many prefix characters these characters of the document begin with of their own."""
        if text not in self._blanks:
            raw = byte_level(text) if self._coded else text
            self._blanks[text] = max(self._leading(raw), self._leading(self._normalized(text)))
        return self._blanks[text]

    def _leading(self, piece: str) -> int:
        return next((i for i, c in enumerate(piece) if c not in self._markers), len(piece))

    def _empty_prefixes(
        self,
        text: str,
        characters: npt.NDArray[np.uint32],
        encoding: Encoding,
        ids: npt.NDArray[np.int32],
        begins: npt.NDArray[np.int64],
        ends: npt.NDArray[np.int64],
    ) -> None:
        """Make the span of every token that stands for nothing but an added prefix empty, in place.

        The tokenizer gives such a token the character behind it, which the next token claims too.
        """
        n = len(ids)
        blank = np.isin(ids, self._blank) & (begins < ends)
        alone = np.diff(begins, append=-1) != 0
        alone &= np.diff(begins, prepend=-1) != 0
        # A blank that only this token claims is its own: the many of indented code are not looked at one by one.
        blank &= ~(alone & (characters[np.minimum(begins, len(text) - 1)] == _BLANK))
        pieces = encoding.tokens if blank.any() else []
        done = -1
        for first in np.flatnonzero(blank).tolist():
            start = begins[first]
            if first <= done or (first and begins[first - 1] == start):
                continue
            last = first
            while last + 1 < n and begins[last + 1] == start:
                last += 1
            done = last
            claimed = 0
            for token in range(first, last + 1):
                claimed += self._leading(pieces[token])
                if not blank[token]:
                    break
            added = claimed - self._own_blanks(text[start : ends[first]])
            for token in range(first, last + 1):
                if not blank[token] or added < len(pieces[token]):
                    break
                added -= len(pieces[token])
                ends[token] = start


def parts(said: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """The normalizers, pre-tokenizers or decoders of a tokenizer.json, sequences unfolded."""
    if said is None:
        return
    if said["type"] == "Sequence":
        for each in said.get("normalizers") or said.get("pretokenizers") or said.get("decoders") or ():
            yield from parts(each)
    else:
        yield said


def _without_prefix(said: dict[str, Any], normalizers: list[dict[str, Any]]) -> Any:
    """The normalizer without what depends on where a text begins or ends; None for none."""
    kept = [part for part in normalizers if part["type"] not in ("Prepend", "Strip")]
    if not kept:
        return None
    model = {"type": "WordLevel", "vocab": {"": 0}, "unk_token": ""}
    bare = {**said, "normalizer": {"type": "Sequence", "normalizers": kept}, "model": model}
    bare |= {"added_tokens": [], "pre_tokenizer": None, "post_processor": None, "decoder": None}
    return Tokenizer.from_str(json.dumps(bare)).normalizer


def _close_gaps(
    text: str, characters: npt.NDArray[np.uint32], begins: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
) -> None:
    """Give characters that no token has to a neighbour, in place. Raises Untiled where one of them can be seen."""
    before = np.concatenate([[0], ends[:-1]])
    blanks = np.concatenate([[0], np.cumsum(characters == _BLANK)])
    odd = (begins > before) & (blanks[begins] - blanks[before] < begins - before)
    for token in np.flatnonzero(odd).tolist():
        cut, end = int(before[token]), int(begins[token])
        if token:
            cut = min(cut + _joining(text, cut), end)
        _check_unseen(text[cut:end])
        if token:
            ends[token - 1] = cut
        before[token] = cut
    np.minimum(begins, before, out=begins)
    if ends[-1] < len(text):
        _check_unseen(text[ends[-1] + _joining(text, int(ends[-1])) :])
        ends[-1] = len(text)


def _joining(text: str, at: int) -> int:
    """How many characters from `at` on are one with the character before: marks, and parts of a Hangul syllable."""
    end = _CLUSTER.match(text, at - 1).end()
    return next((i for i in range(end - at) if not (_unseen(text[at + i]) or _is_jamo(text[at + i]))), end - at)


def _is_jamo(character: str) -> bool:
    return "\u1100" <= character <= "\u11ff" or "\ua960" <= character <= "\ua97f" or "\ud7b0" <= character <= "\ud7ff"


def _unseen(character: str) -> bool:
    # What stands for bytes that are no character is dropped with the control characters, "▁" with the blanks.
    return character.isspace() or unicodedata.category(character)[0] in "CMZ" or character in "\ufffd▁"


def _check_unseen(gap: str) -> None:
    if not all(map(_unseen, gap)):
        raise Untiled("the tokenizer drops characters of the text")
