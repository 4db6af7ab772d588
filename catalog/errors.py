"""Every error that saeql raises on purpose. A message says what, where, which value, and what to do."""


class SaeqlError(Exception):
    """Base of all saeql errors; the command line prints its message and exits with `exit_code`."""

    exit_code = 1


class InputError(SaeqlError):
    """Text, a model, a checkpoint or a file that cannot be used as it is."""


class QueryStopped(InputError):
    """A query that was ended: over its time or its memory, or because the engine crashed in it."""


class StudyError(SaeqlError):
    """A study file with mistakes: all of them, each with its key's path."""

    exit_code = 2


class QueryRefused(SaeqlError):
    """A statement that the read-only allow-list does not pass."""

    exit_code = 2


class EndpointRefused(SaeqlError):
    """An endpoint that a catalog names and nobody allowed on this machine; nothing was sent to it."""

    exit_code = 2


class UnknownName(SaeqlError):
    """A name that is not in the catalog; the message lists the known ones."""

    exit_code = 2


class CatalogError(SaeqlError):
    """The catalog on disk is missing, damaged, or made by a newer version."""


_STRANGE = "do not use it; ask who made it for a whole copy. If a newer saeql made it, install that one"


class ForeignCatalog(CatalogError):
    """A catalog that holds what saeql never puts there. Nothing of it was read."""

    found: tuple[str, ...] = ()
    """The mistakes that were found in it, a sentence each."""

    @classmethod
    def of(cls, where: str, found: list[str], advice: str = _STRANGE) -> "ForeignCatalog":
        """The error with what was found in `where`, and what to do."""
        listed = "".join(f"\n  {said}" for said in found)
        error = cls(f"{where} is not as saeql makes it, and nothing of it was read:{listed}\n{advice}")
        error.found = tuple(found)
        return error


class InputsMoved(CatalogError):
    """What a commit was made from has changed meanwhile; nothing of it was kept."""


class CatalogLocked(SaeqlError):
    """Another process is writing; the message names it."""

    exit_code = 4


class StepError(SaeqlError):
    """A refresh step that cannot run or whose output breaks its contract."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class if it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
