"""Stores paid LLM answers as they arrive: an answer that is stored is never paid for again.

The file lies outside the catalog's versions and is never rolled back: what was paid stays. A key is the hash of
all that determines an answer (model, parameters, messages); the first answer stored under a key stays its answer,
so that a second run reads what the first one read.
"""

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from catalog.errors import CatalogError

_VERSION = 1
_BUSY = 60.0
"""Seconds that one writer waits for another."""
_TABLE = """CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, request TEXT NOT NULL, text TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, cost REAL NOT NULL, created REAL NOT NULL)"""
_UNUSABLE = """CREATE TABLE IF NOT EXISTS unusable (request TEXT NOT NULL, body BLOB NOT NULL, reason TEXT NOT NULL,
    created REAL NOT NULL)"""
_ODDS = "CREATE TABLE IF NOT EXISTS odds (key TEXT PRIMARY KEY, odds TEXT NOT NULL)"
"""A table of its own, so that older versions of saeql go on reading and writing the file."""
_HAS_ODDS = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'odds'"
_KEEP = "INSERT INTO unusable VALUES (?, ?, ?, ?)"
_GET = "SELECT text, prompt_tokens, completion_tokens, cost, created, '' FROM answers WHERE key = ?"
_GET_ODDS = """SELECT a.text, a.prompt_tokens, a.completion_tokens, a.cost, a.created, coalesce(o.odds, '')
    FROM answers AS a LEFT JOIN odds AS o ON o.key = a.key WHERE a.key = ?"""
_HISTORY = "SELECT request, prompt_tokens, completion_tokens FROM answers ORDER BY created DESC LIMIT ?"
_PUT = "INSERT INTO answers VALUES (?, ?, CAST(? AS TEXT), ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING"
_PUT_ODDS = "INSERT INTO odds SELECT ?, ? WHERE changes() > 0 ON CONFLICT (key) DO NOTHING"


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer's text, its tokens and cost when it was paid for, and when that was (seconds since 1970).

    `odds` is what was stored of the probabilities of its numbers (JSON), empty where nobody gave them.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    cost: float
    created: float
    odds: str = ""


def canonical_request(model: str, parameters: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> str:
    """The request as JSON with sorted keys: the same request always gives the same text.

    Raises CatalogError for a parameter that JSON cannot hold.
    """
    request = {"model": model, "parameters": dict(parameters), "messages": [dict(message) for message in messages]}
    try:
        return json.dumps(request, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CatalogError(f"a request to {model} cannot be stored as JSON: {error}") from error


def request_key(request: str) -> str:
    """BLAKE2b-128 of a canonical request, with the algorithm's name before it."""
    return "blake2b:" + hashlib.blake2b(request.encode(), digest_size=16).hexdigest()


class Answers:
    """The answers in one SQLite file, for several threads and processes at once.

    `put` returns when the answer is on the disk (write-ahead log, synchronous FULL). Open it after a fork, not
    before. Raises CatalogError if the file is no answer store, was made by a newer version, or stays locked.

    >>> import tempfile
    >>> with Answers(Path(tempfile.mkdtemp()) / "answers.sqlite") as answers:
    ...     request = canonical_request("m", {"temperature": 0}, [{"role": "user", "content": "hello"}])
    ...     answers.put(request, "good morning", prompt_tokens=9, completion_tokens=2, cost=0.01).text
    'good morning'
    """

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        where = f"file:{quote(str(self.path.absolute()))}?mode={'ro' if read_only else 'rwc'}"
        try:
            self._db = sqlite3.connect(where, timeout=_BUSY, isolation_level=None, check_same_thread=False, uri=True)
            # An endpoint's text may hold half a surrogate pair, which strict UTF-8 does not.
            self._db.text_factory = lambda raw: raw.decode("utf-8", "surrogatepass")
        except sqlite3.Error as error:
            raise CatalogError(f"the answer store {self.path} cannot be opened: {error}") from error
        try:
            self._check_version() if read_only else self._prepare()
            self._has_odds = bool(self._db.execute(_HAS_ODDS).fetchone()[0])
        except sqlite3.Error as error:
            self._db.close()
            raise CatalogError(f"the answer store {self.path} cannot be used: {error}") from error
        except CatalogError:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return int(self._run("SELECT count(*) FROM answers")[0][0])

    def get(self, request: str) -> StoredAnswer | None:
        """The answer stored for a canonical request, or None."""
        return self._stored(request_key(request))

    def put(
        self, request: str, text: str, *, prompt_tokens: int, completion_tokens: int, cost: float = 0.0, odds: str = ""
    ) -> StoredAnswer:
        """Store an answer durably, and return what is stored: an earlier answer to the same request stays.

        A text that is no Unicode, with half a surrogate pair, comes back as it was.
        """
        raw = text.encode("utf-8", "surrogatepass")
        key = request_key(request)
        statements = [(_PUT, (key, request, raw, prompt_tokens, completion_tokens, cost, time.time()))]
        self._run_together([*statements, (_PUT_ODDS, (key, odds))] if odds else statements)
        stored = self._stored(key)
        if stored is None:
            raise CatalogError(f"the answer store {self.path} did not keep an answer")
        return stored

    def keep_unusable(self, request: str, body: bytes, reason: str) -> None:
        """Keep what an endpoint sent and was paid for, but holds no answer: to be looked at, never read as one."""
        self._run(_KEEP, (request, body, reason, time.time()))

    def unusable(self) -> list[tuple[str, bytes, str]]:
        """(request, body as it came, reason) of each response that held no answer, in the order of arrival."""
        if not self._run("SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'unusable'")[0][0]:
            return []
        return self._run("SELECT request, body, reason FROM unusable ORDER BY rowid")

    def close(self) -> None:
        """Close the file; nothing is lost, everything stored is on the disk already."""
        with self._lock:
            self._db.close()

    def history(self, n: int) -> list[tuple[str, int, int]]:
        """(request, prompt tokens, completion tokens) of the newest `n` answers."""
        return self._run(_HISTORY, (n,))

    def _stored(self, key: str) -> StoredAnswer | None:
        rows = self._run(_GET_ODDS if self._has_odds else _GET, (key,))
        if not rows:
            return None
        text, prompt, completion, cost, created, odds = rows[0]
        kinds = isinstance(text, str) and isinstance(prompt, int) and isinstance(completion, int)
        kinds = kinds and isinstance(cost, float | int) and isinstance(created, float | int)
        if not kinds or not isinstance(odds, str):
            raise CatalogError(f"the answer store {self.path} holds an answer that saeql did not write")
        return StoredAnswer(text, prompt, completion, float(cost), float(created), odds)

    def _check_version(self) -> int:
        version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if version > _VERSION:
            raise CatalogError(
                f"the answer store {self.path} has version {version}, this saeql knows {_VERSION}: use a newer saeql"
            )
        return version

    def _prepare(self) -> None:
        version = self._check_version()
        self._enter_wal()
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute(_TABLE)
        self._db.execute(_UNUSABLE)
        self._db.execute(_ODDS)
        if version < _VERSION:
            self._db.execute(f"PRAGMA user_version = {_VERSION}")

    def _enter_wal(self) -> None:
        """Changing the journal mode fails at once when another process is doing the same: SQLite does not wait."""
        end = time.monotonic() + _BUSY
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)

    def _run_together(self, statements: Sequence[tuple[str, tuple[Any, ...]]]) -> None:
        """All of them, or none."""
        if len(statements) == 1:
            self._run(*statements[0])
            return
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                for statement, values in statements:
                    self._db.execute(statement, values)
                self._db.execute("COMMIT")
            except (sqlite3.Error, UnicodeError) as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise CatalogError(f"the answer store {self.path} failed: {error}") from error

    def _run(self, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        with self._lock:
            try:
                return self._db.execute(statement, values).fetchall()
            except (sqlite3.Error, UnicodeError) as error:
                raise CatalogError(f"the answer store {self.path} failed: {error}") from error
