"""Reads the licences of installed packages: prose of law that stands on every machine, each paragraph once.

Files are those that a package's metadata lists; nothing is imported. Many packages carry the same licence, in other
line breaks: a paragraph whose words an earlier file has is left out.
"""

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

from catalog.errors import InputError
from ingest.text.unusable import LeftOut

REPEATED = "a paragraph that an earlier licence has"
MOST = 4000
"""Characters of a document: a file of many licences is many documents."""
_NAMED = re.compile(r"licen[cs]e|copying|notice", re.IGNORECASE)
_CODE = (".py", ".pyc", ".pyi", ".json", ".html", ".so", ".h")
_PARAGRAPHS = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")


def licensed(packages: tuple[str, ...]) -> list[Distribution]:
    """The distributions of these names, or all that are installed, by name. Raises InputError for an unknown one."""
    if not packages:
        found = {name.casefold(): one for one in distributions() if (name := one.name)}
        return [found[name] for name in sorted(found)]
    chosen = []
    for package in packages:
        try:
            chosen.append(distribution(package))
        except (PackageNotFoundError, ValueError) as error:
            raise InputError(
                f"package {package!r} is not installed, so it has no licence to read: install it, or name another by "
                "the name that `pip list` shows"
            ) from error
    return chosen


def licences(packages: tuple[str, ...], left_out: LeftOut) -> Iterator[tuple[str, str]]:
    """(package/file, text) of at most `MOST` characters each, where no paragraph is longer.

    Paragraphs that an earlier file has are counted in `left_out` under their package, and so are files that cannot be
    read.
    """
    seen: set[str] = set()
    for one in licensed(packages):
        # Each look at it parses the package's metadata.
        name = one.name
        for path in licence_files(one):
            try:
                text = path.read_text(encoding="utf-8-sig")
            except UnicodeDecodeError:
                left_out[f"{name}/{path.name}", "text that is not UTF-8"] += 1
                continue
            except OSError:
                left_out[f"{name}/{path.name}", "a file that cannot be read"] += 1
                continue
            fresh: list[str] = []
            for paragraph in filter(str.strip, _PARAGRAPHS.split(text)):
                words = " ".join(re.findall(r"\w+", paragraph.casefold()))
                if words in seen:
                    # Rulers have no word; nobody misses the second one.
                    left_out[name, REPEATED] += bool(words)
                    continue
                seen.add(words)
                fresh.append(paragraph.strip("\n"))
            yield from ((f"{name}/{path.name}", part) for part in _parts(fresh))


def licence_files(one: Distribution) -> list[Path]:
    """The licences that a distribution lists, in sorted order; of authors and code nothing."""
    listed = [file for file in one.files or () if _NAMED.match(file.name) and file.suffix not in _CODE]
    paths = [Path(str(one.locate_file(file))) for file in sorted(listed, key=lambda file: file.as_posix())]
    return [path for path in paths if path.is_file()]


def _parts(paragraphs: list[str]) -> Iterator[str]:
    """Paragraphs in order, as many together as fit `MOST`."""
    part: list[str] = []
    for paragraph in paragraphs:
        if part and sum(map(len, part)) + 2 * len(part) + len(paragraph) > MOST:
            yield "\n\n".join(part)
            part = []
        part.append(paragraph)
    if part:
        yield "\n\n".join(part)
