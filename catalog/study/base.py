"""Holds what all sections of a study file share: strictness, names, paths, counts.

A check that concerns two keys stands at the later one and reads the earlier one from `info.data`, so that
one mistake never hides another.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo


def resolved(path: str, info: ValidationInfo) -> str:
    """`path` as an absolute path; a relative one starts at the study file's folder."""
    folder = (info.context or {}).get("folder", Path.cwd())
    return str(Path(folder).absolute() / Path(path).expanduser())


def _path(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str):
        return value
    if not value:
        raise ValueError("is empty; name a file")
    return resolved(value, info)


def is_folder(name: str) -> bool:
    """Whether what a NameOrPath says is a path."""
    return "/" in name


def _path_if_slashed(value: Any, info: ValidationInfo) -> Any:
    return resolved(value, info) if isinstance(value, str) and is_folder(value) else value


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
FilePath = Annotated[str, BeforeValidator(_path)]
NameOrPath = Annotated[str, BeforeValidator(_path_if_slashed), Field(min_length=1)]
"""A name in the catalog; with a / in it, a path."""
Texts = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)]
Names = Annotated[tuple[Name, ...], Field(strict=False, min_length=1)]
Count = Annotated[int, Field(ge=1)]
Price = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    """What all sections share: no unknown key, no coercion ("32" is not 32), nothing changes after loading."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        validate_default=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )


def refuse_stray(
    section: type[Section], value: Any, info: ValidationInfo, kind: str | None, keys: dict[str, set[str]]
) -> None:
    """Raise if a key was set that this kind never reads: it would be ignored in silence."""
    name = str(info.field_name)
    if kind in keys and name not in keys[kind] and value != section.model_fields[name].default:
        reads = ", ".join(sorted(keys[kind]))
        raise ValueError(f"is not read by kind {kind!r}, which reads {reads}")
