"""Makes values that JSON holds, and JSON that is safe on a terminal."""

import base64
import json
import math
import re
from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

from queries.terminal.control_characters import HOSTILE


def plain(value: Any) -> Any:
    """A value as JSON holds it: NaN and infinities null, whole decimals exact, dates in ISO 8601, blobs in base64."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return _number(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return str(value)
    if isinstance(value, Mapping):
        return {_key(key): plain(item) for key, item in value.items()}
    if type(value).__name__ == "MonthDayNano":
        return f"P{value.months}M{value.days}DT{value.nanoseconds / 1e9:.9g}S"
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value)


def _number(value: Decimal) -> int | float | str | None:
    """An integer if it is one, a float if that keeps every digit, else text."""
    if not value.is_finite():
        return None
    if value == value.to_integral_value():
        return int(value)
    near = float(value)
    return near if Decimal(repr(near)) == value else str(value)


def _key(key: object) -> str:
    """JSON's keys are text; a map's may be anything."""
    simple = plain(key)
    return simple if isinstance(simple, str) else json.dumps(simple, ensure_ascii=False)


def _json_spelled(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1]


def safe_json(value: Any) -> str:
    """JSON that is safe on a terminal: what is hostile is escaped, which means the same to a JSON reader."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return HOSTILE.sub(_json_spelled, text)
