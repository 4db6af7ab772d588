"""Reads [model] and [[corpus]]: the language model, the text, and how the text is cut."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from catalog.study.base import Count, Name, Section, Texts, refuse_stray, resolved
from catalog.study.terms import PACKAGE, PACKAGED_MODELS

DOCSTRING_PACKAGES = ("numpy", "scipy", "sympy", "networkx", "torch", "sklearn", "stdlib")
"""Stand on every machine that runs saeql."""

_NAMED = ("embedded", *PACKAGED_MODELS)
"""Sources that are no path, whatever folders there are."""
# Keys that only some kinds of a section read: the kind -> the keys that it reads.
_CORPUS_KEYS = {
    "docstrings": {"packages"},
    "licences": {"packages"},
    "text": {"files", "max_line_bytes"},
    "lines": {"files", "max_line_bytes"},
    "jsonl": {"files", "field", "max_line_bytes"},
    "parquet": {"files", "field", "max_line_bytes"},
    "dataset": {"dataset", "config", "dataset_split", "field"},
}


def _of_package(value: str, example: str) -> str:
    """`value` as it is. Raises ValueError if it names no file below a package."""
    parts = value.removeprefix(PACKAGE).split("/")
    if len(parts) < 2 or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{value!r} is no file of a package: write {PACKAGE}PACKAGE/{example}")
    return value


def _path_or_packaged(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str):
        return value
    if not value:
        raise ValueError("is empty; name a file")
    return _of_package(value, "FILE") if value.startswith(PACKAGE) else resolved(value, info)


TextPaths = Annotated[tuple[Annotated[str, BeforeValidator(_path_or_packaged)], ...], Field(strict=False)]


def model_source(value: str, info: ValidationInfo) -> str:
    """Of a model: a path stays right when the study is used from elsewhere; a hub id or a short name stays as it is."""
    if value.startswith(PACKAGE):
        return _of_package(value, "FILE.gguf")
    path = resolved(value, info)
    looks_like_path = value.startswith((".", "/", "~")) or value.endswith(("/", ".gguf"))
    return path if value not in _NAMED and (looks_like_path or Path(path).is_dir()) else value


class Model(Section):
    """The causal language model that is read."""

    name: Name = "embedded"
    """Its name in the catalog."""
    source: str = Field(default="embedded", min_length=1)
    """"embedded" for the shipped one, a directory, a hub id, a GGUF file, "package:PACKAGE/FILE.gguf" for one that an
    installed package carries, or the short name of such a file: "smollm2", "gemma3-270m"."""
    revision: str | None = None
    """Hub revision."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Of the forward pass; auto is float32 on a CPU, and what the checkpoint was saved in on a GPU."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:[0-9]+)?|mps)$")
    """auto is CUDA where there is one, else the CPU."""
    bos: Literal["auto", "never", "always"] = "auto"
    """A BOS token before each sequence; auto follows the tokenizer. It is never a position."""
    trust_remote_code: bool = False
    """Run the Python code that lies beside the weights; only for a model whose authors you trust."""

    @field_validator("source")
    @classmethod
    def _directory(cls, value: str, info: ValidationInfo) -> str:
        return model_source(value, info)


class Corpus(Section):
    """Where text comes from, and how it is cut."""

    name: Name
    """Its name in the catalog."""
    kind: Literal["docstrings", "licences", "text", "lines", "jsonl", "parquet", "dataset"] = "docstrings"
    """docstrings of installed packages; their licences, each paragraph once; text files, a document each; lines of text
    files, a document each; JSON Lines; Parquet; a `datasets` name.
    Files may be packed (gzip, bzip2, xz, zstd, lz4), in UTF-8, UTF-16 or UTF-32: their first bytes tell."""
    packages: Texts = ()
    """docstrings: importable packages ("stdlib" is the standard library, "pydoc_data" the topics of `help()`); none: a
    default list. licences: packages by pip's names; none: all that are installed."""
    files: TextPaths = ()
    """Paths or glob patterns; relative ones start at the study file's folder, and "package:PACKAGE/PATH" is below the
    folder of an installed package."""
    field: str = Field(default="text", min_length=1)
    """Key or column that holds the text."""
    max_line_bytes: Count = 64_000_000
    """Longest line of JSON Lines, text file or Parquet value that is read, in bytes once unpacked; longer ones are
    left out and counted."""
    dataset: str | None = None
    """Name for the `datasets` package."""
    config: str | None = None
    """Configuration of the data set."""
    dataset_split: str = Field(default="train", min_length=1)
    """Split of the data set that is read; unrelated to train, val and test here."""
    ctx_len: int = Field(default=256, ge=8, le=32_767)
    """Longest sequence in tokens, BOS included."""
    max_tokens: Count | None = None
    """Take documents in order of their hash until this many tokens are reached: a sample; none: all documents."""
    val: float = Field(default=0.1, gt=0, lt=1)
    """Share of the documents, by hash, on which labels and settings are chosen; the SAE is not trained on them."""
    test: float = Field(default=0.1, gt=0, lt=1)
    """Share of the documents, by hash, on which labels and SAEs are scored and nothing is chosen."""
    shard_tokens: Count = 131_072
    """Tokens per shard: the unit that is written, skipped and recomputed."""

    @field_validator("packages", "files", "field", "max_line_bytes", "dataset", "config", "dataset_split")
    @classmethod
    def _fits_kind(cls, value: Any, info: ValidationInfo) -> Any:
        kind = info.data.get("kind")
        refuse_stray(cls, value, info, kind, _CORPUS_KEYS)
        if kind == "docstrings" and info.field_name == "packages" and not value:
            return DOCSTRING_PACKAGES
        files = dict.fromkeys(("text", "lines", "jsonl", "parquet"), "files")
        required = {**files, "dataset": "dataset"}.get(str(kind))
        if info.field_name == required and not value:
            raise ValueError(f"is missing: a corpus of kind {kind!r} needs it")
        return value

    @field_validator("test")
    @classmethod
    def _leaves_train_text(cls, value: float, info: ValidationInfo) -> float:
        if value + info.data.get("val", 0.0) >= 1:
            raise ValueError(f"{value:g} and val = {info.data['val']:g} leave no document to train on")
        return value

    @field_validator("shard_tokens")
    @classmethod
    def _holds_a_sequence(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("ctx_len", 0):
            raise ValueError(f"{value} is below ctx_len {info.data['ctx_len']}")
        return value
