"""Temporary tables with names of their own: they hold what was put in, and are gone with their work."""

from contextlib import suppress
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from catalog import Catalog
from catalog.store.scratch import Scratch
from tests.empty import make_empty


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return make_empty(tmp_path / "catalog")


def temporary(catalog: Catalog) -> int:
    found = catalog.value("SELECT count(*) FROM duckdb_tables() WHERE temporary")
    return int(found)


def test_rows_have_the_types_of_the_table_and_null_where_nothing_was_said(catalog: Catalog) -> None:
    with catalog.scratch() as scratch:
        made = scratch.rows([{"sae": "s", "feature": 1}, {"feature": 2, "label": "'; DROP TABLE x"}], like="labels")
        there = catalog.rows("DESCRIBE lake.labels")
        assert [row[:2] for row in catalog.rows(f"DESCRIBE {made}")] == [row[:2] for row in there]
        kept = catalog.rows(f"SELECT sae, feature, label FROM {made} ORDER BY feature")
        assert kept == [("s", 1, None), (None, 2, "'; DROP TABLE x")]
        assert catalog.rows(f"FROM {scratch.rows([], like='labels')}") == []


def test_tuples_and_arrow_come_back_as_they_were(catalog: Catalog) -> None:
    with catalog.scratch() as scratch:
        rows = [("a", 1), ('quo"te', -5), (None, None)]
        assert catalog.rows(f"FROM {scratch.tuples(rows, {'name': 'VARCHAR', 'n': 'BIGINT'})}") == rows
        assert catalog.rows(f"FROM {scratch.tuples([], {'name': 'VARCHAR'})}") == []
        table = pa.table({"x": [1, 2]})
        made = scratch.arrow(table)
        assert catalog.rows(f"FROM {scratch.arrow(table, into=made)} ORDER BY x") == [(1,), (1,), (2,), (2,)]


def test_two_works_on_one_connection_do_not_meet_and_leave_nothing(catalog: Catalog) -> None:
    before = temporary(catalog)
    with catalog.scratch() as first, catalog.scratch() as second:
        made = [scratch.query("SELECT ? AS n", [n]) for n, scratch in enumerate((first, second, first))]
        assert [catalog.rows(f"FROM {relation}") for relation in made] == [[(0,)], [(1,)], [(2,)]]
    assert temporary(catalog) == before
    with pytest.raises(duckdb.CatalogException):
        catalog.rows(f"FROM {made[0]}")


def test_a_rollback_and_a_failed_query_leave_nothing_either(catalog: Catalog) -> None:
    before = temporary(catalog)
    with catalog.scratch() as scratch, catalog.reading():
        scratch.query("SELECT 1")
        with pytest.raises(duckdb.ConversionException):
            scratch.query("SELECT 'x'::INTEGER AS n")
    assert temporary(catalog) == before
    with suppress(ZeroDivisionError), Scratch(catalog.connection) as scratch:
        scratch.query("SELECT 1")
        raise ZeroDivisionError
    assert temporary(catalog) == before


def test_a_transaction_tells_reads_from_changes(catalog: Catalog) -> None:
    snapshot = catalog.snapshot()
    with catalog.write("looked") as tx:
        assert tx.rows("SELECT count(*) FROM lake.labels") == [(0,)]
        assert not tx.changed
    assert catalog.snapshot() == snapshot
    with catalog.write("changed") as tx:
        tx.insert("leaks", [{"corpus": "c", "position": 3}])
        assert tx.rows("SELECT position FROM lake.leaks") == [(3,)]
    assert catalog.snapshot() == snapshot + 1
