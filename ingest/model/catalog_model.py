"""Loads models as a catalog names them: code beside one runs only if this machine's user allowed it before.

A catalog may come from somebody else, and so may the model's folder and the study that it holds.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from catalog.study.text import Model
from catalog.trust.permissions import allow, is_allowed
from ingest.model.language_model import LanguageModel, load_model


def load_recorded(
    name: str, source: str, revision: str | None, said: Mapping[str, Any] = MappingProxyType({})
) -> LanguageModel:
    """Load the model of a catalog's row; `said` is the section of the study in the catalog, of which the rest is taken.

    Raises InputError as `load_model` does.
    """
    spec = Model.model_validate({"source": source, **said, "name": name, "revision": revision})
    trusted = is_allowed("code", _place(spec))
    return load_model(spec.model_copy(update={"trust_remote_code": trusted}))


def remember_trust(spec: Model) -> None:
    """Keep, on this machine, that a study which its user passed trusts the code of its model."""
    if spec.trust_remote_code:
        allow("code", _place(spec))


def _place(spec: Model) -> str:
    return f"{spec.source}@{spec.revision or ''}"
