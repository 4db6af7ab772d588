"""New text for a catalog that is there: read alone, counted, and as if it had always been there."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from catalog import Catalog
from catalog.errors import InputError, UnknownName
from catalog.study.file import Study
from ingest.add import add_text
from ingest.pipeline import ingest_study

TEXTS = [
    "The determinant of a matrix is the product of its eigenvalues, counted with multiplicity.",
    "A train to Leeds leaves at noon; bring bread, two lamps and a map of the northern canals.",
    "Rows and columns of a linear system may be exchanged without changing its solutions.",
]


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "notes.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*TEXTS, TEXTS[0], "   "]))
    return path


def tables(catalog: Catalog) -> dict[str, Any]:
    """Documents, tokens and activations by what they are, not by when they came."""
    place = "d.hash, t.position - d.start AS at"
    joined = "tokens AS t JOIN documents AS d ON (d.corpus, d.document) = (t.corpus, t.document)"
    return {
        "documents": catalog.rows("SELECT hash, split, tokens, text FROM documents ORDER BY ALL"),
        "tokens": catalog.rows(f"SELECT {place}, t.token, t.length, t.shingle FROM {joined} ORDER BY ALL"),
        "activations": catalog.rows(
            f"SELECT {place}, a.feature, a.activation FROM activations AS a "
            "JOIN tokens AS t ON t.corpus = a.corpus AND t.position = a.position "
            "JOIN documents AS d ON (d.corpus, d.document) = (t.corpus, t.document) ORDER BY ALL"
        ),
    }


def test_only_the_new_documents_are_tokenised_and_harvested(own: Path, notes: Path) -> None:
    with Catalog(own) as catalog:
        before = set(catalog.rows("SELECT path, blake2b FROM shards"))
        counted = catalog.rows("SELECT documents, tokens FROM corpora")[0]
        report = add_text(catalog, "docs", [notes])
        assert (report.text.added, report.text.known, report.text.duplicates, report.text.empty) == (3, 0, 1, 1)
        assert before < set(catalog.rows("SELECT path, blake2b FROM shards"))
        new = catalog.rows(
            "SELECT text FROM documents WHERE shard = (SELECT max(shard) FROM documents) ORDER BY document"
        )
        assert [text for (text,) in new] == TEXTS
        tokens = catalog.value("SELECT sum(tokens)::BIGINT FROM documents") - counted[1]
        assert report.harvest.tokens == tokens > 0
        assert report.harvest.shards == 1
        assert catalog.rows("SELECT documents, tokens FROM corpora")[0] == (counted[0] + 3, counted[1] + tokens)
        said = json.loads(catalog.value("SELECT source FROM corpora"))
        assert said["added"] == [str(notes)]


def test_new_text_is_split_as_the_corpus_is(own: Path, tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps({"text": f"Line {i} of a text about matrices."}) + "\n" for i in range(100)))
    with Catalog(own) as catalog:
        with catalog.write("a corpus of other shares") as tx:
            tx.execute('UPDATE lake.corpora SET source = json_merge_patch(source, \'{"val": 0.01, "test": 0.9}\')')
        before = catalog.value("SELECT max(document) FROM documents")
        add_text(catalog, "docs", [path])
        split = catalog.rows("SELECT split FROM documents WHERE document > ?", [before])
        assert sum(one == "test" for (one,) in split) > 75


def test_text_that_is_there_is_known_and_nothing_is_written(own: Path, notes: Path) -> None:
    with Catalog(own) as catalog:
        add_text(catalog, "docs", [notes])
        before = catalog.snapshot()
        again = add_text(catalog, "docs", [notes])
        assert (again.text.added, again.text.known, again.harvest.shards) == (0, 3, 0)
        assert catalog.snapshot() == before


def test_an_ingest_after_it_trains_no_sae_and_harvests_nothing(own: Path, notes: Path) -> None:
    with Catalog(own) as catalog:
        add_text(catalog, "docs", [notes])
        digest = catalog.value("SELECT digest FROM saes")
        report = ingest_study(catalog, Study.load(own / "study.toml"))
        assert report.trained == []
        assert report.harvest.shards == 0
        assert catalog.value("SELECT digest FROM saes") == digest
        assert catalog.value("SELECT count(*) FROM documents WHERE list_contains(?, text)", [TEXTS]) == 3


def test_two_additions_give_the_rows_of_one(own: Path, notes: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(own, tmp_path / "other"))
    parts = []
    for i, text in enumerate(reversed(TEXTS)):
        parts.append(tmp_path / f"part{i}.txt")
        parts[-1].write_text(text)
    with Catalog(own) as one, Catalog(other) as many:
        add_text(one, "docs", [notes])
        for part in parts:
            add_text(many, "docs", [part])
        first, second = tables(one), tables(many)
    assert first["documents"] == second["documents"]
    assert first["tokens"] == second["tokens"]
    assert len(first["activations"]) > 0
    # The same sequences stand in batches of other shapes, whose sums are rounded otherwise.
    same = {row[:3]: row[3] for row in second["activations"]}
    shared = [(row[3], same[row[:3]]) for row in first["activations"] if row[:3] in same]
    assert len(shared) > 0.995 * len(first["activations"])
    assert all(a == pytest.approx(b, rel=2e-3) for a, b in shared)


@pytest.mark.parametrize(
    ("corpus", "name", "content", "message"),
    [
        ("dox", "a.txt", b"text", "there is no corpus 'dox' to add to; known: docs"),
        ("docs", "b.txt", None, "b.txt is no file"),
        ("docs", "c.txt", b"\xff\xfe\xfa", "c.txt"),
        ("docs", "d.jsonl", b'{"text": 1}\n', "d.jsonl"),
        ("docs", "e.parquet", b"no parquet", "e.parquet"),
    ],
)
def test_what_cannot_be_added_is_named(
    own: Path, tmp_path: Path, corpus: str, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with Catalog(own) as catalog:
        before = catalog.snapshot()
        with pytest.raises((InputError, UnknownName), match=message):
            add_text(catalog, corpus, [path])
        assert catalog.snapshot() == before


def test_a_model_that_is_another_now_is_refused(own: Path, notes: Path) -> None:
    with Catalog(own) as catalog:
        with catalog.write("another model") as tx:
            tx.execute("UPDATE lake.models SET digest = 'other', bos = 300")
        with pytest.raises(InputError, match=r"built from \(weights or tokenizer differ; bos is .*, and was token 300"):
            add_text(catalog, "docs", [notes])


def test_an_addition_that_was_cut_off_between_its_commits_is_counted_by_the_next(
    own: Path, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Catalog(own) as catalog:
        counted = catalog.rows("SELECT documents, tokens FROM corpora")[0]

        def cut(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr("ingest.text.corpus._total", cut)
            with pytest.raises(KeyboardInterrupt):
                add_text(catalog, "docs", [notes])
        assert catalog.rows("SELECT documents, tokens FROM corpora")[0] == counted
        report = add_text(catalog, "docs", [notes])
        assert (report.text.added, report.text.known, report.harvest.shards) == (0, 3, 1)
        assert catalog.rows("SELECT documents FROM corpora")[0] == (counted[0] + 3,)
