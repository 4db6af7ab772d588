"""saeql from Python: `saeql.connect("demo").sql("SELECT ...")`.

Nothing is imported before it is used: no engine, no PyTorch. Below, `root` is the folder of a small catalog.

>>> import saeql
>>> with saeql.connect(root) as cat:
...     cat.sql("SELECT feature FROM features WHERE feature < $most ORDER BY feature", most=2)
feature
      0
      1
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from catalog.errors import SaeqlError
    from catalog.store.catalog import Catalog
    from catalog.study.file import Study
    from queries.session import Session, connect
    from queries.terminal.answer import Result

    __version__: str

__all__ = ["Catalog", "Result", "SaeqlError", "Session", "Study", "__version__", "connect"]

_HOMES = {
    "Catalog": "catalog.store.catalog",
    "Result": "queries.terminal.answer",
    "SaeqlError": "catalog.errors",
    "Session": "queries.session",
    "Study": "catalog.study.file",
    "connect": "queries.session",
}


def __getattr__(name: str) -> Any:
    """What is asked for, from where it lives."""
    if name == "__version__":
        from importlib.metadata import version

        return version("saeql")
    if name not in _HOMES:
        raise AttributeError(f"module 'saeql' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
