"""Empty catalogs: copies of one, since the migrations take most of a second."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from catalog import Catalog


def make_empty(root: Path) -> Catalog:
    """An empty catalog in a folder that may be there already, open."""
    shutil.copytree(_template(), root, dirs_exist_ok=True)
    return Catalog(root)


@functools.cache
def _template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="saeql-empty-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    Catalog.create(folder / "catalog").close()
    return folder / "catalog"
