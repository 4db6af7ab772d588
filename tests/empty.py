"""Empty catalogs: copies of one, since the migrations take most of a second."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from catalog import Catalog, Location


def make_empty(root: Path) -> Catalog:
    """An empty catalog, open. A folder that says where its metadata is gets it there."""
    if Location.parse(root).server:
        return Catalog.create(root)
    shutil.copytree(_template(), root, dirs_exist_ok=True)
    return Catalog(root)


@functools.cache
def _template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="saeql-empty-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    Catalog.create(folder / "catalog").close()
    return folder / "catalog"
