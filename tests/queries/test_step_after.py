"""Steps that name others which have to run before, and slices of several values."""

import pytest

from catalog.errors import StepError
from queries.refresh.order import check_steps, ordered
from queries.refresh.step import Step, parse_step

HEADER = "-- step: {name}\n-- writes: {writes}\n-- key: x\n-- doc: d\n{more}\nSELECT 1 AS x FROM {reads}\n"


def step(name: str, writes: str, reads: str, more: str = "") -> Step:
    return parse_step(HEADER.format(name=name, writes=writes, reads=reads, more=more), f"{name}.sql")


def test_a_step_runs_after_those_that_it_names_whatever_it_reads() -> None:
    steps = (step("a", "ta", "t", "-- after: c, b"), step("b", "tb", "t"), step("c", "tc", "ta2"))
    assert [one.name for one in ordered(steps, {})] == ["b", "c", "a"]
    check_steps(steps, ["t", "ta", "tb", "tc", "ta2"])
    assert "t" in steps[0].parents
    assert "tb" not in steps[0].parents


def test_a_circle_by_names_is_refused() -> None:
    with pytest.raises(StepError, match="wait for each other"):
        ordered((step("a", "ta", "t", "-- after: b"), step("b", "tb", "t", "-- after: a")), {})


def test_a_step_that_there_is_not_is_named_with_its_line() -> None:
    with pytest.raises(StepError, match=r"a\.sql, line 5: there is no step 'b' to come after"):
        check_steps([step("a", "t", "t", "-- after: b")], ["t"])


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("k IN ('a', 'b')", "k = 'c'", False),
        ("k IN ('a','b')", "k IN ( 'c' , 'd')", False),
        ("k IN ('a', 'b')", "k = 'b'", True),
        ("k IN ('a', 'b')", "k IN ('c', 'a')", True),
        ("k IN ('a')", "j = 'b'", True),
    ],
)
def test_slices_of_several_values_must_share_none(one: str, other: str, overlap: bool) -> None:
    steps = [step(name, "t", "t", f"-- slice: {slice}") for name, slice in (("a", one), ("b", other))]
    if overlap:
        with pytest.raises(StepError, match="both write t"):
            check_steps(steps, ["t"])
    else:
        check_steps(steps, ["t"])


@pytest.mark.parametrize("wrong", ["k IN ()", "k IN ('a' 'b')", "k IN (a)", "k IN ('a') OR true", "k"])
def test_what_is_no_slice_is_refused(wrong: str) -> None:
    with pytest.raises(StepError, match="is not of the form"):
        step("a", "t", "t", f"-- slice: {wrong}")
