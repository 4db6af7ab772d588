"""Reads and checks the head of a GGUF file: its metadata, its table of tensors, and whether all of them are there.

transformers trusts the lengths that a file gives, and raises whatever it meets behind them. Here each is held against
the file's size first.
"""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from catalog.errors import InputError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Type of a value in the file -> format of `struct`."""
_STRING, _ARRAY = 8, 9
_LONGEST = 1 << 20
"""Bytes of a key or a text that are read; a chat template has some thousands."""


@dataclass(frozen=True)
class Length:
    """Stands for an array in the metadata, whose entries are not kept."""

    entries: int


@dataclass(frozen=True)
class Header:
    """The head of a GGUF file."""

    metadata: Mapping[str, Any]
    """Numbers and texts by key; an array is its Length."""
    spans: Mapping[str, tuple[int, int]]
    """Where each entry of the metadata stands in the file: its first byte, and the one after its last."""
    shapes: Mapping[str, tuple[int, ...]]
    """Of each tensor, in the order of torch."""
    table: tuple[int, int]
    """Where the table of tensors stands."""
    data: int
    """Where the tensors begin."""

    @property
    def alignment(self) -> int:
        """Bytes: tensors begin at a multiple of it."""
        return int(self.metadata.get("general.alignment", 32))

    @property
    def architecture(self) -> str:
        """As llama.cpp names it."""
        return str(self.metadata["general.architecture"])


class _Reader:
    """Reads values one after another, none behind the end."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self.path, self.content, self.at = path, content, 0

    def number(self, kind: str) -> Any:
        (value,) = struct.unpack_from(f"<{kind}", self.content, self.skip(struct.calcsize(f"<{kind}")))
        return value

    def skip(self, size: int) -> int:
        """Go on by `size` bytes; where they began."""
        before = self.at
        if size > len(self.content) - before:
            raise cut_off(self.path, f"its head asks for {size} bytes at {before}, and it ends at {len(self.content)}")
        self.at += size
        return before

    def text(self) -> str:
        size = self.number("Q")
        start = self.skip(size)
        if size > _LONGEST:
            raise InputError(f"{self.path} is no model that can be read: a text of {size} bytes in its head")
        return self.content[start : start + size].decode("utf-8", "replace")

    def value(self) -> Any:
        kind = self.number("I")
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise InputError(f"{self.path} is no model that can be read: a value of unknown type {kind} in its head")
        kind, entries = self.number("I"), self.number("Q")
        if kind in _SCALARS:
            self.skip(entries * struct.calcsize(_SCALARS[kind]))
        elif kind == _STRING:
            # Each has its length before it.
            for _ in range(entries):
                self.skip(self.number("Q"))
        else:
            raise InputError(f"{self.path} is no model that can be read: an array of type {kind} in its head")
        return Length(entries)


def read_header(path: Path, sizes: Mapping[int, tuple[int, int]]) -> Header:
    """Read and check the head of the file at `path`.

    `sizes` says of each type of tensor how many numbers a block has, and how many bytes. Raises InputError for a file
    that is no GGUF of version 2 or 3, that is cut off, or that holds a type of tensor which `sizes` does not have.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _read(path, content, sizes)
    except ValueError as error:
        # An empty file cannot be mapped.
        raise InputError(f"{path} is no GGUF file: it is empty") from error
    except OSError as error:
        raise InputError(f"the model file {path} cannot be read: {error.strerror}") from error


def cut_off(path: Path, how: str) -> InputError:
    """The refusal of a file that ends too early."""
    return InputError(f"{path} is cut off: {how}. Fetch or install it again")


def _read(path: Path, content: mmap.mmap, sizes: Mapping[int, tuple[int, int]]) -> Header:
    if content[:4] != b"GGUF":
        raise InputError(f"{path} is no GGUF file: it begins with {content[:4]!r}")
    reader = _Reader(path, content)
    reader.skip(4)
    version = reader.number("I")
    if version not in (2, 3):
        raise InputError(
            f"{path} is GGUF of version {version}, and versions 2 and 3 in little-endian order can be read"
        )
    tensors, entries = reader.number("Q"), reader.number("Q")
    metadata: dict[str, Any] = {}
    spans: dict[str, tuple[int, int]] = {}
    for _ in range(entries):
        start = reader.at
        key = reader.text()
        metadata[key] = reader.value()
        spans[key] = start, reader.at
    if not isinstance(metadata.get("general.architecture"), str):
        raise InputError(f"{path} is no model that can be read: its head names no architecture")
    table, infos = reader.at, [_tensor(reader) for _ in range(tensors)]
    found = Header(metadata, spans, {name: shape for name, shape, *_ in infos}, (table, reader.at), 0)
    if found.alignment < 1 or found.alignment % 8:
        raise InputError(f"{path} is no model that can be read: its alignment is {found.alignment}")
    data = -(-reader.at // found.alignment) * found.alignment
    for name, shape, kind, offset in infos:
        if kind not in sizes:
            raise InputError(
                f"{path} holds tensors of type {kind}, such as {name}, which the package gguf does not know"
            )
        numbers, size = sizes[kind]
        end = data + offset + prod(shape) // numbers * size
        if end > len(content):
            raise cut_off(path, f"its tensor {name} ends at byte {end}, and the file at {len(content)}")
    return Header(metadata, spans, found.shapes, found.table, data)


def _tensor(reader: _Reader) -> tuple[str, tuple[int, ...], int, int]:
    """Name, shape, type and offset."""
    name, dimensions = reader.text(), reader.number("I")
    if dimensions > 8:
        raise InputError(f"{reader.path} is no model that can be read: its tensor {name} has {dimensions} dimensions")
    shape = tuple(reader.number("Q") for _ in range(dimensions))
    return name, shape[::-1], reader.number("I"), reader.number("Q")


def write_without_tokenizer(path: Path, header: Header, out: Path) -> None:
    """Write the file at `path` to `out` without the lists of its tokenizer.

    The package gguf reads lists an entry at a time: 26 s of 31 for a vocabulary of 262,144.
    """
    dropped = {
        key
        for key, value in header.metadata.items()
        if key.startswith("tokenizer.") and (isinstance(value, Length) or "template" in key)
    }
    with path.open("rb") as source, out.open("wb") as target:
        head = bytearray(source.read(16))
        head += struct.pack("<Q", len(header.metadata) - len(dropped))
        for key, (start, end) in header.spans.items():
            if key not in dropped:
                source.seek(start)
                head += source.read(end - start)
        source.seek(header.table[0])
        head += source.read(header.table[1] - header.table[0])
        head += bytes(-len(head) % header.alignment)
        target.write(head)
        source.seek(header.data)
        while block := source.read(1 << 20):
            target.write(block)
