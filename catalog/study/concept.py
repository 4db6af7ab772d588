"""Reads [[concept]]: a domain, as words, spans or a predicate."""

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from catalog.errors import InputError
from catalog.study.base import Count, FilePath, Name, Names, Section, Texts, refuse_stray
from catalog.study.small_file import read_small

MOST_BYTES = 64 * 1024 * 1024
"""Of a file of words or spans."""

MOST_WINDOW = 1024
"""Tokens on a side of a match."""
Score = Literal["separation", "fisher", "cohens_d", "mean_difference", "rate_difference", "auroc", "domain"]
DEFAULT_SCORE: Score = "cohens_d"

_CONCEPT_KEYS = {
    "words": {"words", "file", "ignore_case"},
    "spans": {"file"},
    "predicate": {"predicate"},
}


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
    before: int = Field(default=0, ge=0, le=MOST_WINDOW)
    """Tokens before each match that belong to the domain too, as far as the sequence goes."""
    after: int = Field(default=0, ge=0, le=MOST_WINDOW)
    """Tokens after each match that belong to the domain too."""
    rank_by: Score = DEFAULT_SCORE
    """Score that ranks the features of the shortlist: a column of the table separation."""
    shortlist: Count = 50
    """How many features, the best by `rank_by`, are explained."""
    shortlist_quantile: float | None = Field(default=None, gt=0, lt=1)
    """Instead of a count: explain the share of the SAE's latents above this quantile of the score (0.95: the best
    twentieth)."""

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

    @field_validator("shortlist_quantile")
    @classmethod
    def _one_length(cls, value: float | None, info: ValidationInfo) -> float | None:
        count = info.data.get("shortlist")
        if value is not None and count not in (None, cls.model_fields["shortlist"].default):
            raise ValueError(f"{value} stands beside shortlist = {count}: give one of them")
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
