"""Reads documents from docstrings, licences, text files, JSON Lines, Parquet, or a `datasets` name.

Every source yields (place, text), in an order that follows from its content. A line, a row or a text file that cannot
be used costs itself alone and is counted under its place and reason; a file that is missing or damaged is an
InputError that names it, and so is a corpus of which nothing can be used.
"""

import glob
import importlib.metadata
import importlib.util
import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from catalog.digest import digest
from catalog.errors import InputError
from catalog.study.terms import PACKAGE
from catalog.study.text import Corpus
from ingest.text.docstrings import STDLIB, package_docstrings, package_files
from ingest.text.licences import licences, licensed
from ingest.text.packaged import packaged_files
from ingest.text.parquet_text import parquet_documents
from ingest.text.text_files import lines, whole
from ingest.text.unusable import LeftOut, Skips, Unusable, decoded, is_unicode, too_long


def read_corpus(corpus: Corpus, left_out: LeftOut) -> Iterator[tuple[str, str]]:
    """(place, text) of each document, duplicates included.

    What cannot be used is counted in `left_out`: at most 100 places of a file under each reason, the rest under the
    file's name. Raises InputError for a file that is missing or damaged, an unknown package or data set, and, at the
    end, if nothing could be used.
    """
    skips, used, first = Skips(left_out), False, ""
    for place, text in _documents(corpus, left_out):
        if isinstance(text, str) and not is_unicode(text):
            # An escape such as \ud800 in JSON or in a literal: no file and no table can hold it as UTF-8.
            text = Unusable("text with half of a surrogate pair")
        if isinstance(text, str):
            used = True
            yield place, text
        else:
            skips.add(place, text.reason)
            first = first or text.detail or f"{place}: {text.reason}"
    if first and not used:
        raise InputError(f"corpus {corpus.name!r} holds nothing that can be used: {first}")


def _documents(corpus: Corpus, left_out: LeftOut) -> Iterator[tuple[str, str | Unusable]]:
    if corpus.kind == "docstrings":
        yield from _docstrings(corpus, left_out)
    elif corpus.kind == "licences":
        yield from licences(corpus.packages, left_out)
    elif corpus.kind == "dataset":
        yield from _dataset(corpus)
    else:
        readers = {"text": _text, "lines": _lines, "jsonl": _json_lines, "parquet": parquet_documents}
        for path in matched_files(corpus):
            yield from readers[corpus.kind](path, corpus)


def matched_files(corpus: Corpus) -> list[Path]:
    """The files that the corpus names, globs expanded, sorted within each glob."""
    found: list[Path] = []
    for pattern in corpus.files:
        if pattern.startswith(PACKAGE):
            found += packaged_files(pattern, f"corpus {corpus.name!r}")
            continue
        # A file whose name has brackets is meant as it stands.
        named = Path(pattern)
        names = [pattern] if named.exists() else sorted(glob.glob(pattern, recursive=True))
        if not names:
            raise InputError(f"corpus {corpus.name!r}: no file matches {pattern!r}")
        if named.is_dir():
            raise InputError(f"corpus {corpus.name!r}: {pattern} is a directory: name files, such as '{pattern}/*'")
        paths = [path for path in map(Path, names) if not path.is_dir()]
        for path in paths:
            if not path.is_file():
                # A pipe would be waited on for ever, and read only once.
                kind = "names no file that is there" if path.is_symlink() else "is a pipe or a device, not a file"
                raise InputError(f"corpus {corpus.name!r}: {path} {kind}")
        found += paths
    if not found:
        raise InputError(f"corpus {corpus.name!r} of kind {corpus.kind!r} names no files: give it `files`")
    return found


def source_fingerprint(corpus: Corpus) -> str:
    """A digest that changes when the source may have: package versions, file sizes and times, settings."""
    said: dict[str, Any] = {"corpus": corpus.model_dump(mode="json", exclude={"name"})}
    if corpus.kind == "docstrings":
        said["packages"] = {name: _version(name) for name in corpus.packages}
    elif corpus.kind == "licences":
        said["packages"] = {one.name: one.version for one in licensed(corpus.packages)}
    elif corpus.kind != "dataset":
        stats = {str(path): path.stat() for path in matched_files(corpus)}
        said["files"] = {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}
    return digest(said)


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
                texts = package_docstrings(package, path)
            except (SyntaxError, ValueError, RecursionError):
                left_out[package, "a source file does not parse"] += 1
                continue
            except OSError:
                left_out[package, "a source file cannot be read"] += 1
                continue
            for text in texts:
                yield f"{package}/{path.stem}", text


def _text(path: Path, corpus: Corpus) -> Iterator[tuple[str, str | Unusable]]:
    raw = whole(path, corpus.max_line_bytes)
    if raw is None:
        yield path.name, too_long(str(path), corpus)
    elif not raw.strip():
        yield path.name, Unusable("empty file", f"{path} is empty: it holds no text for corpus {corpus.name!r}")
    else:
        yield path.name, decoded(raw, str(path), 0)


def _lines(path: Path, corpus: Corpus) -> Iterator[tuple[str, str | Unusable]]:
    offset, blank = 0, True
    for number, raw in lines(path, corpus.max_line_bytes):
        where = f"{path}, line {number}"
        if raw is None:
            yield f"{path.name}:{number}", too_long(where, corpus)
        elif raw.strip():
            yield f"{path.name}:{number}", decoded(raw.strip(b"\r"), where, offset)
        blank = blank and raw is not None and not raw.strip()
        offset += len(raw or b"") + 1
    if blank:
        yield path.name, Unusable("empty file", f"{path} is empty: it holds no line for corpus {corpus.name!r}")


def _json_lines(path: Path, corpus: Corpus) -> Iterator[tuple[str, str | Unusable]]:
    offset, blank = 0, True
    for number, raw in lines(path, corpus.max_line_bytes):
        if raw is not None and not raw.strip():
            offset += len(raw) + 1
            continue
        blank = False
        yield f"{path.name}:{number}", _line(raw, f"{path}, line {number}", offset, corpus)
        offset += len(raw or b"") + 1
    if blank:
        yield path.name, Unusable("empty file", f"{path} is empty: it holds no line for corpus {corpus.name!r}")


def _line(raw: bytes | None, where: str, offset: int, corpus: Corpus) -> str | Unusable:
    """The text of a line of JSON."""
    if raw is None:
        return too_long(where, corpus)
    text = decoded(raw, where, offset)
    if isinstance(text, Unusable):
        return text
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Unusable("line that is not JSON", f"{where}: not JSON ({error})")
    if not isinstance(row, dict) or not isinstance(row.get(corpus.field), str):
        keys = sorted(row) if isinstance(row, dict) else type(row).__name__
        return Unusable(
            f"no text under {corpus.field!r}", f"{where}: no text under {corpus.field!r}; it has {keys}: set `field`"
        )
    if text.count(json.dumps(corpus.field)) > 1 and _stands_twice(text, corpus.field):
        return Unusable(f"more than one {corpus.field!r}", f"{where}: the key {corpus.field!r} stands there twice")
    found: str = row[corpus.field]
    return found


def _stands_twice(line: str, key: str) -> bool:
    """Whether the outermost object of a line has the key more than once."""
    last: list[tuple[str, Any]] = []

    def seen(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal last
        last = pairs
        return dict(pairs)

    json.loads(line, object_pairs_hook=seen)
    # The outermost object ends last.
    return sum(name == key for name, _ in last) > 1


def _dataset(corpus: Corpus) -> Iterator[tuple[str, str | Unusable]]:
    if importlib.util.find_spec("datasets") is None:
        raise InputError(f"corpus {corpus.name!r} names a data set, and the package `datasets` is not installed")
    datasets = importlib.import_module("datasets")
    try:
        rows = datasets.load_dataset(corpus.dataset, corpus.config, split=corpus.dataset_split, streaming=True)
        for number, row in enumerate(rows):
            text = row.get(corpus.field)
            usable = isinstance(text, str)
            yield f"{corpus.dataset}:{number}", text if usable else Unusable(f"no text under {corpus.field!r}")
    except (OSError, ValueError) as error:
        raise InputError(f"data set {corpus.dataset!r} cannot be read: {error}") from error
