"""Builds the tokenizer that a GGUF file describes, for folders that transformers loads."""

import json
from importlib import import_module
from pathlib import Path

from tokenizers import Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from catalog.errors import InputError
from ingest.model.gguf.gguf_header import Header, Length

_DIGITS_APART = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
"""Values of `tokenizer.ggml.pre` for GPT-2's rule with each digit apart. transformers takes GPT-2's own for them, by
which two blanks before a digit are two tokens."""
_AS_GPT2 = {
    *("gpt-2", "phi-2", "jina-es", "jina-de", "jina-v1-en", "jina-v2-es", "jina-v2-de", "jina-v2-code", "roberta-bpe"),
    *("gigachat", "a.x-4.0", "mellum", "modern-bert", "mpt", "olmo", "jais", "trillion", "granite-docling"),
}
"""Values for GPT-2's rule, which transformers takes for every value that it does not know."""


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
    _check_rule(whole, header)
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


def _check_rule(whole: Path, header: Header) -> None:
    """Raises InputError for a byte-level tokenizer that cuts text by a rule which nobody here knows.

    transformers would take GPT-2's without a word, and other tokens would come out than the model has learned.
    """
    if header.metadata["tokenizer.ggml.model"] != "gpt2":
        return
    rule = header.metadata.get("tokenizer.ggml.pre")
    if rule in _AS_GPT2 | _DIGITS_APART | _of_transformers():
        return
    said = f"by the rule {rule!r}, which is not known here" if rule else "by a rule that it does not name"
    raise InputError(
        f"{whole} has a tokenizer that cuts text {said} (tokenizer.ggml.pre in its head): name the folder or the hub "
        "id of the model that it was made from"
    )


def _of_transformers() -> frozenset[str]:
    """The rules that transformers knows."""
    try:
        mapping = import_module("transformers.integrations.gguf.gguf_tokenizer_mapping")
        return frozenset(mapping.GGUF_PRE_TOKENIZER_SPLITS)
    except (ImportError, AttributeError):
        return frozenset()


def _drop_added(found: PreTrainedTokenizerFast, entries: int) -> None:
    """transformers adds <|endoftext|> to a byte-level vocabulary that has none: an id without an embedding."""
    said = json.loads(found.backend_tokenizer.to_str())
    kept = [token for token in said["added_tokens"] if token["id"] < entries]
    if len(kept) < len(said["added_tokens"]):
        found._tokenizer = Tokenizer.from_str(json.dumps({**said, "added_tokens": kept}))
