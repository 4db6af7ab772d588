"""Words failures that no command foresaw: of the machine, of the engine, and bugs."""

import errno
import os
import traceback
from collections.abc import Sequence

from catalog.errors import InputError, first_line

_ADVICE = {
    errno.EROFS: "the file system can only be read: copy the catalog to a place that can be written",
    errno.EACCES: "you may not: see its owner and permissions",
    errno.EPERM: "you may not: see its owner and permissions",
    errno.ENOSPC: "make room on the disk, run again",
    errno.EDQUOT: "make room in your quota, run again",
    errno.EMFILE: "too many files are open: raise `ulimit -n`",
    errno.ELOOP: "a link leads to itself",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def told(error: BaseException) -> str | None:
    """A sentence for an error that is no bug of saeql: of the file system, the engine, memory. None for a bug."""
    if isinstance(error, OSError):
        return _system(error)
    if isinstance(error, MemoryError):
        return "the memory does not suffice: close other programs, or ask for less at a time"
    kinds = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}
    # The engine's modules are imported only by commands that need them.
    if kinds & {"duckdb.Error", "_duckdb.Error"}:
        return f"the engine could not read the catalog: {first_line(error)}; `saeql doctor` says what is damaged"
    if "sqlite3.Error" in kinds:
        return f"a file of the catalog cannot be read: {first_line(error)}; `saeql doctor` says what is damaged"
    if "pyo3_runtime.PanicException" in kinds:
        return f"a library broke down over a file of the catalog: {first_line(error)}; see `saeql doctor`"
    return None


def described_bug(error: BaseException) -> str:
    """The traceback of an error that nobody foresaw, and what to do with it."""
    trace = "".join(traceback.format_exception(error)).rstrip()
    return (
        f"{trace}\nsaeql: this is a bug in saeql ({type(error).__name__}): please report it with the lines above; "
        "what was committed is kept"
    )


def argument_problem(arguments: Sequence[object]) -> str | None:
    """What is wrong with the bytes of a command line: every argument is UTF-8, without a NUL."""
    for argument in map(str, arguments):
        try:
            argument.encode()
        except UnicodeEncodeError:
            return f"the argument {argument!r} is not UTF-8: type it anew, or rename the file that it names"
        if "\0" in argument:
            return f"the argument {argument!r} has a NUL character, which no name or query may have"
    return None


def check_folder() -> None:
    """Raise InputError if the current folder was deleted: neither we nor the engine can find a path from there."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise InputError("the current folder was deleted: change to another one (`cd`)") from error


def _system(error: OSError) -> str:
    reason = error.strerror or first_line(error)
    advice = _ADVICE.get(error.errno or 0, "")
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    return f"{where}{reason}" + (f"; {advice}" if advice else "")


__all__ = ["argument_problem", "check_folder", "described_bug", "told"]
