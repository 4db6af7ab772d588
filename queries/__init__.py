"""Floor 4: what people call. The refresh steps and their engine, SQL, search, the command line."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from queries.session import Context, FeatureCard, Session, connect

__all__ = ["Context", "FeatureCard", "Session", "connect"]


def __getattr__(name: str) -> Any:
    """What is asked for, imported then: a command line that only prints its help wants no engine."""
    if name not in __all__:
        raise AttributeError(f"module 'queries' has no attribute {name!r}")
    return getattr(import_module("queries.session"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
