"""Shows what an ingest would do, a row for each part of the study, and one line that sums it up."""

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

from queries.terminal.lines import show_lines
from queries.terminal.output import Output

if TYPE_CHECKING:
    from catalog.store.location import Location
    from catalog.study.file import Study

_COLUMNS = ("stage", "what", "state", "documents", "tokens", "shards", "rows", "bytes", "why")
_SIZES = ("documents", "tokens", "shards", "rows", "bytes")


def show_dry_run(location: "Location", study: "Study", output: Output) -> None:
    """Print the rows; a terminal gets none if there is nothing to do."""
    from ingest.dry_run import dry_run
    from ingest.to_do import CURRENT
    from queries.terminal.progress import Bars, say

    with Bars() as bars:
        works = dry_run(location, study, bars.show)
    rows = [asdict(work) for work in works]
    counts = Counter(work.state for work in works)
    idle = counts[CURRENT] == len(works)
    if not (idle and output.drawn):
        show_lines(rows, _COLUMNS, output, _SIZES, ("documents", "bytes", "rows", "shards", "tokens", "why"))
    if idle:
        say("everything is up to date")
    else:
        say("an ingest would find " + ", ".join(f"{n} {state}" for state, n in counts.items()))
