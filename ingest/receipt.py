"""The receipt of an ingest: what decided it and what it left, so that the next one can tell whether it has work.

Importing this module loads no torch, which takes longer than all the rest. The receipt lies in the catalog's cache. It
counts only if everything that an ingest looks at is as it was: the study, saeql's own code, the versions of the
libraries, the files of model, text and checkpoints by size and time, the GPUs, the tables that an ingest writes by
their last change, and the weights. In doubt there is no receipt, and the ingest looks for itself.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from glob import glob
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from catalog import Catalog
from catalog.digest import digest
from catalog.errors import InputError
from catalog.store.atomic_files import write_whole
from catalog.store.locks import locked
from catalog.study.base import is_folder
from catalog.study.file import Study
from ingest.embedded import MODEL_DIR
from ingest.model.gguf.gguf_files import find_gguf
from ingest.text.sources import source_fingerprint

FILE = "ingest.json"
_LIBRARIES = ("numpy", "tokenizers", "torch", "transformers")
_TABLES = (
    *("activations", "concepts", "corpora", "documents", "evaluations", "explainers", "models", "saes", "scorers"),
    *("selected", "selections", "shards", "study", "sweeps", "tokens", "training", "vocabulary"),
)
"""What an ingest writes and a refresh does not."""


class Corpus(NamedTuple):
    """A corpus to which nothing was added, as `CorpusReport`."""

    corpus: str
    documents: int
    duplicates: int
    empty: int
    tokens: int
    added: int = 0


class Harvest(NamedTuple):
    """A harvest that skipped every shard, as `HarvestReport`."""

    skipped: int
    shards: int = 0
    activations: int = 0


class Unchanged(NamedTuple):
    """What an ingest would report that finds everything up to date."""

    corpora: list[Corpus]
    harvest: Harvest


def unchanged(catalog: Catalog, study: Study, wait: float = 0.0) -> Unchanged | None:
    """The report of an ingest that would do nothing; None if it might do something.

    Raises CatalogLocked if another process is refreshing.
    """
    with locked(catalog.root / "refresh.lock", wait=wait):
        return as_left(catalog, study)


def as_left(catalog: Catalog, study: Study) -> Unchanged | None:
    """What `unchanged` gives, without waiting for anybody and without a lock's file."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        said = json.loads((catalog.cache / FILE).read_text(encoding="utf-8"))
        inputs = inputs_of(study)
        if inputs is None or said["inputs"] != inputs or said["state"] != _state(catalog):
            return None
        rows = {
            row[0]: Corpus(*row)
            for row in catalog.rows("SELECT corpus, documents, duplicates, empty, tokens FROM corpora")
        }
        return Unchanged([rows[corpus.name] for corpus in study.corpora], Harvest(int(said["skipped"])))
    return None


def write_receipt(catalog: Catalog, inputs: str | None, skipped: int) -> None:
    """Keep, after a whole ingest, that these `inputs` led to what the catalog has now; not on a full disk."""
    if inputs is None:
        return
    said = {"inputs": inputs, "state": _state(catalog), "skipped": skipped}
    with suppress(OSError):
        write_whole(catalog.cache / FILE, json.dumps(said).encode())


def inputs_of(study: Study) -> str | None:
    """A digest of all that an ingest reads besides the catalog; None where that cannot be told from files here.

    A model or checkpoint on a hub, code beside a model, and a selection's encoder cannot.
    """
    origins = [sae.checkpoint or sae.parent for sae in study.saes]
    folders = [str(origin) for origin in origins if origin and is_folder(origin)]
    source = str(MODEL_DIR) if study.model.source == "embedded" else study.model.source
    if study.selections or study.model.trust_remote_code or not all(Path(path).is_dir() for path in folders):
        return None
    try:
        gguf = find_gguf(source)
        if gguf is None and not Path(source).is_dir():
            return None
        texts = [source_fingerprint(corpus) for corpus in study.corpora]
        files = [_files([Path(folder)]) for folder in ([source, *folders] if gguf is None else folders)]
        if gguf is not None:
            files.append([[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in gguf.parts])
    except (InputError, OSError):
        return None
    gpus = [sorted(glob("/dev/nvidia[0-9]*")), os.environ.get("CUDA_VISIBLE_DEVICES")]
    versions = [version(library) for library in _LIBRARIES]
    return digest([study.model_dump(mode="json"), texts, files, gpus, versions, _code()])


def _state(catalog: Catalog) -> str:
    """A digest of the tables that an ingest writes, by their last change, and of the weights that it made."""
    changes = catalog.last_changes()
    weights = [catalog.weights_of(folder) for (folder,) in catalog.rows("SELECT weights FROM saes ORDER BY sae")]
    return digest([catalog.schema, {table: changes.get(table) for table in _TABLES}, _files(weights)])


def _files(folders: Iterable[Path]) -> list[Any]:
    """Of each folder whether it is there, and name, size and time of its files; where it lies does not count."""
    found: list[Any] = []
    for folder in folders:
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        stats = [(path.relative_to(folder), path.stat()) for path in paths]
        found.append([folder.is_dir(), [[str(name), stat.st_size, stat.st_mtime_ns] for name, stat in stats]])
    return found


def _code() -> str:
    """A digest of the code that an ingest may run: that of `catalog` and of `ingest`."""
    code = hashlib.blake2b(digest_size=16)
    ingest = Path(__file__).parent
    for folder in (ingest, ingest.parent / "catalog"):
        for path in sorted(folder.rglob("*.py")):
            code.update(str(path.relative_to(ingest.parent)).encode())
            code.update(path.read_bytes())
    return code.hexdigest()
