"""One made catalog, refreshed, for the tests of this folder."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from catalog import Catalog
from tests.once import once
from tests.queries.made import make, refresh_made


@pytest.fixture(scope="session")
def raw_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made catalog before its first refresh. Not to be written to."""
    return once(tmp_path_factory, "raw", make)


@pytest.fixture(scope="session")
def made_root(raw_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made catalog, refreshed. Not to be written to."""

    def build(root: Path) -> None:
        shutil.copytree(raw_root, root, dirs_exist_ok=True)
        with Catalog(root) as catalog:
            refresh_made(catalog)

    return once(tmp_path_factory, "made", build)


@pytest.fixture
def mine(made_root: Path, tmp_path: Path) -> Iterator[Catalog]:
    """A copy of the refreshed catalog, open, that a test may change."""
    with Catalog(shutil.copytree(made_root, tmp_path / "mine")) as catalog:
        yield catalog
