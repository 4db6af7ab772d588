"""The sections of a study file as pydantic models: every key, its default, its meaning, its limits."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from catalog.endpoints import endpoint
from catalog.errors import InputError
from catalog.request import check_request
from catalog.section import (
    Count,
    FilePath,
    FilePaths,
    Name,
    Names,
    Price,
    Section,
    Texts,
    refuse_stray,
    resolved,
)
from catalog.small_file import read_small

DOCSTRING_PACKAGES = ("numpy", "scipy", "sympy", "networkx", "torch", "sklearn", "stdlib")
"""Stand on every machine that runs saeql."""

MOST_BYTES = 64 * 1024 * 1024
"""Of a file of words or spans."""

# Keys that only some kinds of a section read: the kind -> the keys that it reads.
_CORPUS_KEYS = {
    "docstrings": {"packages"},
    "text": {"files", "max_line_bytes"},
    "jsonl": {"files", "field", "max_line_bytes"},
    "parquet": {"files", "field", "max_line_bytes"},
    "dataset": {"dataset", "config", "dataset_split", "field"},
}
_CONCEPT_KEYS = {
    "words": {"words", "file", "ignore_case"},
    "spans": {"file"},
    "predicate": {"predicate"},
}


class Model(Section):
    """The causal language model that is read."""

    name: Name = "embedded"
    """Its name in the catalog."""
    source: str = Field(default="embedded", min_length=1)
    """"embedded" for the shipped one, a directory, or a hub id."""
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
        """A path stays right when the study is used from elsewhere; a hub id stays as it is."""
        path = resolved(value, info)
        looks_like_path = value.startswith((".", "/", "~")) or value.endswith("/")
        return path if value != "embedded" and (looks_like_path or Path(path).is_dir()) else value


class Corpus(Section):
    """Where text comes from, and how it is cut."""

    name: Name
    """Its name in the catalog."""
    kind: Literal["docstrings", "text", "jsonl", "parquet", "dataset"] = "docstrings"
    """docstrings of installed packages; text files, a document each; JSON Lines; Parquet; a `datasets` name.
    Files may be packed (gzip, bzip2, xz, zstd, lz4), in UTF-8, UTF-16 or UTF-32: their first bytes tell."""
    packages: Texts = ()
    """Installed packages whose docstrings are read ("stdlib" is the standard library); none: a default list."""
    files: FilePaths = ()
    """Paths or glob patterns; relative ones start at the study file's folder."""
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
    shard_tokens: Count = 131_072
    """Tokens per shard: the unit that is written, skipped and recomputed."""

    @field_validator("packages", "files", "field", "max_line_bytes", "dataset", "config", "dataset_split")
    @classmethod
    def _fits_kind(cls, value: Any, info: ValidationInfo) -> Any:
        kind = info.data.get("kind")
        refuse_stray(cls, value, info, kind, _CORPUS_KEYS)
        if kind == "docstrings" and info.field_name == "packages" and not value:
            return DOCSTRING_PACKAGES
        required = {"text": "files", "jsonl": "files", "parquet": "files", "dataset": "dataset"}.get(str(kind))
        if info.field_name == required and not value:
            raise ValueError(f"is missing: a corpus of kind {kind!r} needs it")
        return value

    @field_validator("shard_tokens")
    @classmethod
    def _holds_a_sequence(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("ctx_len", 0):
            raise ValueError(f"{value} is below ctx_len {info.data['ctx_len']}")
        return value


class Concept(Section):
    """A domain: the positions that belong to it (C+); the rest of the same corpora is C-."""

    name: Name
    """Its name in the catalog."""
    kind: Literal["words", "spans", "predicate"] = "words"
    """words and phrases, spans of documents, or a SQL predicate over the view token_text."""
    words: Texts = ()
    """Words or phrases, found by Unicode's word boundaries; in scripts without spaces wherever they stand."""
    file: FilePath | None = None
    """words: a word or phrase a line; spans: JSON Lines with document (hash or number), start, end in characters."""
    predicate: str | None = None
    """SQL over the columns of token_text, such as "source LIKE 'numpy/linalg%'"."""
    ignore_case: bool = True
    """Whether words match in any case (full case folding)."""
    corpora: Names | None = None
    """Corpora that it is defined on; none: all."""
    shortlist: Count = 50
    """How many features by separation are explained."""

    @field_validator("words", "file", "predicate", "ignore_case")
    @classmethod
    def _fits_kind(cls, value: Any, info: ValidationInfo) -> Any:
        kind = info.data.get("kind")
        refuse_stray(cls, value, info, kind, _CONCEPT_KEYS)
        if kind == "words" and info.field_name == "file" and not value and not info.data.get("words", True):
            raise ValueError("is missing, and so is words: a concept of kind 'words' needs one of them")
        if info.field_name == {"spans": "file", "predicate": "predicate"}.get(str(kind)) and not value:
            raise ValueError(f"is missing: a concept of kind {kind!r} needs it")
        return value

    def all_words(self) -> list[str]:
        """`words` and the lines of `file`, each once, in order. Raises InputError if the file cannot be read."""
        lines: list[str] = list(self.words)
        if self.kind == "words" and self.file is not None:
            where = f"concept {self.name}: {self.file}"
            try:
                lines += read_small(self.file, f"concept {self.name}:", MOST_BYTES).decode("utf-8-sig").splitlines()
            except UnicodeDecodeError as error:
                raise InputError(f"{where} is not UTF-8 at byte {error.start}: save it as UTF-8") from error
        found = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
        if not found:
            raise InputError(f"concept {self.name}: {self.file or 'words'} holds no word")
        return found


class Endpoint(Section):
    """Who answers: the lexical provider (no language model), or any OpenAI-compatible endpoint.

    The key is read from OPENAI_API_KEY, never from a study file.
    """

    provider: Literal["lexical", "openai"] = "lexical"
    """lexical needs no language model and no network."""
    model: str | None = None
    """Model of the endpoint."""
    base_url: str | None = None
    """Where the endpoint is; none: OPENAI_BASE_URL, else OpenAI."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """Of the sampler."""
    max_tokens: Count = 1000
    """Longest answer in tokens, reasoning included."""
    jobs: Count = 8
    """Requests at a time."""
    price_prompt: Price = 0.0
    """Money per million prompt tokens."""
    price_completion: Price = 0.0
    """Money per million completion tokens."""
    timeout: float = Field(default=120.0, gt=0, le=86_400)
    """Seconds that one try of a request may take."""
    retries: int = Field(default=5, ge=0, le=100)
    """Further tries after 429, 5xx, a time-out or a lost connection."""
    request: dict[str, Any] = Field(default_factory=dict)
    """openai: merged into the body of each request; temperature or max_tokens = false leaves that key out."""
    template: FilePath | None = None
    """openai: a prompt template of your own (TOML: system, user, [[shots]]); its text is kept in the catalog."""

    @field_validator("model")
    @classmethod
    def _needed_by_openai(cls, value: str | None, info: ValidationInfo) -> str | None:
        if info.data.get("provider") == "openai" and not value:
            raise ValueError("is missing: the provider 'openai' needs the name of a model")
        return value

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        try:
            return value if value is None else endpoint(value).url and value
        except InputError as error:
            raise ValueError(str(error).removeprefix("base_url ")) from None

    @field_validator("request")
    @classmethod
    def _can_be_sent(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_request(value)
        return value


class Explainer(Endpoint):
    """A named configuration that writes labels."""

    name: Name
    """Its name in the catalog."""
    examples: int = Field(default=10, ge=1, le=40)
    """openai: activating train windows shown; lexical reads all that were sampled."""
    sampling: Literal["top", "stratified"] = "top"
    """openai: the strongest windows, or some of each octave of activation."""
    max_terms: Count = 8
    """lexical: the most terms in a label."""
    min_words: Count = 8
    """openai: the fewest words of a label."""
    max_words: Count = 15
    """openai: the most words of a label."""
    instructions: str = ""
    """Added to the prompt: what labels of this domain should name."""

    @field_validator("max_words")
    @classmethod
    def _above_min(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("min_words", value):
            raise ValueError(f"{value} is below min_words {info.data['min_words']}")
        return value


class Scorer(Endpoint):
    """A named configuration that judges labels."""

    name: Name
    """Its name in the catalog."""
    protocol: Literal["detection"] = "detection"
    """detection: does the feature fire in this window, given only the label."""
    examples: Count = 50
    """Test windows of each class judged per label."""
    batch: Count = 5
    """Windows per request."""


class Primary(Section):
    """What the view `features` shows; none: the first of each."""

    concept: Name | None = None
    """Whose separation."""
    explainer: Name | None = None
    """Whose labels."""
    scorer: Name | None = None
    """Whose scores."""
