"""Keeps which parameters an endpoint does not take: a request is sent again without what was refused, once.

Servers say it in many ways. If the refusal names a parameter, that one is left out from then on. If it names none, and
no request with these parameters was ever answered, all of them are left out for one try: if that is answered, they were
the reason.
"""

import re
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from scoring.client.language_client import Form

TOP = 5
"""Tokens whose log-probabilities are asked for at each place."""
LOGPROBS, SCHEMA = "logprobs", "response_format"
_NAMED = {
    LOGPROBS: re.compile(r"log.?prob", re.IGNORECASE),
    SCHEMA: re.compile(r"response.?format|json.?schema|structured|guided|grammar|schema", re.IGNORECASE),
}
_SAID = {LOGPROBS: "log-probabilities, so that judgements have no probability", SCHEMA: "answers by a JSON schema"}
_OTHERWISE = (401, 403, 408, 409, 429)
"""Statuses that no parameter causes."""
_UNNAMED = (400, 422, 501)
"""Statuses that a parameter may cause though the refusal does not name it."""


class OptionalParameters:
    """The parameters that one endpoint takes, for all threads of a client."""

    def __init__(self, model: str, *, structured: bool, logprobs: bool) -> None:
        self._model = model
        self._wanted = {name for name, wanted in ((LOGPROBS, logprobs), (SCHEMA, structured)) if wanted}
        self._taken: set[str] = set()
        self._blameless = False
        self._lock = threading.Lock()
        self.notes: list[str] = []
        """A line for each parameter that the endpoint refused."""

    def of(self, form: Form, own: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """By name, the parameters to send for a form; a user's own ones (`own`) come first."""
        if not form.values:
            return {}
        with self._lock:
            names = [name for name in (LOGPROBS, SCHEMA) if name in self._wanted and name not in own]
        made: dict[str, dict[str, Any]] = {
            LOGPROBS: {"logprobs": True, "top_logprobs": TOP},
            SCHEMA: {"response_format": _schema(form)},
        }
        return {name: made[name] for name in names}

    def answered(self, sent: Iterable[str], left_out: Iterable[str] = ()) -> None:
        """A request with `sent` was answered, after one with `left_out` as well had been refused."""
        with self._lock:
            self._taken |= set(sent)
            for name in sorted(set(left_out) & self._wanted):
                self._wanted.discard(name)
                self.notes.append(f"{self._model} refuses {_SAID[name]}: asked without ({name})")

    def failed(self, left_out: Iterable[str]) -> None:
        """A request was refused without these parameters too: they were not the reason, and nobody tries that again."""
        with self._lock:
            self._blameless = self._blameless or bool(set(left_out))

    def refused(self, sent: Iterable[str], status: int, reason: str) -> set[str]:
        """Which of the parameters sent may be why an endpoint answered with an error; none if they cannot be."""
        names = set(sent)
        if not names or status in _OTHERWISE:
            return set()
        named = {name for name in names if _NAMED[name].search(reason)}
        with self._lock:
            unknown = status in _UNNAMED and not names <= self._taken and not self._blameless
        return named or (names if unknown else set())


def _schema(form: Form) -> dict[str, Any]:
    """`response_format` for a list of numbers; an object holds it, for some servers take no bare list."""
    numbers = [int(choice) for choice in form.choices]
    values = {"type": "array", "items": {"type": "integer", "enum": numbers}}
    schema = {
        "type": "object",
        "properties": {"values": {**values, "minItems": form.values, "maxItems": form.values}},
        "required": ["values"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "values", "strict": True, "schema": schema}}
