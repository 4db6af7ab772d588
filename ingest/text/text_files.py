"""Reads files as UTF-8 bytes in bounded memory, whatever they are packed or encoded in.

Compression and encoding are known by a file's first bytes, not by its name: gzip, bzip2, xz, zstd, lz4; UTF-8 with or
without a byte order mark, UTF-16 and UTF-32. Nothing is held but a piece of a megabyte and one line.
"""

import bz2
import codecs
import gzip
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from catalog.errors import InputError

SUFFIXES = (".gz", ".gzip", ".bz2", ".xz", ".zst", ".zstd", ".lz4")
"""Of packed files: what stands before is the ending of what is inside."""
_PIECE = 1 << 20
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
_BZIP2_MARKS = (b"1AY&SY", b"\x17rE8P\x90")
# UTF-32 in little-endian order begins as UTF-16 does: it comes first.
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """What goes wrong while a file is read becomes an InputError that names it."""
    try:
        yield
    except (OSError, EOFError, zlib.error, lzma.LZMAError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def pieces(path: Path) -> Iterator[bytes]:
    """The file, unpacked, as UTF-8 without a byte order mark, a megabyte at a time.

    Bytes that are no UTF-8 come as they are. Raises InputError if the file cannot be read or is damaged.
    """
    with readable(path), _opened(path) as file:
        first = file.read(_PIECE)
        encoding, mark = _encoding(first)
        piece = first[mark:]
        if encoding == "utf-8":
            while piece:
                yield piece
                piece = file.read(_PIECE)
            return
        # Half of a surrogate pair costs its line, as in UTF-8.
        decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
        while piece:
            yield decoder.decode(piece).encode("utf-8", "surrogatepass")
            piece = file.read(_PIECE)
        yield decoder.decode(b"", final=True).encode("utf-8", "surrogatepass")


def lines(path: Path, limit: int) -> Iterator[tuple[int, bytes | None]]:
    """(number from 1, line without its end); None for a line of more than `limit` bytes, which is never held.

    Raises InputError as `pieces` does.
    """
    number, kept, held, long = 1, [b""], 0, False
    for piece in pieces(path):
        *whole, rest = piece.split(b"\n")
        for part in whole:
            held += len(part)
            yield number, None if long or held > limit else b"".join([*kept, part])
            number, kept, held, long = number + 1, [], 0, False
        held += len(rest)
        long = long or held > limit
        kept = [] if long else [*kept, rest]
    if held:
        yield number, None if long else b"".join(kept)


def whole(path: Path, limit: int) -> bytes | None:
    """All of the file; None if it holds more than `limit` bytes. Raises InputError as `pieces` does."""
    found: list[bytes] = []
    for piece in pieces(path):
        found.append(piece)
        limit -= len(piece)
        if limit < 0:
            return None
    return b"".join(found)


def _opened(path: Path) -> Any:
    """The file, unpacked. Several packed files one behind the other are read as one."""
    with path.open("rb") as file:
        head = file.read(10)
    packed = next((kind for magic, kind in _PACKED.items() if head.startswith(magic)), None)
    # "BZh" alone may begin a text: the mark of a first block, or of the end, comes after the size of blocks.
    if head.startswith(b"BZh") and head[4:] in _BZIP2_MARKS:
        packed = "bz2"
    if packed in ("zstd", "lz4"):
        import pyarrow as pa

        return pa.CompressedInputStream(pa.OSFile(str(path)), packed)
    opener: dict[str | None, Any] = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}
    file_like: IO[bytes] = opener.get(packed, open)(path, "rb")
    return file_like


def _encoding(head: bytes) -> tuple[str, int]:
    """The encoding, and how many bytes of a byte order mark come first."""
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding, len(mark)
    # Of ASCII text in UTF-16 every other byte is 0 (RFC 4627, section 3).
    zeros = [byte == 0 for byte in head[:4]]
    if zeros == [False, True, False, True]:
        return "utf-16-le", 0
    return ("utf-16-be", 0) if zeros == [True, False, True, False] else ("utf-8", 0)
