"""Progress without a terminal: a line a minute for what takes long, with the rate and the time left."""

import pytest

from queries.terminal.progress import Bars


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("queries.terminal.progress.time.monotonic", lambda: now[0])
    return now


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_long_stage_has_a_line_a_minute_and_one_at_its_end(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Bars() as bars:
        for second in range(0, 151, 10):
            clock[0] = 1000.0 + second
            bars.show("reading layers.9", second * 1000, 300_000, "so far")
    assert lines(capsys) == [
        "reading layers.9: 20%, 1,000/s, 4 min left, so far",
        "reading layers.9: 40%, 1,000/s, 3 min left, so far",
        "reading layers.9: 150.0 s, 1,000/s, so far",
    ]


def test_what_goes_on_is_rated_from_where_it_began(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Bars() as bars:
        bars.show("training sae", 700, 800)
        clock[0] += 61
        bars.show("training sae", 761, 800)
        clock[0] += 39
        bars.show("training sae", 800, 800)
    assert lines(capsys) == ["training sae: 95%, 1.0/s, 39 s left", "training sae: 100.0 s, 1.0/s"]


def test_nothing_is_rated_before_there_is_something_to_tell(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Bars() as bars:
        bars.show("loading model", 0, None)
        clock[0] += 61
        bars.show("loading model", 0, None, "reading")
        clock[0] += 7200
        bars.show("copying", 0, 10)
        clock[0] += 3600
        bars.show("copying", 5, 10)
        clock[0] += 3 * 3600
        bars.show("copying", 6, 10)
    assert lines(capsys) == [
        "loading model: 0, reading",
        "loading model: 61.0 s, reading",
        "copying: 50%, 1 h 0 min left",
        "copying: 60%, 2 h 40 min left",
        "copying: 14400.0 s",
    ]
