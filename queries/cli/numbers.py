"""Reads numbers on the command line; click's own floats let `nan` through, which is smaller and larger than nothing."""

import math
from typing import Any

import click


class Number(click.ParamType):  # type: ignore[type-arg]
    """A number of at least 0; `inf` is one."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Raises click's usage error for anything else."""
        try:
            number = float(value)
        except (TypeError, ValueError):
            self.fail(f"{value!r} is not a valid float.", param, ctx)
        if math.isnan(number) or number < 0:
            self.fail(f"{value} is not a number of at least 0", param, ctx)
        return number


NUMBER = Number()
