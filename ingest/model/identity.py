"""Tells whether a loaded model is the catalog's: its weights, tokenizer, BOS and configuration."""

import json
from typing import Any

import transformers

from catalog import Catalog
from catalog.errors import InputError
from catalog.study.tables import put
from ingest.model.language_model import LanguageModel
from ingest.text.vocabulary import token_texts

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
    spec, layout = model.spec, model.layout
    wrong = differences(catalog, model)
    # Documents of a corpus without a row were cut by a run that was interrupted, for a model that no row tells.
    unfinished = "SELECT 1 FROM documents ANTI JOIN corpora USING (corpus)"
    if wrong and catalog.value(f"SELECT 1 FROM corpora WHERE model = ? UNION ALL {unfinished} LIMIT 1", [spec.name]):
        raise InputError(
            f"the model {spec.name!r} at {spec.source} is not the one that this catalog was built from "
            f"({'; '.join(wrong)}): give it and its corpora other names, or set back what was changed"
        )
    row = {
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
    put(catalog, "models", [row], ["model"], f"model {spec.name}", model=spec.name)
    texts = token_texts(model.tokenizer)
    tokens = [{"model": spec.name, "token": i, "text": text} for i, text in enumerate(texts)]
    there = catalog.rows("SELECT text FROM vocabulary WHERE model = ? ORDER BY token", [spec.name])
    if [text for (text,) in there] != texts:
        put(catalog, "vocabulary", tokens, ["model", "token"], f"vocabulary of {spec.name}", model=spec.name)


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
