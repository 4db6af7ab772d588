"""Opens the endpoint that an explainer or a scorer names, and counts what it is asked."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from catalog.answers import Answers
from catalog.errors import CatalogError
from catalog.study.request_body import check_request
from scoring.client.chat import ChatClient
from scoring.client.language_client import Client, Sending
from scoring.kernels.kernel import Run

TIMEOUT = 120.0
"""Seconds of a try, where the settings name none."""
RETRIES = 5
COUNTEREXAMPLES = 6


@contextmanager
def counted_client(model: str, settings: Mapping[str, Any], run: Run) -> Iterator[tuple[Client, "Counter"]]:
    """A client over the catalog's stored answers, and a counter that adds what it paid to the run.

    It asks an endpoint, or a model of this process, as the settings' provider says.
    """
    with Answers(run.catalog.root / "answers.sqlite") as answers:
        client = _local(model, answers, run) if settings.get("provider") == "transformers" else None
        client = client or ChatClient(
            model, settings["base_url"], answers=answers, sending=_sending(settings, run), budget=run.budget
        )
        counter = Counter(client, run)
        try:
            yield client, counter
        finally:
            counter.update()
            run.notes.extend(note for note in client.notes if note not in run.notes)


def _sending(settings: Mapping[str, Any], run: Run) -> Sending:
    return Sending(
        jobs=run.jobs or settings["jobs"],
        max_retries=settings.get("retries", RETRIES),
        timeout=settings.get("timeout", TIMEOUT),
        prices=(settings["price_prompt"], settings["price_completion"]),
        requests_per_minute=settings.get("requests_per_minute"),
        tokens_per_minute=settings.get("tokens_per_minute"),
        structured=settings.get("structured") != "never",
        logprobs=settings.get("logprobs") != "never",
    )


def _local(model: str, answers: Answers, run: Run) -> Client:
    # Not by an import statement: then all of ingest that loads a model would decide whether rows are stale.
    made: Client = import_module("scoring.client.local_chat").LocalChat(model, answers=answers, budget=run.budget)
    return made


class Counter:
    """Adds what one client has paid to a run that may have several."""

    def __init__(self, client: Client, run: Run) -> None:
        self._client, self._run = client, run
        self._before = (run.calls, run.tokens, run.cost)

    def update(self) -> None:
        """Bring the run up to what was paid so far."""
        spent = self._client.spent
        calls, tokens, cost = self._before
        self._run.calls = calls + spent.paid
        self._run.tokens = tokens + spent.prompt_tokens + spent.completion_tokens
        self._run.cost = cost + spent.cost


def read_settings(row: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The settings of an input row's explainer or scorer. Raises CatalogError for those that saeql does not write."""
    try:
        settings = json.loads(row["settings"])
        forms = {**_FORMS, **_OWN[kind]}
        wrong = [name for name, fits in forms.items() if not fits(settings.get(name))]
        check_request(settings.get("request") or {})
    except (ValueError, TypeError, AttributeError, RecursionError):
        wrong = ["settings"]
    if wrong:
        raise CatalogError(
            f"the {kind} {row[kind]!r} of the catalog has no usable {wrong[0]}: take it from its study file anew "
            "(saeql refresh --study FILE)"
        )
    return {**settings, "provider": row["provider"]}


def _number(least: float, *, whole: bool = False) -> Callable[[Any], bool]:
    kinds: tuple[type, ...] = (int,) if whole else (int, float)
    return lambda value: type(value) in kinds and least <= value < float("inf")


def _missing_or(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


_FORMS: dict[str, Callable[[Any], bool]] = {
    "base_url": _missing_or(lambda value: isinstance(value, str)),
    "template": _missing_or(lambda value: isinstance(value, str)),
    "request": _missing_or(lambda value: isinstance(value, dict)),
    "temperature": _number(0),
    "max_tokens": _number(1, whole=True),
    "jobs": _number(1, whole=True),
    "price_prompt": _number(0),
    "price_completion": _number(0),
    "timeout": _missing_or(_number(0.001)),
    "retries": _missing_or(_number(0, whole=True)),
    "requests_per_minute": _missing_or(_number(1e-9)),
    "tokens_per_minute": _missing_or(_number(1e-9)),
    "structured": lambda value: value in (None, "auto", "never"),
    "logprobs": lambda value: value in (None, "auto", "never"),
}
_OWN: dict[str, dict[str, Callable[[Any], bool]]] = {
    "explainer": {
        "examples": _number(1, whole=True),
        "sampling": lambda value: value in ("top", "stratified"),
        "counterexamples": _missing_or(_number(0, whole=True)),
        "max_terms": _number(1, whole=True),
        "min_words": _number(1, whole=True),
        "max_words": _number(1, whole=True),
        "instructions": lambda value: isinstance(value, str),
    },
    "scorer": {
        "batch": _number(1, whole=True),
        "negatives": lambda value: value in (None, "silent", "firing"),
    },
}
