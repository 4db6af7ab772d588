"""What a plan shows on a terminal."""

from queries.terminal.lines import aligned


def test_lines_are_cut_at_the_width_and_numbers_stand_on_the_right() -> None:
    rows = [
        {"step": "labels", "new": 12, "cost": 0.5, "why": "inputs: \x1b[31mred"},
        {"step": "scores", "new": None, "cost": 1.0, "why": ["a", "b"]},
    ]
    assert aligned(rows, ("step", "new", "cost", "why"), 30).splitlines() == [
        "step    new  cost  why",
        "labels   12   0.5  inputs: \\x…",
        "scores    -   1.0  a, b",
    ]
