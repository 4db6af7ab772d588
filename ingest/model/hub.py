"""Finds a model by name: a folder, an entry of the hub's cache, or the hub itself, asked once, in seconds.

transformers and sentence-transformers ask the hub for a dozen files, each several times; without a network each of them
waits for every answer. saeql therefore asks for one file first, and keeps both of them off the network if no answer
comes.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog.errors import InputError, first_line

WAIT = 5.0
"""Seconds that the hub has to answer."""
CODE = "trust_remote_code = true"
_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")


@dataclass(frozen=True)
class Located:
    """Where a model's files come from, as arguments of `from_pretrained`."""

    source: str
    """A folder, or a hub id."""
    local: bool
    """Whether the network is to be left alone."""

    @property
    def arguments(self) -> dict[str, Any]:
        """What keeps a loader off the network."""
        return {"local_files_only": self.local}


def locate(source: str, what: str, revision: str | None = None, file: str = "config.json") -> Located:
    """Find the `what` ("model", say) that `source` names; of a hub id, `file` is what the hub is asked for.

    Raises InputError in one line: no such folder; no hub id; not in the hub's cache, and the hub does not answer,
    refuses, or has none of that name.
    """
    if Path(source).is_dir():
        return Located(source, True)
    if not _ID.fullmatch(source) or source.startswith((".", "/", "~")):
        raise InputError(f"{what} directory {source} does not exist")
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    nowhere = f"{what} {source!r}: there is no folder of that name"
    try:
        cached = isinstance(try_to_load_from_cache(source, file, revision=revision), str)
        if is_offline_mode():
            if cached:
                return Located(source, True)
            raise InputError(f"{nowhere}, it is not in the hub's cache, and HF_HUB_OFFLINE keeps saeql off the hub")
        with quiet():
            get_hf_file_metadata(hf_hub_url(source, file, revision=revision), timeout=WAIT)
    except HFValidationError as error:
        raise InputError(f"{nowhere}, and it is no hub id: {first_line(error)}") from error
    except EntryNotFoundError:
        return Located(source, False)
    except RepositoryNotFoundError as error:
        # A private one answers alike.
        raise InputError(f"{nowhere}, and the hub has none (or a private one: log in to the hub first)") from error
    except HfHubHTTPError as error:
        if cached:
            return Located(source, True)
        status = getattr(error.response, "status_code", "an error")
        raise InputError(f"{nowhere}, it is not in the hub's cache, and the hub answers {status}") from error
    except InputError:
        raise
    # Of several libraries: no address, no route, no answer in time, a broken certificate.
    except Exception as error:
        if cached:
            return Located(source, True)
        raise InputError(
            f"{nowhere}, it is not in the hub's cache, and the hub does not answer ({first_line(error)})"
        ) from error
    return Located(source, False)


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, the hub's client and transformers log errors alone: what matters of them becomes one InputError."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "transformers", "sentence_transformers")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def needs_code(error: BaseException, what: str, source: str) -> InputError | None:
    """The refusal of a `what` that cannot be loaded but by code in its own folder; None for any other error."""
    if "trust_remote_code" not in str(error):
        return None
    return InputError(
        f"{what} {source!r} comes with code of its own (auto_map in its configuration), and saeql runs none: name "
        f"another one, or, if you trust whoever wrote it, set {CODE} in [model] of a study and ingest it"
    )
