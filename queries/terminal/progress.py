"""Shows progress on stderr: a bar on a terminal, else a line for each thing done, and one a minute for a long one.

Both say how many tokens or steps are done in a second, and the time that is left at that rate.
"""

import sys
import time
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO, cast

import click

from queries.terminal.control_characters import visible

# rich takes a tenth of a second to import, which a command that asks has no use for.
if TYPE_CHECKING:
    from rich.progress import TaskID

    from queries.refresh.engine import StepResult
    from queries.refresh.step import Step
    from queries.terminal.console import Lines

_SHOWN_AFTER = 1.0
_LINE_EVERY = 60.0
"""Seconds between two lines about the same thing where there is no terminal."""
_TOLD_FROM = 50
"""The share of a thing that is done, one in so many, before the time left is told."""
_RATED_AFTER = 2.0
"""Seconds before a rate is worth a word."""


class Bars:
    """One bar at a time, named after what is being done; of the steps of a refresh one each, as they run together."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        from queries.terminal.console import SafeConsole

        self._console = SafeConsole(stderr=True)
        self._live = self._console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            # A task whose total is not known has no share to show, not one of 0.
            TaskProgressColumn("{task.percentage:>3.0f}%", text_format_no_percentage="    "),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=self._console,
            transient=True,
            # Rich would obey the colours and links in what others write meanwhile; `Lines` shows it as text.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._others: tuple[TextIO, Lines] | None = None
        self._task: TaskID | None = None
        self._steps: dict[str, TaskID] = {}
        self._what, self._figures, self._begun = "", "", time.monotonic()
        self._told = self._lined = self._begun
        self._first = self._done = 0

    def __enter__(self) -> Self:
        if self._live:
            from queries.terminal.console import Lines

            self._bars.start()
            lines = Lines(self.say)
            self._others = (sys.stderr, lines)
            sys.stderr = cast(TextIO, lines)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish(done=kind is None)
        if self._others:
            stderr, lines = self._others
            sys.stderr = stderr
            lines.close()
        if self._live:
            self._bars.stop()

    def show(self, what: str, done: int, total: int | None, figures: str = "") -> None:
        """Say how far `what` is; another `what` closes the bar before."""

        if what != self._what:
            self._finish(done=True)
            self._what, self._begun = what, time.monotonic()
            self._told = self._lined = self._begun
            # A thing that goes on where it was begins with what is done.
            self._first = done
            if self._live:
                self._task = self._bars.add_task(visible(what), total=total, figures="")
        else:
            self._told = time.monotonic()
        self._figures, self._done = figures, done
        if self._task is not None:
            shown = ", ".join(part for part in (self._pace(total), figures) if part)
            self._bars.update(self._task, completed=done, total=total, figures=visible(shown))
        elif not self._live and self._told - self._lined >= _LINE_EVERY:
            self._lined = self._told
            share = f"{done / total:.0%}" if total else f"{done:,}"
            self.say(", ".join(part for part in (f"{what}: {share}", self._pace(total), figures) if part))

    def _pace(self, total: int | None = None) -> str:
        """The rate since the first report, and the time left; empty where there is nothing to tell yet."""
        seconds, done = self._told - self._begun, self._done - self._first
        if seconds < _RATED_AFTER or done <= 0:
            return ""
        rate = done / seconds
        said = f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s" if rate >= 1 else ""
        left = ""
        # The first of many tell little: what is read before them is not counted.
        if total and total / _TOLD_FROM <= done and self._done < total:
            left = f"{_duration((total - self._done) / rate)} left"
        return ", ".join(part for part in (said, left) if part)

    def step(self, step: "Step") -> None:
        """Show that a refresh step has begun."""
        self._finish(done=True)
        if self._live:
            self._steps[step.name] = self._bars.add_task(f"refreshing {visible(step.name)}", total=None, figures="")

    def advance(self, step: "Step", done: int, total: int) -> None:
        """A refresh step goes on; also said from its own thread."""
        if step.name in self._steps:
            self._bars.update(self._steps[step.name], completed=done, total=total)

    def result(self, result: "StepResult") -> None:
        """A refresh step ended: a line, unless there was nothing to do."""
        if result.step in self._steps:
            self._bars.remove_task(self._steps.pop(result.step))
        if result.state == "current":
            return
        for line in described(result).split("\n"):
            self.say(line)

    def say(self, line: str) -> None:
        """A line of text above the bars."""
        with suppress(BrokenPipeError):
            self._console.print(visible(line), soft_wrap=True)

    def _finish(self, *, done: bool) -> None:
        # A thing counts up to its last report: the time until the next thing's first report may be the next one's.
        last = self._told if self._told > self._begun else time.monotonic()
        seconds = last - self._begun
        if done and self._what and seconds >= _SHOWN_AFTER:
            self.say(", ".join(p for p in (f"{self._what}: {seconds:.1f} s", self._pace(), self._figures) if p))
        self._drop()

    def _drop(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task, self._what = None, ""


def _duration(seconds: float) -> str:
    """`40 s`, `3 min`, `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def described(result: "StepResult") -> str:
    """A line about a refresh step that had work, and one for each of its warnings."""
    if result.state == "failed":
        return f"{result.step}: FAILED: {' '.join(str(result.error).split())}"
    if result.state == "waiting":
        return f"{result.step}: not run, a step that it reads from failed"
    changes = result.changes
    parts = [f"+{changes.added} ~{changes.changed} -{changes.removed} rows"]
    if result.failed:
        parts.append(f"{result.failed} with a problem")
    if result.calls:
        parts.append(f"{result.calls} calls, cost {result.cost:.4f}")
    if result.state == "part":
        parts.append(f"{result.left} left" if result.left else "done in part")
    lines = [f"{result.step}: {', '.join(parts)} ({result.seconds:.1f} s)"]
    # A warning that quotes an endpoint or a catalog stays one line.
    return "\n".join([*lines, *(f"{result.step}: warning: {' '.join(said.split())}" for said in result.warnings)])


def say(line: str) -> None:
    """A message to the person, on stderr."""
    click.echo(line, err=True, color=True)
