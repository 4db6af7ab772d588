"""A session in Python: one connection for all its threads, results in every form, and never a catalog made anew."""

import os
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.cells import cell_len

import queries
import saeql
from catalog import Catalog
from catalog.errors import CatalogError, InputError, SaeqlError, UnknownName
from catalog.store.migrations import migrations
from queries.ask.query_vectors import query_vector
from queries.session import Session, connect
from queries.terminal.answer import Result


def test_both_doors_lead_to_the_same_session(made_root: Path) -> None:
    assert saeql.connect is queries.connect is connect
    with saeql.connect(made_root) as session:
        assert session.sql("SELECT count(*) AS n FROM features").rows() == [{"n": 9}]


def test_a_session_opens_one_connection_and_only_when_it_is_needed(
    made_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    real = Catalog.__init__

    def counted(self: Catalog, *arguments: Any, **named: Any) -> None:
        opened.append(arguments)
        real(self, *arguments, **named)

    monkeypatch.setattr(Catalog, "__init__", counted)
    with Session(made_root) as session:
        assert not opened
        session.feature(0)
        session.feature(1)
        session.diff(0)
        session.plan("feature_sums")
        assert len(opened) == 1


def test_threads_share_a_session(made_root: Path) -> None:
    with Session(made_root) as session:
        alone = [session.feature(number) for number in range(3)]
        begin = threading.Barrier(3)

        def ask(_: int) -> Any:
            begin.wait()
            return [session.feature(number) for number in range(3)]

        with ThreadPoolExecutor(3) as threads:
            assert list(threads.map(ask, range(3))) == [alone] * 3


def test_a_session_sees_what_is_committed_after_it_was_opened(mine: Catalog) -> None:
    with Session(mine.root) as session, session.reading() as before:
        then = before.newest()
        with mine.write("more") as tx:
            tx.insert("problems", [{"stage": "s", "subject": "t", "reason": "r", "count": 7}])
        with session.reading() as after:
            assert after.newest() == then + 1
        assert session.sql("SELECT count FROM problems WHERE stage = 's'").rows() == [{"count": 7}]
        assert [row["table"] for row in session.diff(then)] == ["problems"]
        with session.at(then) as old:
            assert old.sql("SELECT count FROM problems WHERE stage = 's'").rows() == []
            assert old.diff(0) == session.diff(0, then)


def test_a_catalog_that_is_gone_is_not_made_anew(made_root: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(made_root, tmp_path / "gone"))
    session = connect(root)
    shutil.rmtree(root)
    for ask in (
        session.refresh,
        session.plan,
        lambda: session.feature(0),
        lambda: session.search("x"),
        lambda: session.diff(0),
        lambda: session.at(0),
        lambda: session.sql("SELECT 1"),
    ):
        with pytest.raises(CatalogError, match="holds no catalog"):
            ask()
    assert not root.exists()


def test_another_catalog_in_the_same_place_is_read_from_then_on(made_root: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(made_root, tmp_path / "place"))
    with connect(root) as session:
        shutil.rmtree(root)
        Catalog.create(root).close()
        with pytest.raises(UnknownName, match="has no SAE"):
            session.feature(0)


def test_a_closed_session_says_so(made_root: Path) -> None:
    with connect(made_root) as session:
        pass
    session.close()
    for ask in (lambda: session.sql("SELECT 1"), lambda: session.feature(0), session.refresh, lambda: session.at(0)):
        with pytest.raises(SaeqlError, match="is closed"):
            ask()
    with pytest.raises(CatalogError, match="is closed"), session:
        pass


def test_a_session_at_a_snapshot_reads_it_and_writes_nothing(mine: Catalog) -> None:
    with connect(mine.root) as session:
        with session.at(mine.newest()) as same:
            assert same.feature(0) == session.feature(0)
            for refused in (same.refresh, same.plan):
                with pytest.raises(InputError, match="reads snapshot"):
                    refused()
        with session.at(0) as empty, pytest.raises(CatalogError, match="snapshot 0 does not have"):
            empty.feature(0)
        with pytest.raises(UnknownName, match="999"):
            session.at(999)
        with pytest.raises(UnknownName, match="nonsense"):
            session.at("nonsense")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")
def test_a_forked_process_opens_a_connection_of_its_own(made_root: Path) -> None:
    with connect(made_root) as session:
        expected = session.feature(0)
        child = os.fork()
        if not child:
            os._exit(0 if session.feature(0) == expected else 1)
        assert os.waitpid(child, 0)[1] == 0


# --- results


def test_parameters_are_named_listed_or_of_numpy(made_root: Path) -> None:
    with Session(made_root) as session:
        query = "SELECT feature FROM features WHERE feature < $most ORDER BY feature"
        expected = [{"feature": 0}, {"feature": 1}]
        assert session.sql(query, most=2).rows() == expected
        assert session.sql(query, {"most": np.int64(2)}).rows() == expected
        assert session.sql(query.replace("$most", "?"), parameters=[2]).rows() == expected
        assert session.sql("SELECT $query AS q, $self AS s", query="'; --", self=1).rows() == [{"q": "'; --", "s": 1}]
        with pytest.raises(InputError, match="not both"):
            session.sql(query, [1], most=2)


def test_a_result_is_iterated_counted_and_taken_as_arrow() -> None:
    table = pa.table({"a": [1, 2], "b": ["x", None]})
    found = Result(table)
    assert (len(found), found.columns) == (2, ["a", "b"])
    assert list(found) == found.rows() == found.to_pylist() == [{"a": 1, "b": "x"}, {"a": 2, "b": None}]
    assert found.arrow() == pa.table(found) == table
    twice = Result(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["n", "n"]))
    assert twice.rows() == [{"n": 1, "n_1": 2}]


@pytest.mark.parametrize(("method", "package"), [("df", "pandas"), ("pl", "polars")])
def test_a_missing_frame_library_is_named(method: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"{method}.. needs {package}: pip install {package}"):
        getattr(Result(pa.table({"a": [1]})), method)()


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_a_result_is_printed_within_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    values = {f"column_{i}": ["word " * 10_000, None, "\x1b[2J\u202e\n"] * 40 for i in range(12)}
    shown = repr(Result(pa.table({"n": [float("nan"), 1 / 3, 1e9] * 40, **values}))).splitlines()
    assert "... 120 rows" in shown
    assert all(cell_len(line) <= columns for line in shown)
    named = " ".join(shown[shown.index("... 120 rows") :])
    # What has no room is named, as far as there is room for names.
    assert "columns not" in named or columns == 200
    assert "NULL" in shown[2] or columns < 80
    assert not {"\x1b", "\u202e"} & set("".join(shown))
    assert repr(Result(pa.table({"a": pa.array([], pa.int64())}))) == "a\n(no rows)"


def test_html_holds_no_markup_of_the_data() -> None:
    bad = "<script>alert(1)</script>&\"'\x1b\u202e"
    page = Result(pa.table({bad: [bad] * 60, "n": range(60)}))._repr_html_()
    assert "<script" not in page
    assert not {"\x1b", "\u202e"} & set(page)
    assert page.count("&lt;script&gt;") == 51
    assert "50 of 60 rows" in page


# --- search


def test_a_text_that_was_searched_before_needs_no_encoder(mine: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def embed(texts: list[str]) -> np.ndarray:
        asked.append(texts)
        return np.eye(1, 384, dtype=np.float32)

    monkeypatch.setattr("ingest.model.embed.embed", embed)
    first = query_vector(mine, "a secret")
    assert np.array_equal(query_vector(mine, "a secret"), first)
    assert asked == [["a secret"]]
    (kept,) = (mine.cache / "queries").iterdir()
    assert "secret" not in kept.name
    for damaged in (b"", b"abc", kept.read_bytes() * 2, np.full(384, np.nan, "<f4").tobytes()):
        kept.write_bytes(damaged)
        assert np.array_equal(query_vector(mine, "a secret"), first)
    assert len(asked) == 5
    monkeypatch.setattr("queries.ask.query_vectors._version", lambda package: "0")
    query_vector(mine, "a secret")
    assert len(asked) == 6


def test_an_unknown_name_in_a_catalog_of_an_older_schema_says_what_brings_it_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = migrations()
    sae = {"sae": "s", "model": "m", "hookpoint": "h", "architecture": "topk", "width": 1, "d": 1}
    with monkeypatch.context() as patched:
        patched.setattr("catalog.store.migrations.migrations", lambda: known[:2])
        with Catalog.create(tmp_path) as catalog, catalog.write("sae") as tx:
            tx.insert("saes", [{**sae, "weights": "-", "digest": "-", "config": "{}"}])
    advice = f"has schema 2 of {len(known)}: .*; `saeql refresh` brings it up to date$"
    with connect(tmp_path) as cat:
        # `features` is of a later migration.
        for query in ("FROM features", "SELECT no_such FROM problems"):
            with pytest.raises(UnknownName, match=advice):
                cat.sql(query)
        with pytest.raises(UnknownName, match=f"features.*{advice}"):
            cat.feature(0)
        with pytest.raises(UnknownName, match=advice):
            cat.search("matrix")
        assert cat.sql("SELECT count(*) AS n FROM problems").rows() == [{"n": 0}]
    Catalog.create(tmp_path).close()
    with connect(tmp_path) as cat, pytest.raises(UnknownName) as refused:
        cat.sql("SELECT no_such FROM problems")
    assert "schema" not in str(refused.value)
