"""Tiny tokenizers of every kind that stands on the hub, each built here from a few pieces."""

from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from tokenizers import normalizers as norm

from tests.ingest.tiny import backend

WORDS = ("the", "matrix", "of", "rows", "a", "b")
LETTERS = "abcdefghijklmnopqrstuvwxyz.,é日行列½΅̈"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def unigram(byte_fallback: bool = False) -> models.Unigram:
    pieces = ["▁", *WORDS, *(f"▁{word}" for word in WORDS), "▁▁", *LETTERS]
    scored = [("<unk>", 0.0), *((piece, -1.0 - i / 10) for i, piece in enumerate(dict.fromkeys(pieces)))]
    if byte_fallback:
        scored += [(f"<0x{byte:02X}>", -30.0) for byte in range(256)]
    return models.Unigram(scored, 0, byte_fallback)


def bpe(merges: list[tuple[str, str]], byte_fallback: bool = True, **settings: object) -> models.BPE:
    pieces = ["<unk>", "▁", *LETTERS, *(f"<0x{byte:02X}>" for byte in range(256))] if byte_fallback else [*LETTERS]
    pieces += [a + b for a, b in merges]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    unk = {"unk_token": "<unk>"} if byte_fallback else {}
    return models.BPE(vocabulary, merges, byte_fallback=byte_fallback, fuse_unk=True, **unk, **settings)


def _metaspace(
    scheme: str, normalizer: norm.Normalizer | None = None, split: bool = True, byte_fallback: bool = False
) -> Tokenizer:
    made = Tokenizer(unigram(byte_fallback))
    if normalizer:
        made.normalizer = normalizer
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    made.decoder = decoders.Metaspace(prepend_scheme=scheme)
    made.add_tokens([AddedToken("<s>", normalized=False)])
    return made


def _legacy_llama() -> Tokenizer:
    made = Tokenizer(bpe([("▁", "a"), ("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "▁")]))
    made.normalizer = norm.Sequence([norm.Prepend("▁"), norm.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(steps)
    made.add_tokens([AddedToken("<s>", normalized=False)])
    return made


def _byte_level(prefix: bool) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("æ", "Ĺ"), ("Ġ", "æ"), ("¥", "Ġ")]
    pieces = alphabet + [a + b for a, b in merges]
    made = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    made.decoder = decoders.ByteLevel()
    return made


def _bert(strip: bool = True) -> Tokenizer:
    pieces = ["[UNK]", *WORDS, "cafe", "##s", "##x", "s", ",", ".", "行", "列"]
    made = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    made.normalizer = norm.BertNormalizer(lowercase=strip)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    return made


def _changed(made: Tokenizer, **parts: object) -> Tokenizer:
    made = Tokenizer.from_str(made.to_str())
    made.post_processor = None
    for name, part in parts.items():
        setattr(made, name, part)
    return made


def _with_added(made: Tokenizer) -> Tokenizer:
    made.add_tokens([AddedToken("<m>", lstrip=True, rstrip=True), AddedToken("<n>", lstrip=True)])
    made.add_tokens([AddedToken("of", single_word=True), AddedToken("  ", normalized=True)])
    return made


def _suffixed() -> Tokenizer:
    pieces = ["<unk>", "a", "b", "a</w>", "b</w>", "ab</w>"]
    model = models.BPE(
        {piece: i for i, piece in enumerate(pieces)}, [("a", "b</w>")], unk_token="<unk>", end_of_word_suffix="</w>"
    )
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.decoder = decoders.BPEDecoder("</w>")
    return made


def _llama3() -> Tokenizer:
    split = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return _changed(backend(), pre_tokenizer=pre_tokenizers.Sequence([split, whole]))


def _stripping() -> Tokenizer:
    steps = [norm.NFKC(), norm.Strip(), norm.Lowercase(), norm.NFD(), norm.StripAccents()]
    return _metaspace("always", norm.Sequence(steps))


def _collapsing() -> Tokenizer:
    return _metaspace("always", norm.Sequence([norm.Nmt(), norm.NFKC(), norm.Replace(Regex(" {2,}"), " ")]))


KINDS = {
    "byte-level": lambda: _changed(backend()),
    "byte-level, NFC": lambda: _changed(backend(), normalizer=norm.NFC()),
    "byte-level, prefix": lambda: _byte_level(True),
    "byte-level, tokens of parts of characters": lambda: _byte_level(False),
    "byte-level, added tokens": lambda: _with_added(_byte_level(True)),
    "Llama 3": _llama3,
    "Llama 2": _legacy_llama,
    "Metaspace always": lambda: _metaspace("always"),
    "Metaspace first": lambda: _metaspace("first"),
    "Metaspace never": lambda: _metaspace("never"),
    "Metaspace unsplit": lambda: _metaspace("always", split=False),
    "Metaspace, added tokens": lambda: _with_added(_metaspace("always")),
    "Unigram NFKC": lambda: _metaspace("always", norm.NFKC()),
    "Unigram NFKD": lambda: _metaspace("first", norm.NFKD()),
    "Unigram, accents stripped": _stripping,
    "Unigram, blanks collapsed": _collapsing,
    "Unigram, bytes": lambda: _metaspace("always", byte_fallback=True),
    "WordPiece": _bert,
    "WordPiece cased": lambda: _bert(strip=False),
    "suffixed": _suffixed,
}


@cache
def kind(name: str) -> Tokenizer:
    """The tokenizer of that name, made once."""
    return KINDS[name]()
