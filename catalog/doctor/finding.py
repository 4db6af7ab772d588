"""Defines a finding of `doctor`, and what each check is given."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from catalog.store.catalog import Catalog

Severity = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One result of one check."""

    check: str
    severity: Severity
    subject: str
    """Table, file, collection or SAE; empty if the check found nothing wrong."""
    detail: str
    fixed: bool = False


@dataclass(frozen=True)
class Examination:
    """What each check is given."""

    catalog: Catalog
    fix: bool
    sample: int | None
    """How many shard files, and parts of each step, are read whole, at random; None for all."""
    age: timedelta
    """What is younger may belong to a commit that is under way."""
