"""Files as they are in the wild: packed, marked, damaged, with bad lines; each costs itself alone and is counted."""

import bz2
import gzip
import json
import lzma
import os
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import InputError
from catalog.study.text import Corpus
from ingest.add import _section
from ingest.text import text_files
from ingest.text.sources import read_corpus
from ingest.text.unusable import LeftOut

LINES = b'{"text": "one"}\n{"text": "zwei \xc3\xa4"}\n'


def packed(codec: str) -> Callable[[bytes], bytes]:
    def pack(raw: bytes) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, codec) as stream:
            stream.write(raw)
        return bytes(sink.getvalue().to_pybytes())

    return pack


PACKERS = {
    "gzip": lambda raw: gzip.compress(raw, mtime=0),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": packed("zstd"),
    "lz4": packed("lz4"),
}


def read(path: Path | str, kind: str = "jsonl", **more: Any) -> tuple[list[str], LeftOut]:
    left_out: LeftOut = Counter()
    section = Corpus(name="c", kind=kind, files=(str(path),), **more)
    return [text for _, text in read_corpus(section, left_out)], left_out


def written(folder: Path, raw: bytes, name: str = "f.jsonl") -> Path:
    path = folder / name
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("name", ["lines.JSONL.GZ", "lines.zst", "lines"])
def test_a_packed_file_is_known_by_its_content(tmp_path: Path, packer: str, name: str) -> None:
    pack = PACKERS[packer]
    path = written(tmp_path, pack(LINES) + pack(b'{"text": "behind it"}'), name)
    assert read(path)[0] == ["one", "zwei ä", "behind it"]
    path.write_bytes(pack(b"all of it") + pack(b" is one document"))
    assert read(path, "text")[0] == ["all of it is one document"]


@pytest.mark.parametrize("packer", PACKERS)
def test_a_packed_file_that_ends_too_early_is_refused_by_name(tmp_path: Path, packer: str) -> None:
    path = written(tmp_path, PACKERS[packer](LINES * 50)[:-7])
    with pytest.raises(InputError, match=f"{path} cannot be read"):
        read(path)


@pytest.mark.parametrize("name", ["plain.gz", "plain.zst"])
def test_a_file_that_is_not_packed_is_read_whatever_its_name(tmp_path: Path, name: str) -> None:
    assert read(written(tmp_path, LINES, name))[0] == ["one", "zwei ä"]
    assert read(written(tmp_path, b"BZh is how it begins", name), "text")[0] == ["BZh is how it begins"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_encodings_are_known_by_their_mark(tmp_path: Path, encoding: str, pack: Callable[[bytes], bytes]) -> None:
    text = '{"text": "one"}\r\n{"text": "日本 🙂"}\r\n'
    path = written(tmp_path, pack(text.encode(encoding)))
    assert read(path)[0] == ["one", "日本 🙂"]
    assert read(path, "text")[0] == [text]


def test_half_a_pair_in_utf16_costs_its_line(tmp_path: Path) -> None:
    raw = '{"text": "half \ud83d"}\n{"text": "whole"}'.encode("utf-16", "surrogatepass")
    found, left_out = read(written(tmp_path, raw))
    assert (found, left_out) == (["whole"], {("f.jsonl:1", "text that is not UTF-8"): 1})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": null}', "no text under 'text'"),
        (b'{"other": "x"}', "no text under 'text'"),
        (b'{"text": 5}', "no text under 'text'"),
        (b'{"text": ["x"]}', "no text under 'text'"),
        (b'{"text": {"text": "x"}}', "no text under 'text'"),
        (b'{"text": NaN}', "no text under 'text'"),
        (b'"text"', "no text under 'text'"),
        (b"NaN", "no text under 'text'"),
        (b'{"text": "cut', "line that is not JSON"),
        (b'{"text": "a raw \x00"}', "line that is not JSON"),
        (b"[" * 100_000, "line that is not JSON"),
        (b"1" * 10_000, "line that is not JSON"),
        (b'{"text": "caf\xe9"}', "text that is not UTF-8"),
        (b'{"text": "half \\ud83d"}', "text with half of a surrogate pair"),
        (b'{"text": "a", "text": "b"}', "more than one 'text'"),
        (b'{"text": "' + b"x" * 200_000 + b'"}', "text of more than 150,000 bytes"),
    ],
)
def test_a_bad_line_costs_one_line(tmp_path: Path, line: bytes, reason: str) -> None:
    path = written(tmp_path, b'{"text": "first"}\r\n\n' + line + b'\n{"text": "last \\u0000"}')
    assert read(path, max_line_bytes=150_000) == (["first", "last \x00"], {("f.jsonl:3", reason): 1})
    path.write_bytes(line)
    with pytest.raises(InputError, match=r"corpus 'c' holds nothing that can be used: .*(line 1|f.jsonl:1)"):
        read(path, max_line_bytes=150_000)


def test_a_key_that_only_looks_doubled_is_one(tmp_path: Path) -> None:
    row = {"text": 'it says "text": twice', "inner": {"text": "another's"}}
    assert read(written(tmp_path, json.dumps(row).encode()))[0] == [row["text"]]


def test_bad_lines_beyond_a_hundred_are_counted_under_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, b"{}\n" * 250 + LINES)
    found, left_out = read(path)
    assert len(found) == 2
    assert len(left_out) == 101
    assert left_out["f.jsonl:100", "no text under 'text'"] == 1
    assert left_out["f.jsonl", "no text under 'text'"] == 150


def test_text_files_that_cannot_be_used_cost_themselves(tmp_path: Path) -> None:
    files = {"a": b"fine", "b": b"\xff\xfa\x80", "c": b"", "d": b" \n", "e": b"x" * 200, "f": b"\xef\xbb\xbffine"}
    for name, raw in files.items():
        written(tmp_path, raw, name)
    found, left_out = read(f"{tmp_path}/*", "text", max_line_bytes=100)
    assert found == ["fine", "fine"]
    assert left_out == {
        ("b", "text that is not UTF-8"): 1,
        ("c", "empty file"): 1,
        ("d", "empty file"): 1,
        ("e", "text of more than 100 bytes"): 1,
    }


@pytest.mark.parametrize("kind", ["jsonl", "text"])
def test_a_line_that_unpacks_to_gigabytes_is_passed_over_in_bounded_memory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bomb"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b'{"text": "')
        for _ in range(40):
            file.write(bytes(1 << 20))
        file.write(b'"}\n' + LINES)
    (tmp_path / "fine").write_bytes(LINES)
    tracemalloc.start()
    found, left_out = read(f"{tmp_path}/*", kind, max_line_bytes=1_000_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == (4 if kind == "jsonl" else 1)
    assert left_out == {("bomb:1" if kind == "jsonl" else "bomb", "text of more than 1,000,000 bytes"): 1}
    assert peak < 12 << 20


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=12), max_size=8), st.integers(1, 9), st.integers(0, 12))
def test_lines_are_those_of_a_plain_split(parts: list[bytes], size: int, limit: int) -> None:
    raw = b"x" + b"\n".join(parts)
    pieces = [raw[i : i + size] for i in range(0, len(raw), size)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(text_files, "pieces", lambda path: iter(pieces))
        found = list(text_files.lines(Path("p"), limit))
    plain = raw.split(b"\n")
    plain = plain[: -1 if not plain[-1] else None]
    assert found == [(i, line if len(line) <= limit else None) for i, line in enumerate(plain, start=1)]


COLUMNS = {
    "string": pa.string(),
    "large_string": pa.large_string(),
    "string_view": pa.string_view(),
    "binary": pa.binary(),
    "large_binary": pa.large_binary(),
    "binary_view": pa.binary_view(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
}


@pytest.mark.parametrize("layout", COLUMNS)
def test_every_layout_of_a_parquet_column_is_read_as_json_lines_are(tmp_path: Path, layout: str) -> None:
    values = ["one", None, "zwei ä", "x" * 200, ""]
    column = pa.array(values, pa.string())
    column = column.dictionary_encode() if layout == "dictionary" else column.cast(COLUMNS[layout])
    path = tmp_path / "f.jsonl"
    pq.write_table(pa.table({"text": column}), path)
    parquet = read(path, "parquet", max_line_bytes=100)
    path.write_text("".join(json.dumps({"text": value}) + "\n" for value in values))
    lines = read(path, max_line_bytes=100)
    assert parquet == lines
    assert lines == (
        ["one", "zwei ä", ""],
        {("f.jsonl:2", "no text under 'text'"): 1, ("f.jsonl:4", "text of more than 100 bytes"): 1},
    )


def test_parquet_values_that_are_not_utf8_cost_their_row(tmp_path: Path) -> None:
    """A column of strings as well: nothing looked at them when they were written."""
    raw = pa.array([b"fine", b"caf\xe9", b"\xed\xa0\x80"], pa.binary())
    strings = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])
    for column in (raw, strings):
        pq.write_table(pa.table({"text": column}), tmp_path / "t.parquet")
        found, left_out = read(tmp_path / "t.parquet", "parquet")
        assert found == ["fine"]
        reason = "text that is not UTF-8"
        assert left_out == {("t.parquet:2", reason): 1, ("t.parquet:3", reason): 1}


@pytest.mark.parametrize(
    "column",
    [pa.array([1]), pa.array([["x"]]), pa.array([{"text": "x"}]), pa.array([True]), pa.array([1.5])],
    ids=["int", "list", "struct", "bool", "double"],
)
def test_a_parquet_column_of_no_text_is_refused_with_its_type(tmp_path: Path, column: pa.Array) -> None:
    pq.write_table(pa.table({"text": column}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"its column 'text' is of type .*, not text: set `field`"):
        read(tmp_path / "t.parquet", "parquet")


def test_a_parquet_file_of_nulls_is_refused_and_an_empty_one_among_others_counted(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.nulls(3)}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"holds nothing that can be used: .*a.parquet, row 1: no text"):
        read(tmp_path / "a.parquet", "parquet")
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "b.parquet")
    assert read(tmp_path / "*.parquet", "parquet") == (["x"], {("b.parquet", "empty file"): 1})


def test_a_pipe_is_refused_and_not_waited_on(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for pattern in ("pipe", "*"):
        with pytest.raises(InputError, match="pipe is a pipe or a device, not a file"):
            read(tmp_path / pattern)


def test_a_link_that_leads_nowhere_and_a_file_that_vanishes_are_named(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match="link names no file that is there"):
        read(tmp_path / "*")
    (tmp_path / "link").unlink()
    written(tmp_path, LINES, "a")
    written(tmp_path, LINES, "b")
    texts = read_corpus(Corpus(name="c", kind="jsonl", files=(f"{tmp_path}/*",)), Counter())
    assert next(texts) == ("a:1", "one")
    (tmp_path / "b").unlink()
    with pytest.raises(InputError, match=r"b cannot be read: .*No such file"):
        list(texts)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.JSONL.GZ", "jsonl"),
        ("a.ndjson.zst", "jsonl"),
        ("a.jsonl.bz2", "jsonl"),
        ("a.PARQUET", "parquet"),
        ("a.txt.xz", "text"),
        ("a.gz", "text"),
    ],
)
def test_what_a_file_holds_follows_from_its_ending_in_any_case(tmp_path: Path, name: str, kind: str) -> None:
    assert _section("c", {"ctx_len": 64, "shard_tokens": 1000}, written(tmp_path, b"", name), None).kind == kind
