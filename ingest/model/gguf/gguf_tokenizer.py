"""Builds the tokenizer that a GGUF file describes, for folders that transformers loads."""

import json
from pathlib import Path

from tokenizers import Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from catalog.errors import InputError
from ingest.model.gguf.gguf_header import Header, Length

_DIGITS_APART = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
"""Values of `tokenizer.ggml.pre` for GPT-2's rule with each digit apart. transformers knows GPT-2's rule alone, by
which two blanks before a digit are two tokens."""


def read_tokenizer(whole: Path, header: Header) -> PreTrainedTokenizerFast:
    """The tokenizer of the file `whole`, whose name in its folder no other file shares.

    Raises InputError for a file without one, or with one of a kind that transformers does not build.
    """
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if "tokenizer.ggml.model" not in header.metadata or not isinstance(tokens, Length):
        raise InputError(
            f"{whole} holds no tokenizer (no tokenizer.ggml.tokens in its head), so no text can be read with it: take "
            "a file that was made from the whole model"
        )
    try:
        found: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(
            whole.parent, gguf_file=whole.name, local_files_only=True
        )
    # The Rust library raises plain Exceptions.
    except Exception as error:
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(f"the tokenizer in {whole} cannot be read: {said}") from error
    _drop_added(found, tokens.entries)
    if header.metadata.get("tokenizer.ggml.pre") in _DIGITS_APART:
        found.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    return found


def _drop_added(found: PreTrainedTokenizerFast, entries: int) -> None:
    """transformers adds <|endoftext|> to a byte-level vocabulary that has none: an id without an embedding."""
    said = json.loads(found.backend_tokenizer.to_str())
    kept = [token for token in said["added_tokens"] if token["id"] < entries]
    if len(kept) < len(said["added_tokens"]):
        found._tokenizer = Tokenizer.from_str(json.dumps({**said, "added_tokens": kept}))
