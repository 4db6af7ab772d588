"""Reads [[concept]]: a domain, as words, spans or a predicate."""

from typing import Any, Literal

from pydantic import ValidationInfo, field_validator

from catalog.errors import InputError
from catalog.study.base import Count, FilePath, Name, Names, Section, Texts, refuse_stray
from catalog.study.small_file import read_small

MOST_BYTES = 64 * 1024 * 1024
"""Of a file of words or spans."""

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
