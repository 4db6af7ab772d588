"""Every kind of source gives its documents with their places; every bad input is named, with the place in it."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog.errors import InputError
from catalog.study.text import Corpus
from ingest.text.sources import matched_files, read_corpus, source_fingerprint
from ingest.text.unusable import LeftOut


def corpus(kind: str, *files: Path | str, **settings: Any) -> Corpus:
    return Corpus(name="c", kind=kind, files=tuple(map(str, files)), **settings)


def read(section: Corpus) -> tuple[list[tuple[str, str]], LeftOut]:
    left_out: LeftOut = Counter()
    return list(read_corpus(section, left_out)), left_out


def refused(section: Corpus) -> str:
    with pytest.raises(InputError) as raised:
        read(section)
    return str(raised.value)


def test_docstrings_come_with_package_and_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "documented_package"
    package.mkdir()
    (package / "a.py").write_text('"""First."""\ndef f():\n    """Second."""')
    (package / "b.py").write_text("def broken(:")
    (package / "c.py").write_bytes(b'"""caf\xe9"""')
    (package / "d.py").write_text('"""half \\ud800 pair"""')
    (package / "e.py").symlink_to(tmp_path / "gone.py")
    monkeypatch.syspath_prepend(tmp_path)
    found, left_out = read(Corpus(name="c", packages=("documented_package",)))
    assert found == [("documented_package/a", "First."), ("documented_package/a", "Second.")]
    assert left_out == {
        ("documented_package", "a source file does not parse"): 2,
        ("documented_package", "a source file cannot be read"): 1,
        ("documented_package/d", "text with half of a surrogate pair"): 1,
    }


def test_a_package_that_is_not_installed_is_refused() -> None:
    assert "'no_such_package' is not installed" in refused(Corpus(name="c", packages=("no_such_package",)))


def test_a_text_file_is_a_document_and_a_gzipped_one_too(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("two\nlines → 日本\n")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"packed", mtime=0))
    assert read(corpus("text", tmp_path / "*.txt*"))[0] == [("a.txt.gz", "packed"), ("b.txt", "two\nlines → 日本\n")]


@pytest.mark.parametrize("name", ["lines.jsonl", "lines.jsonl.gz"])
def test_json_lines_are_documents_placed_by_line(tmp_path: Path, name: str) -> None:
    raw = b'{"body": "one"}\n\n{"body": "zwei \\u00e4 \xc3\xa4", "other": 1}\r\n{"body": "no newline"}'
    path = tmp_path / name
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    assert read(corpus("jsonl", path, field="body"))[0] == [
        (f"{name}:1", "one"),
        (f"{name}:3", "zwei ä ä"),
        (f"{name}:4", "no newline"),
    ]


def test_parquet_rows_are_documents_and_rows_without_text_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"id": [1, 2, 3], "body": ["one", None, "→"]}), path)
    found, left_out = read(corpus("parquet", path, field="body"))
    assert found == [("t.parquet:1", "one"), ("t.parquet:3", "→")]
    assert left_out == {("t.parquet:2", "no text under 'body'"): 1}


def test_files_come_in_sorted_order_within_each_glob(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "sub/c.txt", "0.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    names = [p.name for p in matched_files(corpus("text", tmp_path / "**/*.txt", tmp_path / "0.md"))]
    assert names == ["a.txt", "b.txt", "c.txt", "0.md"]


def test_a_file_name_with_brackets_is_meant_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "notes [1].txt").write_text("bracketed")
    assert read(corpus("text", tmp_path / "notes [1].txt"))[0] == [("notes [1].txt", "bracketed")]


def test_a_glob_without_a_match_is_named(tmp_path: Path) -> None:
    said = refused(corpus("text", tmp_path / "*.nope"))
    assert "corpus 'c'" in said
    assert f"no file matches '{tmp_path}/*.nope'" in said


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    assert f"{tmp_path} is a directory: name files, such as" in refused(corpus("text", tmp_path))


@pytest.mark.parametrize("kind", ["text", "jsonl"])
def test_bytes_that_are_not_utf8_are_named_with_file_and_offset(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "latin"
    path.write_bytes(b'\n{"text": "not so fine, but long"}'[: 17 if kind == "text" else 0] + b'{"text": "caf\xe9"}\n')
    said = refused(corpus(kind, path))
    assert f"{path}{', line 1' if kind == 'jsonl' else ''} is not UTF-8" in said
    assert f"byte 0xe9 at offset {30 if kind == 'text' else 13}" in said


@pytest.mark.parametrize("kind", ["text", "jsonl"])
@pytest.mark.parametrize("raw", [b"", b" \n\n"])
def test_an_empty_file_is_named(tmp_path: Path, kind: str, raw: bytes) -> None:
    path = tmp_path / "empty"
    path.write_bytes(raw)
    assert f"{path} is empty" in refused(corpus(kind, path))


def test_a_parquet_file_without_rows_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    assert f"{path} is empty" in refused(corpus("parquet", path))


@pytest.mark.parametrize("line", ["{broken", '{"text": "cut', "[" * 100_000])
def test_broken_json_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("\n\n" + line + "\n")
    assert f"{path}, line 3: not JSON" in refused(corpus("jsonl", path))


@pytest.mark.parametrize(
    ("line", "has"),
    [('{"b": 1, "a": 2}', "['a', 'b']"), ('{"text": 5}', "['text']"), ('["text"]', "list"), ('"text"', "str")],
)
def test_a_line_without_the_field_lists_what_it_has(tmp_path: Path, line: str, has: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("\n" + line + "\n")
    assert f"{path}, line 2: no text under 'text'; it has {has}: set `field`" in refused(corpus("jsonl", path))


def test_a_missing_column_lists_the_columns(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"id": [1], "body": ["x"]}), path)
    assert f"{path} has no column 'text'; it has ['id', 'body']: set `field`" in refused(corpus("parquet", path))


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_text("not columns")
    assert f"{path} is not a Parquet file" in refused(corpus("parquet", path))


def test_damaged_parquet_pages_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": [f"some text {i}" for i in range(2000)]}), path, compression="zstd")
    raw = bytearray(path.read_bytes())
    raw[40:400] = bytes(360)
    path.write_bytes(raw)
    assert f"{path} cannot be read as Parquet" in refused(corpus("parquet", path))


@pytest.mark.parametrize("kind", ["text", "jsonl"])
@pytest.mark.parametrize("raw", [b"\x1f\x8bno gzip at all", gzip.compress(b'{"text": "fine"}\n' * 50, mtime=0)[:-10]])
def test_a_damaged_gzip_file_is_named(tmp_path: Path, kind: str, raw: bytes) -> None:
    path = tmp_path / "t.gz"
    path.write_bytes(raw)
    assert f"{path} cannot be read" in refused(corpus(kind, path))


def test_half_of_a_surrogate_pair_is_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "fine \\ud83d\\ude42"}\n{"text": "half \\ud83d"}\n')
    found, left_out = read(corpus("jsonl", path))
    assert found == [("t.jsonl:1", "fine 🙂")]
    assert left_out == {("t.jsonl:2", "text with half of a surrogate pair"): 1}


def test_a_data_set_without_its_package_is_refused() -> None:
    pytest.importorskip("pyarrow")
    try:
        import datasets  # noqa: F401
    except ImportError:
        assert "package `datasets` is not installed" in refused(Corpus(name="c", kind="dataset", dataset="x/y"))
    else:
        pytest.skip("the package `datasets` is installed")


def test_the_fingerprint_follows_content_and_settings_but_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"text": "a"}))
    section = corpus("jsonl", path)
    before = source_fingerprint(section)
    assert source_fingerprint(section) == before
    assert source_fingerprint(section.model_copy(update={"name": "other"})) == before
    assert source_fingerprint(section.model_copy(update={"field": "body"})) != before
    path.write_text(json.dumps({"text": "longer"}))
    assert source_fingerprint(section) != before
