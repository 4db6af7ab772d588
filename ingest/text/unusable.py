"""Counts text that cannot be used, by reason."""

from collections import Counter
from dataclasses import dataclass

from catalog.study.text import Corpus

LeftOut = Counter[tuple[str, str]]
"""(subject, reason) -> how many."""

_NAMED = 100
"""Lines of a file that are named one by one under each reason; the rest are counted under the file."""


@dataclass(frozen=True)
class Unusable:
    """What stands for the text of a place that has none."""

    reason: str
    """Why, in the same words for every such place."""
    detail: str = ""
    """What is wrong with this one, and what to do."""


class Skips:
    """Counts what is left out, by place."""

    def __init__(self, left_out: LeftOut):
        self._left_out = left_out
        self._named: LeftOut = Counter()

    def add(self, place: str, reason: str) -> None:
        """Leave out what stands at this place, such as `notes.jsonl:7`."""
        name, colon, number = place.rpartition(":")
        if colon and number.isdigit():
            self._named[name, reason] += 1
            if self._named[name, reason] > _NAMED:
                place = name
        self._left_out[place, reason] += 1


def is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def decoded(raw: bytes, where: str, offset: int) -> str | Unusable:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        at = f"byte 0x{raw[error.start]:02x} at offset {offset + error.start}"
        return Unusable("text that is not UTF-8", f"{where} is not UTF-8: {at}; convert the file")


def too_long(where: str, corpus: Corpus) -> Unusable:
    limit = f"{corpus.max_line_bytes:,} bytes"
    return Unusable(f"text of more than {limit}", f"{where} is longer than {limit}: set `max_line_bytes`")
