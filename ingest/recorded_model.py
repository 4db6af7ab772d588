"""Models as a catalog names them: code beside one is run only if the user of this machine allowed that before.

A catalog may come from somebody else, and so may the model's folder and the study that it holds.
"""

from typing import Any

from catalog.allowed import allow, is_allowed
from catalog.sections import Model
from ingest.models import LanguageModel, load_model


def load_recorded(name: str, source: str, revision: str | None, **said: Any) -> LanguageModel:
    """Load the model of a catalog's row. Raises InputError as `load_model` does."""
    more = {key: value for key, value in said.items() if key not in ("name", "source", "revision")}
    spec = Model.model_validate({**more, "name": name, "source": source, "revision": revision})
    trusted = is_allowed("code", _place(spec))
    return load_model(spec.model_copy(update={"trust_remote_code": trusted}))


def remember_trust(spec: Model) -> None:
    """Keep, on this machine, that a study which its user passed trusts the code of its model."""
    if spec.trust_remote_code:
        allow("code", _place(spec))


def _place(spec: Model) -> str:
    return f"{spec.source}@{spec.revision or ''}"
