"""Writes `schema/definitions.json` anew: `python -m catalog.store.write_definitions`, after each new migration."""

import json
import tempfile
from pathlib import Path

from catalog.store.connection import connect
from catalog.store.location import Location
from catalog.store.migrations import migrate, migrations
from catalog.trust.definitions import FILE, Definition, stored
from catalog.trust.schema_number import migration_digests


def migrated() -> list[list[object]]:
    """Run all migrations on an empty catalog: [from migration, until migration or None, kind, name, content] rows."""
    since: dict[Definition, int] = {}
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").mkdir()
        connection = connect(Location(Path(folder)), read_only=False, create=True)
        for number, _, _ in migrations():
            migrate(connection, until=number)
            standing = {definition for definition, stands in stored(connection) if stands}
            for gone in sorted(since.keys() - standing):
                rows.append([since.pop(gone), number, *gone])
            since |= dict.fromkeys(standing - since.keys(), number)
        connection.close()
    rows += [[first, None, *definition] for definition, first in since.items()]
    return sorted(rows, key=lambda row: (row[2], row[3], row[0]))


def main() -> None:
    """Write the list anew, beside the migrations."""
    digests = ",\n".join(f"{json.dumps(name)}: {json.dumps(made)}" for name, made in migration_digests().items())
    rows = ",\n".join(json.dumps(row) for row in migrated())
    text = f'{{"migrations": {{\n{digests}\n}},\n"definitions": [\n{rows}\n]}}\n'
    (Path(__file__).parents[1] / "schema" / FILE).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
