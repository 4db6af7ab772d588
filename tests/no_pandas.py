"""Where there is no pandas, its import fails at once.

With each parameter and each relation the engine imports pandas, to see whether it is one of pandas' frames: 1,300
searches of all folders in one refresh, a tenth of its time.
"""

import importlib.util
import sys
from typing import Any


class _Without:
    """A finder that knows of one module that it is not installed: its import fails at once."""

    def __init__(self, module: str) -> None:
        self._module = module

    def find_spec(self, name: str, *_: Any) -> None:
        # Who only asks whether it is there goes on to the other finders, and hears no.
        if name == self._module and sys._getframe(2).f_code.co_name == "_find_and_load_unlocked":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def without_pandas() -> None:
    """From now on, in this process."""
    if importlib.util.find_spec("pandas") is None:
        sys.meta_path.insert(0, _Without("pandas"))
