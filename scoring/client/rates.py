"""Keeps the tries of all threads of a client below its requests and tokens a minute, and waits when an endpoint asks.

Two buckets that fill evenly (token buckets): a try takes one request and as many tokens as it is expected to use; when
its answer has come, the difference to what it used is given back or taken as well. A bucket holds a second's worth, one
try at least, so that no minute has more than the limit and that much.
"""

import threading
import time
from collections.abc import Callable

_CHARACTERS_PER_TOKEN = 4
_ANSWER_TOKENS = 100.0
"""Expected of an answer before any has come."""
_MOMENT = 1e-6
_MEMORY = 0.1
"""Weight of an answer's tokens in what is expected of the next."""


class Bucket:
    """Fills at `rate` a second up to `size`; may be taken from beyond that, and then fills up again first."""

    def __init__(self, per_minute: float, now: float) -> None:
        self._rate = per_minute / 60
        self._size = max(self._rate, 1.0)
        self._level, self._then = self._size, now

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount`, or as much as fits into the bucket, is there."""
        self._level = min(self._level + (now - self._then) * self._rate, self._size)
        self._then = now
        return max(min(amount, self._size) - self._level, 0.0) / self._rate

    def take(self, amount: float) -> None:
        """Take it; a negative amount is given back."""
        self._level -= amount


class Pace:
    """When the next try may be sent; for several threads. Without limits a try waits only where an endpoint asked."""

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock, self._sleep = clock, sleep
        now = clock()
        self._requests = Bucket(requests_per_minute, now) if requests_per_minute else None
        self._tokens = Bucket(tokens_per_minute, now) if tokens_per_minute else None
        self._answer = _ANSWER_TOKENS
        self._until = now
        self._lock = threading.Lock()

    def take(self, characters: int) -> float:
        """Wait until a try of so many characters may be sent; the tokens that it is expected to use."""
        while True:
            with self._lock:
                now = self._clock()
                expected = characters / _CHARACTERS_PER_TOKEN + self._answer
                wait = self._until - now
                for bucket, amount in ((self._requests, 1.0), (self._tokens, expected)):
                    if bucket is not None:
                        wait = max(wait, bucket.wait(amount, now))
                # Less than rounding leaves over is no time.
                if wait <= _MOMENT:
                    for bucket, amount in ((self._requests, 1.0), (self._tokens, expected)):
                        if bucket is not None:
                            bucket.take(amount)
                    return expected
            self._sleep(wait)

    def settle(self, expected: float, prompt: int, answered: int) -> None:
        """A try that was expected to use so many tokens has used these; (0, 0) if the endpoint does not say."""
        if not prompt + answered:
            return
        with self._lock:
            if self._tokens is not None:
                self._tokens.take(prompt + answered - expected)
            self._answer += _MEMORY * (answered - self._answer)

    def pause(self, seconds: float) -> None:
        """An endpoint asks to be left alone for so long: no thread of the client sends before."""
        with self._lock:
            self._until = max(self._until, self._clock() + seconds)
