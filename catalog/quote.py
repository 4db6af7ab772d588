"""Makes SQL text from names and values."""

from pathlib import Path


def named(name: str) -> str:
    """A SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def content(rows: str) -> str:
    """SQL for the digest of the rows of a relation with this alias: a sum, since rows have no order."""
    return f"coalesce(sum(md5_number_lower({rows}::VARCHAR)), 0)::VARCHAR"


def quoted(text: str | Path) -> str:
    """A SQL string literal."""
    return "'" + str(text).replace("'", "''") + "'"


TABLES = "__ducklake_metadata_lake"
"""The database of DuckLake's own tables. They are named without a schema, which differs with its kind."""
