"""Gives the text of every token id as inside a text: "▁a" and "a" differ, and so do bytes that are no character."""

import json
import re

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from ingest.text.bytelevel import bytes_of
from ingest.text.offsets import parts

_AROUND = "x"
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def token_texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text of each token id from 0 on.

    The blank that a token stands for is part of it (" a"). A byte that is no character alone stands as `<0xE2>`, a
    token that continues a word of WordPiece with its `##`, an added or special token as it is written.
    """
    if not tokenizer.is_fast:
        return [str(tokenizer.decode([token])) for token in range(len(tokenizer))]
    backend: Tokenizer = tokenizer.backend_tokenizer
    added = {token: one.content for token, one in backend.get_added_tokens_decoder().items()}
    kinds = {part["type"] for part in parts(json.loads(backend.to_str())["decoder"])}
    return [
        added[token] if token in added else _text(backend, kinds, backend.id_to_token(token))
        for token in range(len(tokenizer))
    ]


def _text(backend: Tokenizer, kinds: set[str], piece: str | None) -> str:
    """A piece as its decoder writes it between two others."""
    if piece is None:
        # Some vocabularies leave ids out.
        return ""
    if "ByteLevel" in kinds:
        raw = bytes_of(piece)
        return piece if raw is None else _readable(raw)
    if backend.decoder is None or "WordPiece" in kinds or _BYTE.fullmatch(piece):
        return piece
    whole = str(backend.decoder.decode([_AROUND, piece, _AROUND]))
    inside = whole.startswith(_AROUND) and whole.endswith(_AROUND) and len(whole) > 1
    return whole[1:-1] if inside else piece


def _readable(raw: bytes) -> str:
    """UTF-8 as text, each byte of a part that is none as `<0xE2>`."""
    return "".join(
        f"<0x{ord(c) - 0xDC00:02X}>" if "\udc80" <= c <= "\udcff" else c for c in raw.decode("utf-8", "surrogateescape")
    )
