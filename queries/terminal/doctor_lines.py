"""Shows what an examination found, for people: a line for each thing that is wrong, and how many checks there were."""

from collections.abc import Sequence

from catalog.doctor.finding import Finding
from queries.terminal.cells import cell, padded, wrapped
from queries.terminal.control_characters import Ink

_MOST_LINES = 6


def doctor_lines(findings: Sequence[Finding], width: int, ink: Ink) -> list[str]:
    """`12 checks, nothing wrong`, or a paragraph for each finding and a sum, none wider than `width`."""
    wrong = [finding for finding in findings if finding.severity != "ok"]
    checks = {finding.check for finding in findings}
    if not wrong:
        return [f"{len(checks)} checks, nothing wrong"]
    lines: list[str] = []
    size = max(len(_severity(finding)) for finding in wrong)
    for finding in wrong:
        subject = f"{cell(finding.subject)}: " if finding.subject else ""
        text = wrapped(f"{finding.check}: {subject}{cell(finding.detail)}", max(width - size - 2, 8), _MOST_LINES)
        begun = [padded(_severity(finding), size), *[" " * size] * (len(text) - 1)]
        lines += [f"{ink.bold(head)}  {line}" for head, line in zip(begun, text, strict=True)]
    bad = {finding.check for finding in wrong}
    sound = len(checks - bad)
    lines.append(f"{len(bad)} of {len(checks)} checks found something; {sound} found nothing wrong")
    return lines


def _severity(finding: Finding) -> str:
    return "fixed" if finding.fixed else finding.severity
