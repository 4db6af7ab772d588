"""A corpus grows, never repeats a document, and ends the same whatever interrupts its ingest."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from catalog import Catalog
from catalog.errors import InputError
from catalog.store.shards import file_digest
from ingest.model.language_model import LanguageModel
from ingest.text import corpus as corpus_module
from ingest.text.corpus import ingest_corpus
from ingest.text.corpus_rows import CorpusReport
from ingest.text.splits import document_hash, split_of
from tests.ingest.tiny import content, corpus_of, loaded, texts, write_lines


def ingest(catalog: Catalog, model: LanguageModel, path: Path, **settings: Any) -> CorpusReport:
    return ingest_corpus(catalog, corpus_of(path, **settings), model)


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "docs.jsonl", texts(30))


def test_documents_and_tokens_are_those_of_the_source(catalog: Catalog, llama: LanguageModel, lines: Path) -> None:
    report = ingest(catalog, llama, lines)
    rows = catalog.rows("SELECT document, hash, split, source, text, start, tokens FROM documents ORDER BY document")
    assert [row[4] for row in rows] == texts(30)
    assert [row[0] for row in rows] == list(range(30))
    assert [row[3] for row in rows] == [f"docs.jsonl:{i + 1}" for i in range(30)]
    assert all(key == document_hash(text) and split == split_of(key) for _, key, split, _, text, *_ in rows)
    ends = [start + tokens for *_, start, tokens in rows]
    assert [row[5] for row in rows] == [0, *ends[:-1]]
    assert report == CorpusReport("docs", 30, 30, 0, 0, ends[-1])
    stored = catalog.rows("SELECT position, token FROM tokens ORDER BY position")
    assert [position for position, _ in stored] == list(range(ends[-1]))
    start, end = rows[4][5], ends[4]
    assert llama.tokenizer.decode([token for _, token in stored[start:end]]) == texts(30)[4]


def test_the_view_of_tokens_gives_the_text_of_each_document(
    catalog: Catalog, llama: LanguageModel, tmp_path: Path
) -> None:
    documents = ["the  matrix\nof rows", "naïve → 日本 🙂🙂 e\u0301", "\x00 nul and \u200b"]
    ingest(catalog, llama, write_lines(tmp_path / "d.jsonl", documents))
    shown = catalog.rows(
        "SELECT document, string_agg(text, '' ORDER BY position) FROM token_text GROUP BY document ORDER BY document"
    )
    assert [text for _, text in shown] == documents


def test_a_sequence_holds_ctx_len_tokens_with_its_bos(
    catalog: Catalog, llama: LanguageModel, neox: LanguageModel, lines: Path
) -> None:
    ingest(catalog, llama, lines)
    assert catalog.value("SELECT max(length) FROM tokens") == 15
    assert neox.bos is None
    ingest(catalog, neox, lines, name="without_bos")
    assert catalog.value("SELECT max(length) FROM tokens WHERE corpus = 'without_bos'") == 16


def test_duplicates_and_empty_documents_are_dropped_and_counted(
    catalog: Catalog, llama: LanguageModel, tmp_path: Path
) -> None:
    path = write_lines(tmp_path / "d.jsonl", ["matrix", "rows", "matrix", "", " \n", "matrix"])
    report = ingest(catalog, llama, path)
    assert (report.documents, report.duplicates, report.empty) == (2, 2, 2)
    assert catalog.rows("SELECT documents, duplicates, empty, tokens FROM corpora") == [(2, 2, 2, report.tokens)]
    assert catalog.rows("SELECT text FROM documents ORDER BY document") == [("matrix",), ("rows",)]


def test_a_corpus_without_any_token_is_refused(catalog: Catalog, llama: LanguageModel, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "d.jsonl", ["", "  "])
    with pytest.raises(InputError, match="corpus 'docs' holds no text: none of its 2 documents has a token"):
        ingest(catalog, llama, path)
    assert catalog.rows("FROM corpora") == []


def test_a_shard_ends_with_the_document_that_fills_it(catalog: Catalog, llama: LanguageModel, lines: Path) -> None:
    ingest(catalog, llama, lines)
    shards = catalog.rows(
        "SELECT shard, sum(tokens), arg_max(tokens, document) FROM documents GROUP BY shard ORDER BY shard"
    )
    assert [shard for shard, *_ in shards] == list(range(len(shards)))
    assert len(shards) > 2
    for _, tokens, last in shards[:-1]:
        assert tokens - last < 300 <= tokens


def test_shard_files_are_recorded_with_rows_size_and_digest(
    catalog: Catalog, llama: LanguageModel, lines: Path
) -> None:
    ingest(catalog, llama, lines)
    recorded = catalog.rows("SELECT path, relation, shard, rows, bytes, blake2b FROM shards")
    for path, relation, shard, rows, size, digest in recorded:
        file = catalog.data / path
        assert (file.stat().st_size, file_digest(file)) == (size, digest)
        assert catalog.value(f"SELECT count(*) FROM {relation} WHERE shard = ?", [shard]) == rows
    assert {relation for _, relation, *_ in recorded} == {"documents", "tokens"}
    there = {path for folder in ("documents", "tokens") for path in (catalog.data / "main" / folder).iterdir()}
    assert there == {catalog.data / path for path, *_ in recorded}


def test_the_same_source_again_adds_nothing_and_makes_no_snapshot(
    catalog: Catalog, llama: LanguageModel, lines: Path
) -> None:
    first, before = ingest(catalog, llama, lines), catalog.snapshot()
    again = ingest(catalog, llama, lines)
    assert (again.documents, again.added, again.tokens) == (first.documents, 0, first.tokens)
    assert catalog.snapshot() == before


def test_a_grown_source_appends_only_what_is_new(catalog: Catalog, llama: LanguageModel, lines: Path) -> None:
    ingest(catalog, llama, lines)
    before = content(catalog, "documents", "tokens")
    write_lines(lines, texts(45)[::-1])
    report = ingest(catalog, llama, lines)
    assert (report.documents, report.added) == (45, 15)
    after = content(catalog, "documents", "tokens")
    for table, rows in before.items():
        assert after[table][: len(rows)] == rows
    assert [row[8] for row in after["documents"][30:]] == texts(45)[:29:-1]
    assert [row[2] for row in after["tokens"]] == list(range(report.tokens))


def test_max_tokens_takes_a_sample_that_does_not_depend_on_order(
    tmp_path: Path, llama: LanguageModel, new_catalog: Callable[[str], Path]
) -> None:
    taken = []
    for seed in range(2):
        documents = texts(60)
        random.Random(seed).shuffle(documents)
        path = write_lines(tmp_path / f"{seed}.jsonl", documents)
        with Catalog(new_catalog(str(seed))) as catalog:
            report = ingest(catalog, llama, path, max_tokens=500)
            taken.append([hash for (hash,) in catalog.rows("SELECT hash FROM documents ORDER BY document")])
            last = catalog.value("SELECT arg_max(tokens, document) FROM documents")
            assert report.tokens - last < 500 <= report.tokens
            splits = [split for (split,) in catalog.rows("SELECT split FROM documents")]
    assert taken[0] == taken[1]
    assert splits.count("train") > len(splits) / 2


def test_a_corpus_keeps_its_model_and_context_length(
    catalog: Catalog, llama: LanguageModel, llama_folder: Path, lines: Path
) -> None:
    ingest(catalog, llama, lines)
    with pytest.raises(InputError, match="was cut for model 'tiny' with ctx_len 16, not 'tiny' with 24"):
        ingest(catalog, llama, lines, ctx_len=24)


def test_a_corpus_keeps_its_splits(catalog: Catalog, llama: LanguageModel, lines: Path) -> None:
    ingest(catalog, llama, lines, val=0.2, test=0.3)
    found = [split for (split,) in catalog.rows("SELECT split FROM documents")]
    keys = [key for (key,) in catalog.rows("SELECT hash FROM documents")]
    assert found == [
        ("train", "val", "test")[(int(key[:16], 16) / 2**64 >= 0.5) + (int(key[:16], 16) / 2**64 >= 0.7)]
        for key in keys
    ]
    with pytest.raises(InputError, match=r"has val = 0.2 and test = 0.3, and the study says val = 0.2 and test = 0.1"):
        ingest(catalog, llama, lines, val=0.2)


def test_a_corpus_of_before_there_were_shares_was_split_by_the_defaults(
    catalog: Catalog, llama: LanguageModel, lines: Path
) -> None:
    ingest(catalog, llama, lines)
    with catalog.write("as an earlier version wrote it") as tx:
        tx.execute('UPDATE lake.corpora SET source = json_merge_patch(source, \'{"val": null, "test": null}\')')
    assert ingest(catalog, llama, lines).added == 0
    with pytest.raises(InputError, match=r"has val = 0.1 and test = 0.1"):
        ingest(catalog, llama, lines, test=0.5)


def test_an_interrupted_corpus_keeps_its_context_length_too(
    catalog: Catalog, llama: LanguageModel, lines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PowerCut(BaseException):
        pass

    def cut(*_: object) -> None:
        raise PowerCut

    monkeypatch.setattr(corpus_module, "record_corpus", cut)
    with pytest.raises(PowerCut):
        ingest(catalog, llama, lines)
    monkeypatch.undo()
    with pytest.raises(InputError, match="was cut for model 'tiny' with ctx_len 16"):
        ingest(catalog, llama, lines, ctx_len=24)
    assert ingest(catalog, llama, lines).documents == 30


def test_a_context_longer_than_the_model_reads_is_refused(catalog: Catalog, llama: LanguageModel, lines: Path) -> None:
    with pytest.raises(InputError, match="ctx_len 40, and model 'tiny' reads at most 32 tokens"):
        ingest(catalog, llama, lines, ctx_len=40)


def test_a_token_that_the_model_has_no_embedding_for_is_refused(
    catalog: Catalog, llama_folder: Path, tmp_path: Path, lines: Path
) -> None:
    model = loaded(llama_folder)
    model.tokenizer.add_tokens(["matrix"] + [f"extra{i}" for i in range(320 - len(model.tokenizer))] + ["columns"])
    with pytest.raises(InputError, match=r"holds token 321 .*columns.* 320 tokens"):
        ingest(catalog, model, lines)


def test_what_was_left_out_is_recorded_under_its_reason(catalog: Catalog, llama: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps({"text": "matrix"}) + '\n{"text": "\\ud800"}\n')
    ingest(catalog, llama, path)
    assert catalog.rows("SELECT stage, subject, reason, count FROM problems") == [
        ("text:docs", "d.jsonl:2", "text with half of a surrogate pair", 1)
    ]


def test_a_broken_line_costs_one_line_and_a_mended_file_ends_as_if_never_broken(
    catalog: Catalog, llama: LanguageModel, lines: Path, new_catalog: Callable[[str], Path]
) -> None:
    whole = lines.read_text()
    lines.write_text(whole[:-40] + "\n")
    assert ingest(catalog, llama, lines).documents == 29
    assert catalog.rows("FROM problems") == [("text:docs", "docs.jsonl:30", "line that is not JSON", 1)]
    lines.write_text(whole)
    ingest(catalog, llama, lines)
    with Catalog(new_catalog("undisturbed")) as other:
        ingest(other, llama, lines)
        assert [row[8] for row in content(catalog, "documents")["documents"]] == texts(30)
        assert content(catalog, "problems") == content(other, "problems")
        hashes = "SELECT document, hash FROM documents ORDER BY document"
        assert catalog.rows(hashes) == other.rows(hashes)


def test_a_source_that_is_gone_is_refused_before_anything_is_written(
    catalog: Catalog, llama: LanguageModel, lines: Path
) -> None:
    before = catalog.snapshot()
    with pytest.raises(InputError, match="no file matches"):
        ingest(catalog, llama, lines.with_name("gone.jsonl"))
    assert catalog.snapshot() == before
