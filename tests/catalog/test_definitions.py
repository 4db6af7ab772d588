"""The list of columns and views that migrations make is what they make."""

import json
from importlib import resources

from catalog.store.migrations import newest
from catalog.store.write_definitions import migrated
from catalog.trust.definitions import made


def test_the_list_is_what_the_migrations_make() -> None:
    kept = json.loads((resources.files("catalog") / "schema" / "definitions.json").read_text())
    assert migrated() == kept, "run python -m catalog.store.write_definitions after a change of catalog/schema"


def test_each_migration_has_its_state() -> None:
    assert len(made().after) == newest() + 1
    assert made().after[0] == frozenset()
    one = {definition.name for definition in made().after[1] if definition.kind == "column"}
    assert {"migrations.number", "migrations.name", "saes.weights"} <= one
    assert made().after[newest()] < made().every
