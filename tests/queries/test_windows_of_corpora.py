"""Windows over several corpora: ranks that run through all of them, also when one of them grows, and older catalogs."""

from pathlib import Path

from catalog import Catalog, Location
from catalog.store.connection import connect
from catalog.store.migrations import migrate
from queries.refresh.engine import refresh
from tests.catalog.small_catalog import shard


def copy_shard(catalog: Catalog, corpus: str, number: int) -> None:
    """A shard of corpus c once more, in another corpus."""
    for relation in ("documents", "tokens", "activations"):
        these = f"lake.{relation} WHERE corpus = 'c' AND shard = {number}"
        rows = catalog.arrow(f"SELECT * REPLACE ('{corpus}' AS corpus) FROM {these}")
        with catalog.write(f"{corpus} {relation}") as tx:
            path = shard(catalog, tx, relation, rows, number, "s" if relation == "activations" else None)
            place = str(path.relative_to(catalog.data))
            tx.execute("UPDATE lake.shards SET corpus = ? WHERE path = ?", [corpus, place])


def top(catalog: Catalog) -> list[tuple[object, ...]]:
    return catalog.rows("SELECT * FROM contexts WHERE kind = 'top' ORDER BY feature, rank")


def test_top_contexts_of_corpora_that_grow_are_those_of_all_text_at_once(mine: Catalog) -> None:
    for corpus, number in (("b", 0), ("b", 1), ("d", 1)):
        copy_shard(mine, corpus, number)
        assert [r.error for r in refresh(mine, ("contexts_top",)) if r.error] == []
    grown = top(mine)
    places = [(row[2], row[6]) for row in grown]
    assert len(set(places)) == len(places), "a rank stands once in a feature, whatever the corpus"
    assert {row[1] for row in grown} == {"b", "c", "d"}
    with mine.write("forget what was made") as tx:
        for table in ("runs", "partitions"):
            tx.execute(f"DELETE FROM lake.{table} WHERE step = 'contexts_top'")
    results = {r.step: r for r in refresh(mine, ("contexts_top",))}
    assert results["contexts_top"].error is None
    assert top(mine) == grown


def test_a_catalog_with_ranks_within_corpora_loses_them_and_keeps_the_rest(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    connection = connect(Location(tmp_path), read_only=False, create=True)
    migrate(connection, until=13)
    window = "('s', '{}', 1, 'top', 'train', 0, 1, 0, 8, 2, 1.5)"
    connection.execute(f"INSERT INTO lake.contexts VALUES {window.format('a')}, {window.format('b')}")
    connection.execute("INSERT INTO lake.scorers VALUES ('d', 'detection', 'lexical', NULL, 50, '{}')")
    connection.execute("INSERT INTO lake.explainers VALUES ('e', 'lexical', NULL, '{}')")
    connection.close()
    with Catalog.writable(tmp_path) as catalog:
        assert catalog.rows("SELECT count(*) FROM contexts") == [(0,)]
        assert catalog.rows("SELECT threshold, nulls, examples FROM scorers") == [(0.3, 1, 50)]
        assert catalog.rows("SELECT threshold FROM explainers") == [(0.3,)]
        assert catalog.rows("SELECT * FROM firing_rates") == []
