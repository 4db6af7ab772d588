"""Builds the tokenizer that a GGUF file describes, for folders that transformers loads."""

from pathlib import Path

from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerFast

from catalog.errors import InputError
from ingest.model.gguf.gguf_header import Header

_DIGITS_APART = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
"""Values of `tokenizer.ggml.pre` for GPT-2's rule with each digit apart. transformers knows GPT-2's rule alone, by
which two blanks before a digit are two tokens."""


def read_tokenizer(whole: Path, header: Header) -> PreTrainedTokenizerFast:
    """The tokenizer of the file `whole`, whose name in its folder no other file shares.

    Raises InputError for a file without one, or with one of a kind that transformers does not build.
    """
    if "tokenizer.ggml.model" not in header.metadata or "tokenizer.ggml.tokens" not in header.metadata:
        raise InputError(
            f"{whole} holds no tokenizer (no tokenizer.ggml.tokens in its head), so no text can be read with it: take "
            "a file that was made from the whole model"
        )
    try:
        found = PreTrainedTokenizerFast.from_pretrained(whole.parent, gguf_file=whole.name, local_files_only=True)
    # The Rust library raises plain Exceptions.
    except Exception as error:
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(f"the tokenizer in {whole} cannot be read: {said}") from error
    if header.metadata.get("tokenizer.ggml.pre") in _DIGITS_APART:
        found.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    return found
