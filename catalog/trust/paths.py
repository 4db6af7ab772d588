"""Refuses paths that a catalog names and that do not lie under its own folder.

A catalog passed on by somebody else could name a file of its reader: `../../notes`, an absolute path, or a link that
leads there. So a name from a table becomes a path through `inside` alone, and `links` finds what leads out of a folder.
"""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from catalog.errors import CatalogError

FOLLOW = "SAEQL_FOLLOW_LINKS"
"""The environment's word of a person who put links into a catalog's folder: 1."""
_OWN = re.compile(r"(data|vectors|weights|cache|(catalog|answers)\.(sqlite|postgres).*|.*\.lock)$")
"""Entries of a catalog's folder that saeql itself makes."""


def inside(home: Path, name: str) -> Path:
    """The path of `name` under the folder `home`; the file need not be there.

    Raises CatalogError for a name that is empty, absolute, holds `..` or NUL, or leads out of `home` through a link.

    >>> inside(Path("/catalog/weights"), "sae-1").as_posix()
    '/catalog/weights/sae-1'
    """
    parts = name.split("/")
    if not name or "\0" in name or "\\" in name or "://" in name or any(part in ("", ".", "..") for part in parts):
        raise CatalogError(
            f"the catalog names {name!r}, which is no path under {home}: damaged, or altered; see `saeql doctor`"
        )
    path = home / name
    if not follows() and not path.resolve().is_relative_to(home.resolve()):
        raise CatalogError(
            f"the catalog names {name!r}, and a link leads from there out of {home}: "
            f"put the files themselves there, or set {FOLLOW}=1 if the link is yours"
        )
    return path


def follows() -> bool:
    """Whether the user said that links in catalogs are theirs."""
    return os.environ.get(FOLLOW) == "1"


def links(root: Path) -> Iterator[str]:
    """Entries of a catalog in the folder `root` that are neither files nor folders: a sentence each.

    Nothing is opened, and no link is followed. What else a person keeps in the folder, a study or text, is theirs.
    """
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            continue  # another process cleaned it up, or there is no catalog, which is said elsewhere
        except OSError as error:
            yield f"{os.fspath(folder)!r} cannot be listed: {error.strerror}"
            continue
        for entry in entries:
            if folder == root and not _OWN.match(entry.name):
                continue
            if entry.is_symlink():
                yield f"{entry.path!r} is a link, to {os.readlink(entry.path)!r}"
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
            elif not entry.is_file(follow_symlinks=False):
                yield f"{entry.path!r} is {_kind(entry)}, not a file"


def _kind(entry: "os.DirEntry[str]") -> str:
    try:
        mode = entry.stat(follow_symlinks=False).st_mode
    except OSError:
        return "gone"
    return "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
