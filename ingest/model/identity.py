"""Tells whether a loaded model is the catalog's: its weights, tokenizer, BOS and configuration."""

import json
from typing import Any

import transformers

from catalog import Catalog
from catalog.errors import InputError
from catalog.study.tables import differing, put
from ingest.model.language_model import LanguageModel
from ingest.text.vocabulary import token_texts
from ingest.to_do import CHANGED, CURRENT, Work

_NO_MATTER = {
    "chunk_size_feed_forward",
    "_name_or_path",
    "architectures",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "initializer_range",
    "pad_token_id",
    "transformers_version",
    "use_cache",
}
"""Keys of a configuration that decide no activation, or that are recorded apart."""
_VERSION, _ORIGIN, _SHA256 = "transformers", "gguf", "sha256"


def record_model(catalog: Catalog, model: LanguageModel) -> None:
    """The model's row and its vocabulary. Raises InputError if text was cut for another model of that name."""
    check_model(catalog, model)
    row, name = model_row(model), model.spec.name
    put(catalog, "models", [row], ["model"], f"model {name}", model=name)
    texts = token_texts(model.tokenizer)
    if not has_vocabulary(catalog, name, texts):
        tokens = [{"model": name, "token": i, "text": text} for i, text in enumerate(texts)]
        put(catalog, "vocabulary", tokens, ["model", "token"], f"vocabulary of {name}", model=name)


def foresee_model(catalog: Catalog, model: LanguageModel) -> Work:
    """What `record_model` would do. Raises as it does."""
    check_model(catalog, model)
    row, name = model_row(model), model.spec.name
    state, unlike = differing(catalog, "models", [row], model=name)[name]
    if state == CURRENT and not has_vocabulary(catalog, name, token_texts(model.tokenizer)):
        state, unlike = CHANGED, "vocabulary"
    return Work("model", name, state, f"other {unlike}" if unlike else "")


def has_vocabulary(catalog: Catalog, name: str, texts: list[str]) -> bool:
    """Whether the catalog has the texts of the model's tokens, by their ids."""
    there = catalog.rows("SELECT text FROM vocabulary WHERE model = ? ORDER BY token", [name])
    return [text for (text,) in there] == texts


def check_model(catalog: Catalog, model: LanguageModel) -> None:
    """Raises InputError if text was cut for another model of that name."""
    spec = model.spec
    wrong = differences(catalog, model)
    # Documents of a corpus without a row were cut by a run that was interrupted, for a model that no row tells.
    unfinished = "SELECT 1 FROM documents ANTI JOIN corpora USING (corpus)"
    if wrong and catalog.value(f"SELECT 1 FROM corpora WHERE model = ? UNION ALL {unfinished} LIMIT 1", [spec.name]):
        raise InputError(
            f"the model {spec.name!r} at {spec.source} is not the one that this catalog was built from "
            f"({'; '.join(wrong)}): give it and its corpora other names, or set back what was changed"
        )


def check_recorded(catalog: Catalog, model: LanguageModel) -> None:
    """Raises InputError if the model is not the one that the catalog's row of its name tells of."""
    wrong = differences(catalog, model)
    if wrong:
        raise InputError(
            f"the model at {model.spec.source} is not the {model.spec.name!r} that this catalog was built from "
            f"({'; '.join(wrong)}): put that one back"
        )


def model_row(model: LanguageModel) -> dict[str, Any]:
    """Of `models`."""
    spec, layout = model.spec, model.layout
    return {
        "model": spec.name,
        "source": spec.source,
        "revision": spec.revision,
        "architecture": type(model.network).__name__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "d_model": layout.d_model,
        "layers": len(layout.blocks),
        "vocabulary": layout.vocabulary,
        "bos": model.bos,
        "digest": model.digest,
        "config": json.dumps(forward_config(model), sort_keys=True),
    }


def differences(catalog: Catalog, model: LanguageModel) -> list[str]:
    """What of the model is not as the catalog's row of that name says; nothing if there is no row."""
    rows = catalog.rows("SELECT digest, bos, config FROM models WHERE model = ?", [model.spec.name])
    if not rows:
        return []
    digest, bos, config = rows[0]
    found = [] if digest == model.digest else ["weights or tokenizer differ"]
    was, now_is = ((said or {}).get(_SHA256) for said in (json.loads(config or "{}").get(_ORIGIN), model.origin))
    if was and now_is and was != now_is:
        found.append(f"its file has SHA-256 {now_is}, and had {was}")
    if bos != model.bos:
        found.append(f"bos is {_bos(model.bos)}, and was {_bos(bos)}")
    then, now = json.loads(config) if config else {}, forward_config(model)
    # Another version of transformers may name more of its defaults, or fewer.
    keys = then.keys() | now.keys() if then.get(_VERSION) == now[_VERSION] else then.keys() & now.keys()
    for key in sorted(keys - {_VERSION, _ORIGIN}) if then else ():
        if then.get(key) != now.get(key):
            found.append(f"{key} is {now.get(key)!r} in its configuration, and was {then.get(key)!r}")
    return found


def forward_config(model: LanguageModel) -> dict[str, Any]:
    """What its configuration says of the forward pass, as JSON gives it back, and the version of transformers.

    Of a model from a GGUF file, what is known of the file stands there under the key "gguf".
    """
    said = model.network.config.to_diff_dict()
    kept = {
        key: value for key, value in said.items() if key not in _NO_MATTER and not key.endswith(("dropout", "pdrop"))
    }
    found: dict[str, Any] = json.loads(json.dumps(kept, default=str))
    return {**found, _VERSION: transformers.__version__, **({_ORIGIN: dict(model.origin)} if model.origin else {})}


def _bos(token: int | None) -> str:
    return "none" if token is None else f"token {token}"
