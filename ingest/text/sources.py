"""Where documents come from: docstrings, text files, JSON Lines, Parquet, a `datasets` name.

Every source yields (place, text), in an order that follows from its content. What cannot be read is an
InputError that names the file and the place; what is left out is counted under a reason.
"""

import glob
import gzip
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from catalog.errors import InputError
from catalog.sections import Corpus
from ingest.text.docstrings import STDLIB, file_docstrings, package_files

LeftOut = Counter[tuple[str, str]]
"""(subject, reason) -> how many."""


def read_corpus(corpus: Corpus, left_out: LeftOut) -> Iterator[tuple[str, str]]:
    """(place, text) of each document, duplicates included.

    Raises InputError for a file that is missing, empty or not UTF-8, a broken line, a missing field, an
    unknown package or data set.
    """
    for place, text in _documents(corpus, left_out):
        try:
            text.encode()
        except UnicodeEncodeError:
            # An escape such as \ud800 in JSON or in a literal: no file and no table can hold it as UTF-8.
            left_out[place, "text with half of a surrogate pair"] += 1
        else:
            yield place, text


def _documents(corpus: Corpus, left_out: LeftOut) -> Iterator[tuple[str, str]]:
    if corpus.kind == "docstrings":
        yield from _docstrings(corpus, left_out)
    elif corpus.kind == "dataset":
        yield from _dataset(corpus, left_out)
    else:
        readers = {"text": _text, "jsonl": _json_lines, "parquet": _parquet}
        for path in matched_files(corpus):
            yield from readers[corpus.kind](path, corpus, left_out)


def matched_files(corpus: Corpus) -> list[Path]:
    """The files that the corpus names, globs expanded, sorted within each glob."""
    found: list[Path] = []
    for pattern in corpus.files:
        # A file whose name has brackets is meant as it stands.
        names = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern, recursive=True))
        if not names:
            raise InputError(f"corpus {corpus.name!r}: no file matches {pattern!r}")
        found += [Path(name) for name in names if Path(name).is_file()]
    if not found:
        raise InputError(f"corpus {corpus.name!r} of kind {corpus.kind!r} names no files: give it `files`")
    return found


def source_fingerprint(corpus: Corpus) -> str:
    """A digest that changes when the source may have: package versions, file sizes and times, settings."""
    said: dict[str, Any] = {"corpus": corpus.model_dump(mode="json", exclude={"name"})}
    if corpus.kind == "docstrings":
        said["packages"] = {name: _version(name) for name in corpus.packages}
    elif corpus.kind != "dataset":
        stats = {str(path): path.stat() for path in matched_files(corpus)}
        said["files"] = {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}
    return hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=16).hexdigest()


def _version(package: str) -> str:
    if package == STDLIB:
        return platform.python_version()
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return str([(str(path), path.stat().st_mtime_ns) for path in package_files(package)])


def _docstrings(corpus: Corpus, left_out: LeftOut) -> Iterator[tuple[str, str]]:
    for package in corpus.packages:
        for path in package_files(package):
            try:
                texts = list(file_docstrings(path.read_text(encoding="utf-8")))
            except (SyntaxError, ValueError, RecursionError):
                left_out[package, "a source file does not parse"] += 1
                continue
            except OSError:
                left_out[package, "a source file cannot be read"] += 1
                continue
            for text in texts:
                yield f"{package}/{path.stem}", text


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What goes wrong while a file is read becomes an InputError that names it."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with _readable(path), gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        yield from enumerate(file, start=1)


def _decoded(raw: bytes, path: Path, offset: int = 0) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8: byte 0x{raw[error.start]:02x} at offset {offset + error.start}; convert the file"
        ) from error


def _text(path: Path, corpus: Corpus, left_out: LeftOut) -> Iterator[tuple[str, str]]:
    with _readable(path):
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if not raw.strip():
        raise InputError(f"{path} is empty: it holds no text for corpus {corpus.name!r}")
    yield path.name, _decoded(raw, path)


def _json_lines(path: Path, corpus: Corpus, left_out: LeftOut) -> Iterator[tuple[str, str]]:
    offset = documents = 0
    for number, raw in _lines(path):
        line = _decoded(raw, path, offset)
        offset += len(raw)
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict) or not isinstance(row.get(corpus.field), str):
            keys = sorted(row) if isinstance(row, dict) else type(row).__name__
            raise InputError(f"{path}, line {number}: no text under {corpus.field!r}; it has {keys}: set `field`")
        documents += 1
        yield f"{path.name}:{number}", row[corpus.field]
    if not documents:
        raise InputError(f"{path} is empty: it holds no line for corpus {corpus.name!r}")


def _parquet(path: Path, corpus: Corpus, left_out: LeftOut) -> Iterator[tuple[str, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is not a Parquet file: {error}") from error
    with file:
        if corpus.field not in file.schema_arrow.names:
            raise InputError(f"{path} has no column {corpus.field!r}; it has {file.schema_arrow.names}: set `field`")
        if not file.metadata.num_rows:
            raise InputError(f"{path} is empty: it holds no row for corpus {corpus.name!r}")
        number = 0
        for values in _column(file, path, corpus.field):
            for text in values:
                number += 1
                if isinstance(text, str):
                    yield f"{path.name}:{number}", text
                else:
                    left_out[path.name, f"row without text under {corpus.field!r}"] += 1


def _column(file: Any, path: Path, name: str) -> Iterator[list[Any]]:
    """The values of one column of an open ParquetFile, a batch at a time."""
    import pyarrow as pa

    try:
        for batch in file.iter_batches(columns=[name]):
            yield batch.column(0).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as Parquet: {error}") from error


def _dataset(corpus: Corpus, left_out: LeftOut) -> Iterator[tuple[str, str]]:
    if importlib.util.find_spec("datasets") is None:
        raise InputError(f"corpus {corpus.name!r} names a data set, and the package `datasets` is not installed")
    datasets = importlib.import_module("datasets")
    try:
        rows = datasets.load_dataset(corpus.dataset, corpus.config, split=corpus.dataset_split, streaming=True)
        for number, row in enumerate(rows):
            if isinstance(row.get(corpus.field), str):
                yield f"{corpus.dataset}:{number}", row[corpus.field]
            else:
                left_out[str(corpus.dataset), f"row without text under {corpus.field!r}"] += 1
    except (OSError, ValueError) as error:
        raise InputError(f"data set {corpus.dataset!r} cannot be read: {error}") from error
