"""Checks parts of tables: their rows are those that a refresh recorded when it made them."""

import json
import random
from collections.abc import Iterator
from typing import Any

from catalog.doctor.finding import Examination, Finding
from catalog.quote import content, named
from catalog.store.catalog import Catalog


def parts(examination: Examination) -> Iterator[Finding]:
    """The rows of each part, of a sample of them or of all, have the count and the digest that were recorded.

    A step whose parts keep these fills the table of its own name.
    """
    catalog = examination.catalog
    recorded: dict[str, dict[str, tuple[int, str]]] = {}
    kept = "SELECT step, part, rows, content FROM partitions WHERE content IS NOT NULL ORDER BY ALL"
    for step, part, rows, digest in catalog.rows(kept):
        recorded.setdefault(step, {})[part] = rows, digest
    tables = {row[0] for row in catalog.rows("SELECT table_name FROM ducklake_table_info('lake')")}
    for step, made in recorded.items():
        if step not in tables:
            continue
        chosen = list(made)
        if examination.sample is not None:
            chosen = random.sample(chosen, min(len(chosen), examination.sample))
        for part in chosen:
            found = _found(catalog, step, json.loads(part))
            if found != made[part]:
                yield Finding("parts", "error", step, _detail(step, part, found[0], made[part][0]))


def _found(catalog: Catalog, table: str, part: dict[str, Any]) -> tuple[int, str]:
    """(rows, digest of the rows) of a part now."""
    where = " AND ".join(f"{named(column)} = ?" for column in part)
    found = f"SELECT count(*), {content('t')} FROM lake.{named(table)} AS t WHERE {where}"
    rows = catalog.rows(found, list(part.values()))
    return int(rows[0][0]), str(rows[0][1])


def _detail(step: str, part: str, rows: int, made: int) -> str:
    said = ", ".join(f"{column} = {value!r}" for column, value in json.loads(part).items())
    what = f"has {rows} rows, not {made}" if rows != made else f"has other rows than the {made} that were made"
    return (
        f"the part {said} {what}: `saeql rollback {step} --to` a snapshot before that, then `saeql refresh` "
        "makes it anew"
    )
