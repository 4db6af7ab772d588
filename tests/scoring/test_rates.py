"""The pace of a client by a clock of the test's own: limits a minute, what was used, pauses; and over real requests."""

import threading
import time
from pathlib import Path

import pytest

from catalog.answers import Answers
from catalog.errors import InputError
from scoring.client.chat import ChatClient
from scoring.client.language_client import Sending
from scoring.client.rates import Pace
from tests.scoring.chat_server import Endpoint, Reply


class Clock:
    """Sleeping moves it on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def sent(
    pace: Pace, clock: Clock, tries: int, characters: int = 40, used: tuple[int, int] | None = None
) -> list[float]:
    """Seconds after the first at which each try was sent."""
    times = []
    for _ in range(tries):
        expected = pace.take(characters)
        times.append(clock.now - 100.0)
        if used is not None:
            pace.settle(expected, *used)
    return times


def most_in_a_minute(times: list[float]) -> int:
    return max(sum(start <= t < start + 60 for t in times) for start in times)


def test_without_limits_nothing_waits() -> None:
    clock = Clock()
    assert sent(Pace(None, None, clock, clock.sleep), clock, 1000) == [0.0] * 1000


@pytest.mark.parametrize("limit", [1, 30, 60, 600])
def test_no_minute_has_more_requests_than_the_limit_and_a_seconds_worth(limit: int) -> None:
    clock = Clock()
    times = sent(Pace(limit, None, clock, clock.sleep), clock, 3 * limit)
    assert most_in_a_minute(times) <= limit + max(limit / 60, 1)
    # It is used up: three minutes' worth take hardly more than three minutes.
    assert times[-1] <= 180


def test_tokens_that_were_used_count_and_not_those_that_were_expected() -> None:
    # 10 tokens of prompt by 4 characters each, 100 of the answer expected; 900 are used.
    clock = Clock()
    times = sent(Pace(None, 60_000, clock, clock.sleep), clock, 400, used=(400, 500))
    used = [sum(900 for t in times if start <= t < start + 60) for start in times]
    assert max(used) <= 60_000 + 1000 + 900
    assert 0.9 * 60_000 <= 400 * 900 / (times[-1] / 60) <= 1.1 * 60_000


def test_a_request_larger_than_a_seconds_worth_is_sent_and_paid_back() -> None:
    clock = Clock()
    times = sent(Pace(None, 600, clock, clock.sleep), clock, 3, used=(600, 0))
    assert times == pytest.approx([0.0, 60.0, 120.0], abs=2)


def test_an_endpoint_that_says_nothing_of_tokens_counts_as_expected() -> None:
    clock = Clock()
    times = sent(Pace(None, 6600, clock, clock.sleep), clock, 61, used=(0, 0))
    assert times[-1] == pytest.approx(60 * (10 + 100) / 110, abs=1.5)


def test_a_pause_holds_every_try_back_and_the_longest_counts() -> None:
    clock = Clock()
    pace = Pace(None, None, clock, clock.sleep)
    pace.pause(7)
    pace.pause(3)
    assert sent(pace, clock, 2) == pytest.approx([7.0, 7.0])


def test_several_threads_share_the_limit() -> None:
    pace = Pace(requests_per_minute=3000)
    times: list[float] = []
    threads = [threading.Thread(target=lambda: times.append(pace.take(1) and time.monotonic())) for _ in range(75)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A second's worth, 50, at once; the others one each 20 ms.
    assert 0.45 <= max(times) - begun <= 3


def test_a_client_keeps_its_requests_a_minute_with_tries_that_fail(endpoint: Endpoint, tmp_path: Path) -> None:
    came: list[float] = []

    def answer(number: int, body: object) -> Reply:
        came.append(time.monotonic())
        return Reply(status=500, body="oops") if number % 3 == 0 else Reply()

    endpoint.answer = answer
    sending = Sending(jobs=8, max_retries=5, requests_per_minute=600)
    chat = ChatClient("m", endpoint.url, answers=Answers(tmp_path / "answers.sqlite"), sending=sending)
    list(chat.complete_many([[{"role": "user", "content": str(i)}] for i in range(16)]))
    assert len(came) > 16
    # A second's worth is 10.
    assert max(sum(start <= t < start + 1 for t in came) for start in came) <= 21
    assert came[-1] - came[0] >= (len(came) - 10) / 10 - 0.2


def test_an_endpoint_that_asks_for_time_is_left_alone_by_all_threads(endpoint: Endpoint, tmp_path: Path) -> None:
    came: list[float] = []

    def answer(number: int, body: object) -> Reply:
        came.append(time.monotonic())
        return Reply(status=429, body="{}", headers={"Retry-After": "1"}) if number == 0 else Reply(delay=0.05)

    endpoint.answer = answer
    chat = ChatClient("m", endpoint.url, answers=Answers(tmp_path / "answers.sqlite"), sending=Sending(jobs=2))
    list(chat.complete_many([[{"role": "user", "content": str(i)}] for i in range(8)]))
    # The other thread's request was under way; what comes after it waits.
    assert sum(t < came[0] + 0.9 for t in came) <= 2
    assert len(came) == 9


@pytest.mark.parametrize("limits", [{"requests_per_minute": 0.0}, {"tokens_per_minute": -1.0}])
def test_limits_that_let_nothing_through_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(InputError, match="above 0"):
        Sending(**limits)  # type: ignore[arg-type]
