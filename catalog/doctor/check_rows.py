"""Checks rows: keys stand once, views run, activations lie on tokens of their shard, no harvest is half done."""

from collections.abc import Iterator
from typing import Any

import duckdb

from catalog.doctor.finding import Examination, Finding
from catalog.errors import CatalogError
from catalog.quote import named
from catalog.schema.keys import KEYS
from catalog.store.catalog import Catalog
from catalog.store.migrations import applied, migrations

# Checked shard by shard: activations on tokens of another shard are found by `activations`.
_SHARDED = {"activations": ("sae", "corpus", "shard"), "tokens": ("corpus", "shard")}


def schema(examination: Examination) -> Iterator[Finding]:
    """The schema is the newest, and each table is there."""
    catalog = examination.catalog
    newest = migrations()[-1][0]
    now = applied(catalog.connection)
    if now < newest:
        yield Finding(
            "schema", "warning", "migrations", f"schema {now} of {newest}: the next write brings it up to date"
        )
    tables = {row[0] for row in catalog.rows("SELECT table_name FROM ducklake_table_info('lake')")}
    for table in sorted(KEYS.keys() - tables) if now == newest else ():
        yield Finding("schema", "error", table, "the table is missing")


def keys(examination: Examination) -> Iterator[Finding]:
    """No key is NULL, and none stands twice."""
    catalog = examination.catalog
    files = dict(catalog.rows("SELECT table_name, file_count FROM ducklake_table_info('lake')"))
    for table, key in KEYS.items():
        if not files.get(table):
            continue  # no rows, or no table, which the check `schema` says
        try:
            yield from _bad_keys(catalog, table, key)
        except (duckdb.Error, CatalogError) as error:
            yield Finding("keys", "error", table, f"cannot be read: {str(error).partition(chr(10))[0]}")


def _bad_keys(catalog: Catalog, table: str, key: tuple[str, ...]) -> Iterator[Finding]:
    listed = ", ".join(map(named, key))
    null = " OR ".join(f"{named(column)} IS NULL" for column in key)
    by = _SHARDED.get(table, ())
    parts: list[tuple[Any, ...]] = [()]
    if by:
        parts = catalog.rows(f"SELECT DISTINCT {', '.join(by)} FROM shards WHERE relation = ?", [table])
    where = " AND ".join(f"{column} = ?" for column in by) or "true"
    for part in parts:
        bad = catalog.rows(
            f"SELECT {listed}, count(*) AS copies FROM lake.{named(table)} WHERE {where} "
            f"GROUP BY {listed} HAVING copies > 1 OR {null} LIMIT 1",
            part,
        )
        for *values, copies in bad:
            shown = ", ".join(f"{column} = {value!r}" for column, value in zip(key, values, strict=True))
            what = "rows have no value in a key column" if None in values else "rows have the same key"
            yield Finding("keys", "error", table, f"{copies} {what}: {shown}")


def views(examination: Examination) -> Iterator[Finding]:
    """Every view runs: a column that went away breaks a view without an error."""
    catalog = examination.catalog
    for (view,) in catalog.rows("SELECT view_name FROM duckdb_views() WHERE database_name = 'lake' ORDER BY 1"):
        try:
            catalog.rows(f"SELECT * FROM lake.{named(view)} LIMIT 0")
        except (duckdb.Error, CatalogError) as error:
            yield Finding("views", "error", view, f"does not run: {str(error).partition(chr(10))[0]}")


def activations(examination: Examination) -> Iterator[Finding]:
    """Each activation is above zero, of a latent that its SAE has, on a token of its shard."""
    catalog = examination.catalog
    widths = dict(catalog.rows("SELECT sae, width FROM saes"))
    tokens = {
        (corpus, shard): (first, end)
        for corpus, shard, first, end in catalog.rows(
            "SELECT corpus, shard, min(start), max(start + tokens) FROM documents GROUP BY ALL"
        )
    }
    for sae, corpus, shard, first, last, lowest, highest, least in catalog.rows(
        "SELECT sae, corpus, shard, min(position), max(position), min(feature), max(feature), min(activation) "
        "FROM activations GROUP BY ALL ORDER BY ALL"
    ):
        subject = f"{sae}, corpus {corpus}, shard {shard}"
        start, end = tokens.get((corpus, shard), (0, 0))
        if first < start or last >= end:
            detail = f"positions {first} to {last} lie outside of the shard, which holds {start} to {end - 1}"
            yield Finding("activations", "error", subject, detail)
        if sae not in widths:
            yield Finding("activations", "error", subject, "there is no such SAE")
        elif lowest < 0 or highest >= widths[sae]:
            detail = f"features {lowest} to {highest} lie outside of the SAE's {widths[sae]} latents"
            yield Finding("activations", "error", subject, detail)
        if not least > 0:
            yield Finding("activations", "error", subject, f"the activation {least} is not above zero")


def harvest(examination: Examination) -> Iterator[Finding]:
    """An SAE that was harvested on some shards of a corpus was harvested on all of them."""
    there: dict[str, set[int]] = {}
    done: dict[tuple[str, str], set[int]] = {}
    for relation, corpus, sae, shard in examination.catalog.rows("SELECT relation, corpus, sae, shard FROM shards"):
        if relation == "tokens":
            there.setdefault(corpus, set()).add(shard)
        elif relation == "activations":
            done.setdefault((sae, corpus), set()).add(shard)
    for (sae, corpus), shards in sorted(done.items()):
        missing = sorted(there.get(corpus, set()) - shards)
        if missing:
            detail = (
                f"{len(missing)} of {len(there[corpus])} shards of {corpus} have no activations, first {missing[0]}"
            )
            yield Finding("harvest", "warning", sae, f"{detail}: run ingest again")
    for (sae,) in examination.catalog.rows("SELECT sae FROM saes ORDER BY sae"):
        if sae not in {name for name, _ in done}:
            yield Finding("harvest", "warning", sae, "has no activations: run ingest again")
