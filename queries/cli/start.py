"""The program `saeql`: starts the process of a query first, then imports what reads the command line.

The two then load what they need side by side; a process that no query came for ends with its caller.
"""

import os
import sys


def main() -> None:
    """Run the command line of this process."""
    try:
        start_early(sys.argv[1:])
        from queries.cli.main import main as command_line
    except KeyboardInterrupt:
        os._exit(130)
    command_line()


def start_early(arguments: list[str]) -> None:
    """Start the process of a query if the command is one; not for an address, whose password is hidden first."""
    if asks(arguments) and not any("://" in argument for argument in arguments):
        from queries.door import prepare
        from queries.lean import without_numpy

        prepare()
        without_numpy()


def asks(arguments: list[str]) -> bool:
    """Whether the command is `sql`.

    >>> asks(["-C", "demo", "sql", "SELECT 1"]), asks(["search", "sql"]), asks(["sql", "--help"])
    (True, False, False)
    """
    words = iter(arguments)
    for word in words:
        if word in ("-C", "--catalog"):
            next(words, None)
        elif not word.startswith("-"):
            return word == "sql" and not {"-h", "--help"} & set(arguments)
    return False
