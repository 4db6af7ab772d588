"""Exchanges one HTTP request with an endpoint that may be hostile: no redirect, bounded bytes and seconds.

Imported at the first request. Each try waits for its turn (`rates.py`). The retries, their back-off and Retry-After
(in seconds or as a date, up to two minutes) are the `openai` package's; a status that says what an error object in a
200 says lets it see those as well.
"""

import time
from typing import Any

import httpx2
import openai

from scoring.client.rates import Pace
from scoring.client.response import ANSWERED, SAID, error_in, read_json, used_tokens

MOST_BYTES = 8 * 1024 * 1024
"""Of an answer's body: hundreds of times what the longest answer of a language model takes."""
LONGEST_WAIT = 120.0
"""Seconds that an endpoint may ask for."""
_READABLE = ("", "identity", "gzip", "deflate")
"""Codings of a body whose decoder gives no more than a thousand times what it is given at a time."""


class Unreadable(openai.OpenAIError):
    """A body that is not read to its end; the package tries none of its own errors again."""


class Exchange(httpx2.Client):
    """A client for one endpoint, with a connection for each of `jobs`.

    `proxies` says whether those of the environment are used.
    """

    def __init__(self, timeout: float, pace: Pace, jobs: int, *, proxies: bool) -> None:
        # An answer that is not packed cannot unfold into more than it says.
        headers = {"Accept-Encoding": "identity"}
        limits = httpx2.Limits(max_connections=jobs, max_keepalive_connections=jobs)
        super().__init__(timeout=timeout, follow_redirects=False, trust_env=proxies, headers=headers, limits=limits)
        self._seconds = timeout
        self._pace = pace

    def send(self, request: httpx2.Request, **_options: Any) -> httpx2.Response:
        """The whole response; its status is that of the error object in it, if it has one.

        Raises httpx2.ReadTimeout if it takes longer than `timeout`, Unreadable if it is too long.
        """
        expected = self._pace.take(len(request.content))
        end = time.monotonic() + self._seconds
        response = super().send(request, stream=True, follow_redirects=False)
        try:
            body = self._body(response, request, end)
        finally:
            response.close()
        found = read_json(body)
        self._pace.settle(expected, *used_tokens(found))
        error = error_in(found, response.status_code)
        dropped = {"content-encoding", "content-length", "transfer-encoding"}
        said = []
        if error is not None and error.again is not None:
            dropped.add("x-should-retry")
            said = [("x-should-retry", str(error.again).lower())]
        said += [(name, value) for name, value in response.headers.multi_items() if name.lower() not in dropped]
        status = error.status if error is not None else response.status_code
        if status in (429, 503) and (seconds := _asked_to_wait(response.headers)):
            self._pace.pause(seconds)
        extensions = {ANSWERED: response.status_code, SAID: found}
        return httpx2.Response(status, headers=said, content=body, request=request, extensions=extensions)

    def _body(self, response: httpx2.Response, request: httpx2.Request, end: float) -> bytes:
        coding = response.headers.get("content-encoding", "").strip().lower()
        if coding not in _READABLE:
            raise Unreadable(f"the answer is packed ({coding[:20]!r}), which was not asked for")
        found = bytearray()
        for part in response.iter_bytes():
            found += part
            if len(found) > MOST_BYTES:
                raise Unreadable(f"the answer has more than {MOST_BYTES:,} bytes")
            if time.monotonic() > end:
                raise httpx2.ReadTimeout("the answer did not end in time", request=request)
        return bytes(found)


def _asked_to_wait(headers: httpx2.Headers) -> float:
    """Seconds of Retry-After where it gives seconds, as the `openai` package waits; 0 for none, or for too many."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return 0.0
    return seconds if 0 < seconds <= LONGEST_WAIT else 0.0
