"""Examine a catalog: schema, keys, parts, files, vectors, weights. What is broken stops nothing else.

`fix=True` removes what no snapshot names (orphaned files, unnamed Lance versions) and changes nothing else.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import nullcontext
from datetime import timedelta

import duckdb

from catalog.doctor.check_files import lost_files, orphans, shard_files, weight_files
from catalog.doctor.check_parts import parts
from catalog.doctor.check_rows import activations, harvest, keys, schema, views
from catalog.doctor.check_vectors import vector_rows, vector_versions
from catalog.doctor.finding import Examination, Finding
from catalog.errors import CatalogError, SaeqlError, UnknownName, first_line
from catalog.store.catalog import Catalog
from catalog.store.locks import locked

CHECKS: dict[str, Callable[[Examination], Iterator[Finding]]] = {
    "schema": schema,
    "files": lost_files,
    "shards": shard_files,
    "orphans": orphans,
    "weights": weight_files,
    "keys": keys,
    "parts": parts,
    "views": views,
    "activations": activations,
    "harvest": harvest,
    "vector versions": vector_versions,
    "vector rows": vector_rows,
}


def examine(
    catalog: Catalog,
    *,
    fix: bool = False,
    sample: int | None = None,
    age: timedelta = timedelta(hours=1),
    only: Collection[str] | None = None,
) -> list[Finding]:
    """Run every check, or those in `only`; one finding of severity "ok" for each that found nothing.

    `sample` limits how many shard files, and parts of each step, are read whole (all by default; sizes are always
    compared). With `fix`, garbage older than `age` is removed. Raises UnknownName for a check that there is not,
    CatalogError for `fix` on a catalog that is open for reading, and CatalogLocked for `fix` during a refresh: what
    a refresh has written is named only when it commits.
    """
    unknown = sorted(set(only or ()) - CHECKS.keys())
    if unknown:
        raise UnknownName(f"there is no check {unknown[0]!r}; known: {', '.join(CHECKS)}")
    if fix and catalog.read_only:
        raise CatalogError("this catalog is open for reading: it can be examined, not mended")
    examination = Examination(catalog, fix, sample, age)
    found: list[Finding] = []
    with locked(catalog.root / "refresh.lock", wait=0) if fix else nullcontext():
        for name, check in CHECKS.items():
            if only is not None and name not in only:
                continue
            results: list[Finding] = []
            try:
                for finding in check(examination):
                    results.append(finding)
            except (duckdb.Error, SaeqlError, OSError, ValueError) as error:
                # A damaged catalog may fail anywhere: the check that tripped over it is itself a finding.
                results.append(Finding(name, "error", "", f"could not be examined: {first_line(error)}"))
            found += results or [Finding(name, "ok", "", "nothing wrong")]
    return found
