"""Adds text to a corpus: documents in shards of their own, and the activations of every SAE on those alone.

Nothing that is there is read again: documents that the corpus has are known by their hash, shards by what they
were made from. SAEs are not trained again.
"""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from catalog import Catalog
from catalog.errors import InputError, UnknownName
from catalog.store.locks import locked
from catalog.study.text import Corpus
from ingest.activations.harvest import harvest
from ingest.activations.shard_harvest import HarvestReport
from ingest.callbacks import Progress, tell
from ingest.model.catalog_model import load_recorded
from ingest.model.identity import differences
from ingest.model.language_model import LanguageModel
from ingest.sae.model import SAE
from ingest.stored.reader import HALF, Reader
from ingest.text.corpus import append_documents
from ingest.text.corpus_rows import CorpusReport
from ingest.text.text_files import SUFFIXES

_CUT = ("shard_tokens", "val", "test")
"""Settings of a corpus that text added later keeps."""
_KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


@dataclass(frozen=True)
class AddReport:
    """What `add_text` did."""

    text: CorpusReport
    harvest: HarvestReport


def add_text(
    catalog: Catalog,
    corpus: str,
    files: list[Path],
    field: str | None = None,
    progress: Progress = lambda what, done, total, figures: None,
    wait: float = 0.0,
) -> AddReport:
    """Add the documents of these files (text, JSON Lines, Parquet, by their ending) to a corpus, and harvest them.

    `field` names the text in JSON Lines and Parquet. Raises UnknownName for an unknown corpus, InputError for files
    that cannot be used, or if the corpus's model is no longer the one that the catalog was built from.
    """
    with locked(catalog.root / "refresh.lock", wait=wait):
        rows = catalog.rows("SELECT model, ctx_len, source FROM corpora WHERE corpus = ?", [corpus])
        if not rows:
            known = ", ".join(name for (name,) in catalog.rows("SELECT corpus FROM corpora ORDER BY corpus"))
            raise UnknownName(f"there is no corpus {corpus!r} to add to; known: {known or 'none'}")
        model_name, ctx_len, source = rows[0]
        cut = {"ctx_len": ctx_len} | {key: json.loads(source)[key] for key in _CUT if key in json.loads(source)}
        parts = [_section(corpus, cut, file, field) for file in files]
        progress(f"loading model {model_name}", 0, None, "")
        model = recorded_model(catalog, model_name)
        told = partial(tell, progress, f"tokenising {', '.join(file.name for file in files)}")
        text = append_documents(catalog, corpus, parts, model, told)
        readers = _readers(catalog, corpus, model)
        done = HarvestReport()
        if readers:
            told = partial(tell, progress, f"harvesting {', '.join(reader.name for reader in readers)}")
            done = harvest(catalog, model, readers, [corpus], progress=told)
        return AddReport(text, done)


def recorded_model(catalog: Catalog, name: str) -> LanguageModel:
    """Load a model as the catalog's study names it. Raises InputError if it is another now."""
    source, revision = catalog.rows("SELECT source, revision FROM models WHERE model = ?", [name])[0]
    study = json.loads(catalog.value("SELECT source FROM study") or "{}").get("model") or {}
    said: dict[str, Any] = study if study.get("name") == name else {}
    model = load_recorded(name, source, revision, said)
    wrong = differences(catalog, model)
    if wrong:
        raise InputError(
            f"the model {name!r} at {source} is not the one that this catalog was built from ({'; '.join(wrong)}): its "
            "activations on new text would compare with nothing"
        )
    return model


def _section(corpus: str, cut: dict[str, Any], file: Path, field: str | None) -> Corpus:
    """The file as a section of a study, so that it is read and cut as an ingest of the corpus would."""
    if not file.is_file():
        raise InputError(f"{file} is no file: name text, JSON Lines or Parquet files")
    plain = file.with_suffix("") if file.suffix.lower() in SUFFIXES else file
    kind = _KINDS.get(plain.suffix.lower(), "text")
    more = {"field": field} if field and kind != "text" else {}
    said = {"name": corpus, "kind": kind, "files": [str(file.absolute())], **more}
    return Corpus.model_validate({**said, **cut})


def _readers(catalog: Catalog, corpus: str, model: LanguageModel) -> list[Reader]:
    """Every SAE that was harvested on the corpus."""
    rows = catalog.rows(
        "SELECT s.sae, s.hookpoint, s.weights, s.digest, s.rows FROM saes AS s SEMI JOIN shards AS x "
        "ON x.sae = s.sae AND x.relation = 'activations' AND x.corpus = ? ORDER BY s.sae",
        [corpus],
    )
    return [
        Reader(sae, hookpoint, SAE.load(catalog.weights_of(weights), model.device), digest, precision == HALF)
        for sae, hookpoint, weights, digest, precision in rows
    ]
