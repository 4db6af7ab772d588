"""Empty catalogs: copies of one, since the migrations take most of a second, with PostgreSQL several."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from catalog import Catalog, Location
from tests.postgres import Postgres, copied


def make_empty(root: Path, postgres: Postgres | None = None) -> Catalog:
    """An empty catalog, open; given a server, its metadata is a database there.

    A folder that says where its metadata is gets it there.
    """
    if postgres is not None:
        return Catalog(copied(_template_on(postgres), root, postgres))
    if Location.parse(root).server:
        return Catalog.create(root)
    shutil.copytree(_template(), root, dirs_exist_ok=True)
    return Catalog(root)


@functools.cache
def _template() -> Path:
    folder = _folder()
    Catalog.create(folder / "catalog").close()
    return folder / "catalog"


_on_servers: dict[int, Path] = {}
"""The templates by the ports of their servers."""


def _template_on(postgres: Postgres) -> Path:
    if postgres.port not in _on_servers:
        folder = _folder() / "catalog"
        Catalog.create(postgres.location(folder)).close()
        _on_servers[postgres.port] = folder
    return _on_servers[postgres.port]


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="saeql-empty-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
